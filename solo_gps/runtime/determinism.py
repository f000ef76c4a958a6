"""What must not depend on the program around it: float32 products, and the global random generators."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

_lock = threading.Lock()
_inside = 0
_before: list[tuple[Any, str, Any]] = []


@contextmanager
def true_float32() -> Iterator[None]:
    """Within the block, float32 products are float32 products, and bfloat16 ones are summed in float32.

    ``torch.set_float32_matmul_precision("medium")``, which Lightning recommends, makes float32 products bfloat16 ones, on the CPU
    too; and CUDA may add partial bfloat16 products in bfloat16. Either would break the proof of an exact search, and would have
    two runs with one fingerprint build two different caches. The settings are the process's own: they come back when the last
    block is left, of whatever thread.
    """
    global _inside
    with _lock:
        if not _inside:
            _before[:] = _set_to_ieee()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restore(_before)


@contextmanager
def plain_float32(device_type: str) -> Iterator[None]:
    """:func:`true_float32` outside of any autocast that the caller may be in.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
    """
    with torch.autocast(device_type, enabled=False), true_float32():
        yield


@contextmanager
def preserved_generators(device: torch.device) -> Iterator[None]:
    """Saves the states of Python's, numpy's and torch's generators, and puts them back at the end.

    Args:
        device: Device of the work inside; when it is CUDA, CUDA is initialised first, so that a pending seed is not lost.
    """
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


@contextmanager
def preserved_flags() -> Iterator[None]:
    """Puts back at the end what Lightning's trainer sets for ``deterministic`` and ``benchmark``, and never takes back."""
    cudnn, variables = torch.backends.cudnn, ("CUBLAS_WORKSPACE_CONFIG", "HOROVOD_FUSION_THRESHOLD")
    algorithms, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    environment = {name: os.environ.get(name) for name in variables}
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn)
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _set_to_ieee() -> list[tuple[Any, str, Any]]:
    """Returns the settings that it changes, each with its value before."""
    backends = torch.backends
    before: list[tuple[Any, str, Any]] = []

    def change(place: Any, name: str, value: Any) -> None:
        before.append((place, name, getattr(place, name)))
        setattr(place, name, value)

    # A pair where torch knows of split products too: a single value read back would lose its second half.
    reduced = torch._C._get_cublas_allow_bf16_reduced_precision_reduction()
    before.append((backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", reduced))
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False) if isinstance(reduced, tuple) else False
    products = [backends.cuda.matmul, getattr(backends.mkldnn, "matmul", None), getattr(backends.mkldnn, "conv", None)]
    if all(_has(place, "fp32_precision") for place in products):
        for place in products:
            change(place, "fp32_precision", "ieee")
    else:
        before.append((torch, "float32_matmul_precision", torch.get_float32_matmul_precision()))
        torch.set_float32_matmul_precision("highest")
    with suppress(RuntimeError):  # the program has set single operations of cuDNN, and torch refuses to mix the two ways
        change(backends.cudnn, "allow_tf32", False)
    for operation in _operations_of_cudnn():
        # What follows a setting for all operations does not follow the one above.
        if operation.fp32_precision not in ("ieee", "none"):
            change(operation, "fp32_precision", "ieee")
    return before


def _operations_of_cudnn() -> list[Any]:
    places = [getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn")]
    return [place for place in places if _has(place, "fp32_precision")]


def _has(place: Any, name: str) -> bool:
    try:
        return hasattr(place, name)
    except AssertionError:  # how torch 2.1 says that there is no such setting
        return False


def _restore(settings: list[tuple[Any, str, Any]]) -> None:
    for place, name, value in settings:
        if place is torch:
            torch.set_float32_matmul_precision(value)
            continue
        if name == "fp32_precision" and place not in _operations_of_cudnn():  # these have values of their own from the start
            # What was only inherited from the setting for all operations must go on following it.
            place.fp32_precision = "none"
            if place.fp32_precision == value:
                continue
        setattr(place, name, value)
