"""What this machine's FAISS is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Faiss:
    """What ``import faiss`` brings here.

    Attributes:
        version: Its version, or ``None`` when it cannot be imported.
        package: Distributions that provide it: ``faiss-cpu``, ``faiss-gpu``, both, or another build.
        gpus: GPUs that it can use.
        cagra: Whether it has the CAGRA index (cuVS builds).
        reason: Why it cannot be imported, or the empty string.
    """

    version: str | None
    package: str
    gpus: int
    cagra: bool
    reason: str

    def __str__(self) -> str:
        if self.version is None:
            return f"FAISS: not there ({self.reason})"
        return f"FAISS {self.version} from {self.package}, {self.gpus} GPU(s), CAGRA {'yes' if self.cagra else 'no'}"


@lru_cache(maxsize=1)
def installed_faiss() -> Faiss:
    """Imports FAISS if it is there. ``faiss-cpu`` and ``faiss-gpu`` are the same module, and overwrite each other."""
    names = [name for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs") if _installed(name)]
    package = " and ".join(names) or "another build"
    try:
        import faiss
    except (ImportError, RuntimeError, OSError) as error:  # faiss-gpu without CUDA's libraries raises RuntimeError
        return Faiss(version=None, package=package, gpus=0, cagra=False, reason=str(error))
    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    return Faiss(
        version=faiss.__version__,
        package=package,
        gpus=gpus,
        cagra=hasattr(faiss, "GpuIndexCagra") and gpus > 0,
        reason="",
    )


def load_faiss() -> Any:
    """Imports FAISS; untyped, because its stubs lack half of what the module holds."""
    import faiss

    return faiss


def faiss_missing(*, gpu: bool = False, cagra: bool = False) -> str | None:
    """Returns why a FAISS backend cannot run here and what to install, or ``None``."""
    found = installed_faiss()
    if found.version is None:
        return f"FAISS cannot be imported ({found.reason}). Install it: pip install 'solo-gps[{'gpu' if gpu else 'cpu'}]'"
    if found.package == "faiss-cpu and faiss-gpu":
        return (
            "faiss-cpu and faiss-gpu are both installed and overwrite each other's module 'faiss'. Uninstall both, then install "
            "one: pip install 'solo-gps[cpu]' or pip install 'solo-gps[gpu]'"
        )
    if gpu and not found.gpus:
        if "gpu" in found.package:
            return f"{found} sees no GPU: it needs an NVIDIA driver and a GPU that is visible (CUDA_VISIBLE_DEVICES)."
        return f"{found} cannot use a GPU. Uninstall faiss-cpu, then: pip install 'solo-gps[gpu]' (needs an NVIDIA driver)"
    if cagra and not found.cagra:
        return f"{found} has no CAGRA index; builds with cuVS do (conda: faiss-gpu-cuvs). Use faiss_ivf or faiss_hnsw."
    return None


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
