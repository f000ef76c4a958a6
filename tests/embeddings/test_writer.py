"""The writer reads rows only when their copy from the GPU has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from solo_gps.embeddings.build import _Writer
from solo_gps.embeddings.partial import Partial
from solo_gps.priors.config import PixelsConfig
from solo_gps.priors.pixels import PixelsEncoder


class Rows:
    """(B, D) rows that say that they lie on a GPU which is not the current one."""

    device = torch.device("cuda", 3)
    dtype = torch.float32
    shape = torch.Size((2, 3))


def test_the_event_is_recorded_on_the_stream_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived: list[Any] = []

    class Event:
        def record(self, stream: Any = None) -> None:
            self.stream = ("stream", 0) if stream is None else stream  # without one, the current device's

        def synchronize(self) -> None:
            if self.stream == ("stream", 3):
                for host in arrived:
                    torch.Tensor.copy_(host, torch.ones(2, 3))

    class Pinned(torch.Tensor):
        def copy_(self, rows: Any, non_blocking: bool = False) -> Any:
            assert isinstance(rows, Rows)
            assert non_blocking
            arrived.append(self.as_subclass(torch.Tensor))
            return self

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, **_: empty(shape).zero_().as_subclass(Pinned))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream", 0 if device is None else device.index))
    partial = Partial(tmp_path, (2, 3), "float32")
    partial.create()
    with partial, _Writer(partial, PixelsEncoder(PixelsConfig())) as writer:
        writer.put(0, Rows(), b"")  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), np.ones((2, 3)))
