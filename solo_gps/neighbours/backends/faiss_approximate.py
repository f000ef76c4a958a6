"""Approximate search by FAISS: inverted lists, a graph of small worlds, and CAGRA on the GPU. Recall is measured by the core."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from solo_gps.neighbours.backend import Candidates, SearchBackend
from solo_gps.neighbours.backends.faiss_here import faiss_missing, load_faiss
from solo_gps.neighbours.config import SearchConfig
from solo_gps.runtime.devices import pick_device

# Points that FAISS's k-means wants for each list, and more than which it would not use.
TRAINING_POINTS = 64


class Approximate(SearchBackend):
    """A FAISS index with one number that trades time for recall."""

    exact = False
    effort: int
    largest_effort: int

    @classmethod
    def missing(cls, config: SearchConfig) -> str | None:
        """FAISS must be there."""
        return faiss_missing()

    def fit(self, points: np.ndarray) -> None:
        """Builds the index."""
        self.points = points
        self.index = self._build(points)

    def candidates(self, rows: np.ndarray, count: int) -> Candidates:
        """What the index finds at the present effort."""
        indices = self.index.search(self.points[rows], count, params=self._parameters(count))[1]
        return Candidates(indices=indices, reach=None)

    def surplus(self, count: int) -> int:
        """None: candidates come with float32 distances already."""
        return count

    def rows_per_block(self, points: int, count: int) -> int:
        """Only the results take memory here."""
        return max(1, min(65536, self.config.budget("cpu") // (64 * count)))

    def raise_effort(self) -> bool:
        """Doubles the effort."""
        before, self.effort = self.effort, min(2 * self.effort, self.largest_effort)
        return self.effort > before

    @abstractmethod
    def _build(self, points: np.ndarray) -> Any:
        """Returns the index over (U, D) points, and sets ``effort`` and ``largest_effort``."""

    @abstractmethod
    def _parameters(self, count: int) -> Any:
        """Returns FAISS's search parameters for the present effort."""


class FaissIvf(Approximate):
    """Points in lists around k-means centres; ``effort`` is the number of lists looked into. The same result in every run."""

    def settings(self) -> dict[str, object]:
        """Lists and effort asked for (the cache key), then those in use."""
        used = {"nlist": self.index.nlist, "nprobe": self.effort} if hasattr(self, "index") else {}
        return {"lists": self.config.lists, "effort": self.config.effort, **used}

    def _build(self, points: np.ndarray) -> Any:
        faiss = load_faiss()
        total, columns = points.shape
        lists = min(self.config.lists or max(1, int(4 * total**0.5)), total)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(columns), columns, lists)
        index.cp.seed = (self.config.seed + 1) % 2**31  # FAISS takes 31 bits
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = TRAINING_POINTS
        index.cp.niter = 10
        index.train(points)
        index.add(points)
        self.largest_effort = lists
        self.effort = min(self.config.effort or max(8, lists // 128), lists)
        return index

    def _parameters(self, count: int) -> Any:
        faiss = load_faiss()
        return faiss.SearchParametersIVF(nprobe=self.effort)


class FaissHnsw(Approximate):
    """A graph of small worlds (Malkov and Yashunin, arXiv 1603.09320); ``effort`` is efSearch.

    Built by all threads at once, in whatever order they come: two runs may differ in a few neighbours.
    """

    def settings(self) -> dict[str, object]:
        """Links and effort asked for (the cache key), then the effort in use."""
        used = {"efSearch": self.effort} if hasattr(self, "index") else {}
        return {"links": self.config.links, "effort": self.config.effort, **used}

    def _build(self, points: np.ndarray) -> Any:
        faiss = load_faiss()
        index = faiss.IndexHNSWFlat(points.shape[1], self.config.links)
        index.hnsw.efConstruction = max(80, 4 * self.config.links)
        index.add(points)
        self.largest_effort = len(points)
        self.effort = min(self.config.effort or 64, self.largest_effort)
        return index

    def _parameters(self, count: int) -> Any:
        faiss = load_faiss()
        return faiss.SearchParametersHNSW(efSearch=max(self.effort, count))


class FaissCagra(Approximate):
    """CAGRA, a graph built and searched on the GPU (Ootomo et al., arXiv 2308.15136); ``effort`` is itopk_size."""

    @classmethod
    def missing(cls, config: SearchConfig) -> str | None:
        """A FAISS built with cuVS and a GPU must be there."""
        return faiss_missing(gpu=True, cagra=True)

    def settings(self) -> dict[str, object]:
        """Links and effort asked for (the cache key), then the effort in use."""
        used = {"itopk_size": self.effort} if hasattr(self, "index") else {}
        return {"links": self.config.links, "effort": self.config.effort, **used}

    def _build(self, points: np.ndarray) -> Any:
        faiss = load_faiss()
        self.device = pick_device("cuda")
        options = faiss.GpuIndexCagraConfig()
        options.device = torch.device(self.device).index
        options.graph_degree = 2 * self.config.links
        options.intermediate_graph_degree = 4 * self.config.links
        self._resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexCagra(self._resources, points.shape[1], faiss.METRIC_L2, options)
        index.train(points)
        self.largest_effort = 1024
        self.effort = min(self.config.effort or 64, self.largest_effort)
        return index

    def _parameters(self, count: int) -> Any:
        faiss = load_faiss()
        options = faiss.SearchParametersCagra()
        # cuVS wants a multiple of 32, no smaller than the number of neighbours.
        options.itopk_size = -(-max(self.effort, count) // 32) * 32
        return options
