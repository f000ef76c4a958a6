"""Exact search by FAISS: its flat search on the CPU, and its brute force on one or all GPUs."""

from __future__ import annotations

import numpy as np
import torch

from solo_gps.neighbours.backend import Candidates, SearchBackend
from solo_gps.neighbours.backends.faiss_here import faiss_missing, installed_faiss, load_faiss
from solo_gps.neighbours.config import SearchConfig
from solo_gps.runtime.devices import pick_device
from solo_gps.runtime.ranks import training_ranks


class FaissFlat(SearchBackend):
    """``faiss.knn`` on the CPU: no index, no copy of the points."""

    exact = True

    @classmethod
    def missing(cls, config: SearchConfig) -> str | None:
        """FAISS must be there."""
        return faiss_missing()

    def fit(self, points: np.ndarray) -> None:
        """Keeps the points and their norms."""
        self.device = "cpu"
        self.points = points
        self.norms = np.sqrt(np.einsum("ud,ud->u", points, points, dtype=np.float64))

    def candidates(self, rows: np.ndarray, count: int) -> Candidates:
        """Nearest by float32 products."""
        faiss = load_faiss()
        squared, indices = faiss.knn(self.points[rows], self.points, count)
        return Candidates(indices=indices, reach=self._reach(rows, squared, 2.0**-24, 0.0))

    def _reach(self, rows: np.ndarray, squared: np.ndarray, unit: float, moved: float) -> np.ndarray:
        """Lower bound of the distance of all other points: (D + 8) roundings of (|x| + |y|)^2, and points moved by storage."""
        error = (self.points.shape[1] + 8) * 2 * unit * (self.norms[rows] + self.norms.max()) ** 2
        return np.sqrt(np.maximum(squared.max(axis=1) - error, 0)) - 2 * moved


class FaissGpu(FaissFlat):
    """A flat index on one or all GPUs: replicas share the queries; shards share the points of sets larger than one GPU."""

    exact = True

    @classmethod
    def missing(cls, config: SearchConfig) -> str | None:
        """A FAISS built for CUDA and as many GPUs as asked for must be there."""
        missing = faiss_missing(gpu=True)
        if missing is None and config.gpus > installed_faiss().gpus:
            return f"search.gpus={config.gpus}, but FAISS sees {installed_faiss().gpus} GPUs. Lower it; 0 takes all."
        return missing

    def fit(self, points: np.ndarray) -> None:
        """Copies the points to the GPUs."""
        faiss = load_faiss()
        super().fit(points)
        self.device = pick_device("cuda")
        options = faiss.GpuMultipleClonerOptions()
        options.shard = self.config.shard
        options.useFloat16 = self.config.float16
        flat = faiss.IndexFlatL2(points.shape[1])
        if training_ranks(self.config.distributed).world > 1:  # each rank has a share of the queries, and a GPU of its own
            self._resources = faiss.StandardGpuResources()
            self.index = faiss.index_cpu_to_gpu(self._resources, torch.device(self.device).index, flat, options)
        else:
            self.index = faiss.index_cpu_to_all_gpus(flat, co=options, ngpu=self.config.gpus or -1)
        self.index.add(points)

    def candidates(self, rows: np.ndarray, count: int) -> Candidates:
        """Nearest by float32 or float16 products on the GPUs."""
        squared, indices = self.index.search(self.points[rows], count)
        # float16 storage moves each of D coordinates (below 1) by at most 2^-11 of itself, so a point by 2^-11 of its norm;
        # small coordinates lose a little more (subnormals, 2^-25 each).
        moved = 2.0**-11 * float(self.norms.max()) + 2.0**-25 * self.points.shape[1] ** 0.5 if self.config.float16 else 0.0
        return Candidates(indices=indices, reach=self._reach(rows, squared, 2.0**-23, moved))

    def surplus(self, count: int) -> int:
        """More where the points are stored as float16."""
        # FAISS on GPUs returns at most 2,048 neighbours.
        return min(2 * count if self.config.float16 else count + 8, max(count, 2048))

    def rows_per_block(self, points: int, count: int) -> int:
        """FAISS tiles the products itself; only the results take memory here."""
        return max(1, min(65536, self.config.budget("cpu") // (32 * count)))
