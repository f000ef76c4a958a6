"""Several priors side by side: each image's embeddings by the parts, every one of length 1 times its weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from solo_gps.interfaces import Embeddings
from solo_gps.priors.base import Encoder
from solo_gps.priors.config import JoinConfig


class JoinEncoder(Encoder):
    """Embeddings of other priors side by side, or the neighbours that they share.

    It reads rows by image index.
    """

    config_class = JoinConfig
    cost = "what its parts cost; the sum of their dimensions"
    reads_images = False

    def take(self, parts: list[Embeddings]) -> None:
        """Takes the (N, D) embeddings of each part, in the order of ``parts``."""
        self.parts = parts

    def identity(self) -> dict[str, Any]:
        """The parts' fingerprints and weights in place of their keys; how neighbours are measured in each where they agree."""
        says = [part.space for part in self.parts] if self.config.agree else self.config.weights
        known = [[part.fingerprint, said] for part, said in zip(self.parts, says, strict=True)]
        return {**super().identity(), "parts": known}

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D1 + D2 + ...) float32, the joined rows of (B,) int64 indices; a row of zeros stays one."""
        index = batch.cpu().numpy()
        rows = []
        for part, weight in zip(self.parts, self.config.weights, strict=True):
            row = np.asarray(part.array[index], np.float64)  # float32 has no room for the square of its large numbers
            length = np.maximum(np.linalg.norm(row, axis=1, keepdims=True), np.finfo(np.float64).tiny)
            rows.append(weight * (row / length))
        return torch.from_numpy(np.concatenate(rows, axis=1).astype(np.float32))
