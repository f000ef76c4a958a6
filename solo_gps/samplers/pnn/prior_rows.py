"""Neighbours chosen in the prior space: the prior's embeddings of the images that the queue shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from solo_gps.errors import HostError
from solo_gps.samplers.pnn.support import NOBODY, euclidean_offset, similarity

if TYPE_CHECKING:
    from solo_gps.samplers.pnn.sampler import Pnn


class PriorRows:
    """Keeps, beside a queue, the prior embedding of each row's image; rows are fetched when their image changes.

    Args:
        sampler: The sampler whose ``embeddings`` are set before the first step.
    """

    def __init__(self, sampler: Pnn) -> None:
        self._sampler = sampler
        self._index = torch.empty(0, dtype=torch.long)
        self._rows = torch.empty(0, 0)
        self._offset: Tensor | None = None

    def scores(self, images: Tensor, index: Tensor) -> Tensor:
        """Returns the (B, Q) similarity, in the prior space, of (B,) images with the (Q,) images of a queue's rows."""
        if not len(index):
            return torch.empty(len(images), 0, device=images.device)
        self._refresh(index)
        return similarity(self._fetch(images), self._rows, self._offset)

    def _refresh(self, index: Tensor) -> None:
        if self._index.device != index.device or len(self._index) > len(index):
            self._index = torch.empty(0, dtype=torch.long, device=index.device)
        if len(self._index) < len(index):
            grown = torch.full_like(index, NOBODY)
            grown[: len(self._index)] = self._index
            rows = torch.zeros(len(index), self._embeddings.shape[1], device=index.device)
            if len(self._index):
                rows[: len(self._index)] = self._rows
            self._index, self._rows = grown, rows
        changed = (self._index != index).nonzero()[:, 0]
        if len(changed):
            self._rows[changed] = self._fetch(index[changed])
            self._index[changed] = index[changed]
            self._offset = None if self._cosine else euclidean_offset(self._rows)

    def _fetch(self, images: Tensor) -> Tensor:
        rows = np.asarray(self._embeddings[images.cpu().numpy()], dtype=np.float32)
        fetched = torch.from_numpy(rows).to(images.device)
        return normalize(fetched, dim=1) if self._cosine else fetched

    @property
    def _cosine(self) -> bool:
        assert self._sampler.embeddings is not None
        return self._sampler.embeddings.space == "cosine"

    @property
    def _embeddings(self) -> np.ndarray:
        if self._sampler.embeddings is None:
            raise HostError(
                "sampler.pnn.space=prior: the training loader was not made while solo-gps was switched on, so the images were "
                "never embedded. Make it by solo-learn's prepare_dataloader within the activation."
            )
        return self._sampler.embeddings.array
