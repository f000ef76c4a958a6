"""What a search backend is, and the configuration of a search. Third parties derive from :class:`SearchBackend`."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from solo_gps.config import check_at_least, check_choice, check_seed

if TYPE_CHECKING:
    import numpy as np

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The node ``search`` of a recipe. The metric is no key here: it comes with the embeddings."""

    backend: str = "auto"
    """Name of a registered backend: torch, faiss, faiss_gpu, faiss_ivf, faiss_hnsw, faiss_cagra, or auto."""

    device: str = "auto"
    """Where to compute: cpu, cuda, or auto (CUDA when torch sees a GPU)."""

    memory_mib: int = 256
    """Working memory of a search in MiB, besides the embeddings, their copies and the table; block sizes follow from it."""

    gpu_memory_mib: int = 4096
    """The same on the GPU, where larger blocks are faster."""

    max_ball: int = 1024
    """Radius search: the largest ball allowed, in images. A larger one stops the search with a suggested radius."""

    recall_floor: float = 0.95
    """Approximate backends: lowest recall accepted; below it the effort is raised, then a warning is given."""

    recall_sample: int = 1000
    """Approximate backends: number of randomly drawn images whose neighbours are compared with the exact ones."""

    effort: int = 0
    """Approximate backends: lists probed (IVF), efSearch (HNSW) or itopk (CAGRA) to start from; 0 chooses it."""

    lists: int = 0
    """IVF: number of lists; 0 chooses about 4 times the square root of N."""

    links: int = 16
    """HNSW and CAGRA: links of each node in the graph."""

    gpus: int = 0
    """faiss_gpu: number of GPUs; 0 takes all that are visible."""

    shard: bool = False
    """faiss_gpu on several GPUs: split the points over them (for sets larger than one GPU) instead of replicating them."""

    float16: bool = False
    """faiss_gpu: store points as float16. Candidates only: distances of the table are float32 either way."""

    seed: int = 0
    """Seed of the recall sample and of the clustering inside IVF."""

    distributed: bool = True
    """Share the queries among the ranks when torch.distributed is initialised; then every rank must call the search."""

    def __post_init__(self) -> None:
        check_choice("device", self.device, DEVICES)
        for key, least in (
            ("memory_mib", 16),
            ("gpu_memory_mib", 16),
            ("max_ball", 1),
            ("recall_sample", 1),
            ("links", 4),
        ):
            check_at_least(key, getattr(self, key), least)
        for key in ("effort", "lists", "gpus"):
            check_at_least(key, getattr(self, key), 0)
        check_seed(self.seed)
        if not 0 <= self.recall_floor <= 1:
            raise ValueError(f"recall_floor={self.recall_floor} must be between 0 and 1.")

    def budget(self, device: str) -> int:
        """Returns the working memory in bytes on ``"cpu"`` or ``"cuda"``."""
        return (self.memory_mib if device == "cpu" else self.gpu_memory_mib) << 20

    def with_backend(self, name: str) -> SearchConfig:
        """Returns a copy in which ``auto`` is replaced by the backend chosen."""
        return dataclasses.replace(self, backend=name)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a backend found for B rows.

    Attributes:
        indices: (B, C) integer rows of the candidates, -1 where none, best first as far as the backend knows. The row itself may
            be among them.
        reach: (B,) float32 or float64, or ``None`` from an approximate backend. A promise: every point that is NOT among the
            candidates of a row lies at least this Euclidean distance (not squared) away from it.
        least: (B, C) lower bound of the Euclidean distance of each candidate, or ``None``. Saves work: a candidate that cannot be
            among the nearest is not measured.
    """

    indices: np.ndarray
    reach: np.ndarray | None
    least: np.ndarray | None = None


class SearchBackend(ABC):
    """Finds candidates; the core re-ranks them with one fixed float32 formula, so that equal candidates give equal tables.

    A backend sees prepared points only: float32, contiguous, finite, no two rows equal, centred and scaled so that the largest
    norm is below 1, and of unit length before the centring when the space is cosine. Squared Euclidean distance is therefore the
    only metric. An exact backend proves its candidates by ``Candidates.reach``; rows whose proof fails are completed by the core.
    """

    exact: ClassVar[bool] = True
    """Whether :meth:`candidates` returns ``reach``. An approximate backend has its recall measured instead."""

    device: str = "cpu"
    """Where the core computes distances for this backend, ``"cpu"`` or ``"cuda"``; set by :meth:`fit`."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config

    @classmethod
    def missing(cls, config: SearchConfig) -> str | None:
        """Returns why the backend cannot run here, with what to install, or ``None`` when it can."""
        return None

    @abstractmethod
    def fit(self, points: np.ndarray) -> None:
        """Takes the (U, D) float32 points, builds what it needs. Called once, before anything else."""

    @abstractmethod
    def candidates(self, rows: np.ndarray, count: int) -> Candidates:
        """Returns at least the ``count`` points nearest to each of ``rows``.

        Args:
            rows: (B,) int64 rows of the points; usually consecutive, B at most :meth:`rows_per_block`.
            count: Number C of candidates wanted, at most U. The row itself counts.

        Returns:
            (B, C) candidates.
        """

    def surplus(self, count: int) -> int:
        """Returns how many candidates to ask for so that the nearest ``count`` are (almost surely) among them."""
        return count + 8

    def observe(self, unproven: float) -> None:  # noqa: B027 - optional to override
        """Exact backends: told after each block which share of its rows the core had to complete."""

    def rows_per_block(self, points: int, count: int) -> int:
        """Returns how many rows to ask for at once, within the budget."""
        return max(1, min(4096, self.config.budget("cpu") // (32 * max(count, 1))))

    def raise_effort(self) -> bool:
        """Approximate backends: searches harder from now on. Returns whether there was anything left to raise."""
        return False

    def settings(self) -> dict[str, object]:
        """Approximate backends: what determines the result besides the points; part of the cache key."""
        return {}
