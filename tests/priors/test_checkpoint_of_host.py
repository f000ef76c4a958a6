"""A checkpoint that the installed solo-learn wrote gives the embeddings of its own backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms

from solo_gps.embeddings import embed


@pytest.mark.host
def test_solo_learn_checkpoint_equals_its_online_backbone(
    digit_images: Any,
    tmp_path: Path,
    recipe: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    pytest.importorskip("solo")
    train = request.getfixturevalue("train")
    model = train(recipe("byol", max_epochs=1, max_steps=2)).model.eval()
    model.trainer.save_checkpoint(tmp_path / "model.ckpt")
    backbone = getattr(model, "backbone", None) or model.encoder
    caplog.set_level(logging.INFO, "solo_gps.embeddings")
    digit_images.pixels = digit_images.pixels[:40]
    got = embed(digit_images, {"name": "checkpoint", "path": str(tmp_path / "model.ckpt"), "image_size": 32}).array

    transform = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        wanted = backbone(torch.stack([transform(digit_images.image(index)) for index in range(40)])).numpy()
    difference = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    print(f"largest relative difference of {type(model).__module__}: {difference:.1e}")
    assert difference < 1e-5
    assert "backbone.' stripped" in caplog.text or "encoder.' stripped" in caplog.text
