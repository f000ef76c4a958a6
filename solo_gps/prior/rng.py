"""The global random generators, left exactly as they were found: training stays equal to the last bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def preserved_generators(device: torch.device) -> Iterator[None]:
    """Saves the states of Python's, numpy's and torch's generators, and puts them back at the end.

    Args:
        device: Device of the work inside; when it is CUDA, CUDA is initialised first, so that a pending seed is not lost.
    """
    import numpy as np
    import torch

    if device.type == "cuda":
        torch.cuda.init()
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
