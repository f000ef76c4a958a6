"""Neighbours chosen in the prior space: the prior's embeddings of the images that the queue shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from solo_gps.interfaces import Embeddings
from solo_gps.samplers.pnn.support import NOBODY, euclidean_offset, similarity


class PriorRows:
    """Keeps, beside a queue, the prior embedding of each row's image; rows are fetched when their image changes.

    Args:
        embeddings: Returns the training images in the prior space; called when the first row is fetched, and no earlier.
    """

    def __init__(self, embeddings: Callable[[], Embeddings]) -> None:
        self._embeddings = embeddings
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
            rows = torch.zeros(len(index), self._embeddings().array.shape[1], device=index.device)
            if len(self._index):
                rows[: len(self._index)] = self._rows
            self._index, self._rows = grown, rows
        changed = (self._index != index).nonzero()[:, 0]
        if len(changed):
            self._rows[changed] = self._fetch(index[changed])
            self._index[changed] = index[changed]
            self._offset = None if self._cosine else euclidean_offset(self._rows)

    def _fetch(self, images: Tensor) -> Tensor:
        rows = np.asarray(self._embeddings().array[images.cpu().numpy()], dtype=np.float32)
        fetched = torch.from_numpy(rows).to(images.device)
        return normalize(fetched, dim=1) if self._cosine else fetched

    @property
    def _cosine(self) -> bool:
        return self._embeddings().space == "cosine"
