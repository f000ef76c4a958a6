"""Products and convolutions that are what they say, whatever the program has set for its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def true_float32() -> Iterator[None]:
    """Within the block, float32 work is float32 work, and bfloat16 products are summed in float32.

    ``torch.set_float32_matmul_precision("medium")``, which Lightning recommends, makes float32 products bfloat16 ones, on the CPU
    too; and CUDA may add partial bfloat16 products in bfloat16. Either would break the proof of an exact search, and would have
    two runs with one fingerprint build two different caches. The settings are the process's own and come back afterwards.
    """
    import torch

    backends = torch.backends
    settings: list[tuple[Any, str, Any]] = [(backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False)]
    others = ((backends.mkldnn, "matmul"), (backends.mkldnn, "conv"), (backends.cudnn, "conv"))
    places = [backends.cuda.matmul, *(getattr(backend, operation, None) for backend, operation in others)]
    by_place = all(hasattr(place, "fp32_precision") for place in places)
    if by_place:
        settings += [(place, "fp32_precision", "ieee") for place in places]
    else:
        settings += [(backends.cudnn, "allow_tf32", False)]
        before_all = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    before = [getattr(place, name) for place, name, _ in settings]
    try:
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(settings, before, strict=True):
            setattr(place, name, value)
        if not by_place:
            torch.set_float32_matmul_precision(before_all)
