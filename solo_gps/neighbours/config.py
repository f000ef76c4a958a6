"""The recipe's ``search`` node, and the numbers of neighbours that may be asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from solo_gps.config import LARGEST_SEED, Keys, check_choice, number
from solo_gps.errors import ConfigError, DataError
from solo_gps.runtime.machine import check_fits

DEVICES = ("auto", "cpu", "cuda", "cuda:<n>")
LEAST_MIB = 16
MOST_LINKS = 256  # a node of the graph takes 8 bytes a link, and more than some dozens gain nothing


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Keys):
    """The node ``search`` of a recipe. The metric is no key here: it comes with the embeddings."""

    backend: str = "auto"
    """Name of a registered backend: torch, faiss, faiss_gpu, faiss_ivf, faiss_hnsw, faiss_cagra, or auto."""

    device: str = "auto"
    """Where to compute: cpu, cuda:<n>, cuda (this rank's own GPU), or auto (the same, when torch sees one)."""

    memory_mib: int = number(256, least=LEAST_MIB)
    """Working memory of a search in MiB, besides the embeddings, their copies and the table; block sizes follow from it."""

    gpu_memory_mib: int = number(4096, least=LEAST_MIB)
    """The same on the GPU, where larger blocks are faster."""

    max_ball: int = number(1024, least=1)
    """Radius search: the largest ball allowed, in images. A larger one stops the search with a suggested radius."""

    recall_floor: float = number(0.95, least=0, most=1)
    """Approximate backends: lowest recall accepted; below it the effort is raised, then a warning is given."""

    recall_sample: int = number(1000, least=1)
    """Approximate backends: number of randomly drawn images whose neighbours are compared with the exact ones."""

    effort: int = number(0, least=0)
    """Approximate backends: lists probed (IVF), efSearch (HNSW) or itopk (CAGRA) to start from; 0 chooses it."""

    lists: int = number(0, least=0)
    """IVF: number of lists; 0 chooses about 4 times the square root of N."""

    links: int = number(16, least=4, most=MOST_LINKS)
    """HNSW and CAGRA: links of each node in the graph."""

    gpus: int = number(0, least=0, most=1024)
    """faiss_gpu: number of GPUs; 0 takes all that are visible."""

    shard: bool = False
    """faiss_gpu on several GPUs: split the points over them (for sets larger than one GPU) instead of replicating them."""

    float16: bool = False
    """faiss_gpu: store points as float16. Candidates only: distances of the table are float32 either way."""

    seed: int = number(0, least=0, most=LARGEST_SEED)
    """Seed of the recall sample and of the clustering inside IVF."""

    distributed: bool = True
    """Share the queries among the ranks when torch.distributed is initialised; then every rank must call the search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"cuda:\d{1,3}", self.device):
            check_choice("device", self.device, DEVICES)
        check_fits(f"memory_mib={self.memory_mib}", self.memory_mib << 20, "Lower it.")

    def budget(self, device: str) -> int:
        """Returns the working memory in bytes on ``"cpu"`` or a GPU."""
        return (self.memory_mib if device == "cpu" else self.gpu_memory_mib) << 20


def check_neighbours(images: int, k: int) -> None:
    """Raises :class:`DataError` unless 1 <= k < N."""
    if k < 1:
        raise ConfigError(f"k={k}: wanted at least 1 neighbour.")
    if images == 1:
        raise DataError("1 image has no neighbour. Give at least 2.")
    if k >= images:
        raise DataError(f"k={k} neighbours of N={images} images: each has only {images - 1}. Use k <= {images - 1}.")
    check_fits(f"k={k}: a table of {images:,} x {k:,} neighbours", 16 * images * k, "Use a smaller k.")
