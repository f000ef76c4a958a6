"""Tensors that say they lie on a GPU, compute on the CPU, and refuse what a GPU's tensors refuse; no GPU, no driver.

Shows devices: a mix of two, a CPU generator for a GPU's tensor, ``numpy()`` without ``cpu()``, and which GPUs are touched at all.
Says nothing of numbers, races, speed or gradients.

    with emulated(4) as gpus:
        find(embeddings, {"device": "cuda:2"}, k=3)
    assert gpus.touched == {2}

``gpus.waits`` names what would have had the CPU wait for a GPU: a tensor brought back, a number asked for, a copy that blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

GPUS = SimpleNamespace(current=0, touched=set(), waits=[])
QUESTIONS = {"size", "stride", "dim", "numel", "storage_offset", "is_floating_point", "is_contiguous", "__len__", "__hash__"} | {
    *("ndimension", "element_size", "is_complex", "__repr__", "__format__", "shape", "dtype", "ndim"),
}
"""What is asked of a tensor itself, not of its numbers."""
ASK = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero"}
"""What a GPU has to be done for."""


def device_of(word: Any) -> torch.device:
    device = torch.device(word)
    return torch.device("cuda", GPUS.current) if device.type == "cuda" and device.index is None else device


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it lies on a GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: Any) -> OnGpu:
        device = device_of(device)
        GPUS.touched.add(device.index)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
        )
        made.inner = inner.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, dict(kwargs or {}))


def bare(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else value


def computed(func: Any, args: Any, kwargs: dict[str, Any], target: torch.device | None = None) -> Any:
    """Computes on the CPU, and returns tensors of the one device that all that are not single numbers share."""
    flat = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    ours = [value for value in flat if isinstance(value, OnGpu)]
    name = getattr(func, "__name__", str(func))
    copying = "copy" in name
    devices = {value.device for value in ours}
    others = [value for value in flat if not isinstance(value, OnGpu) and value.dim() > 0]
    if not copying and (len(devices) > 1 or (ours and others and not _is_index(name, others))):
        raise RuntimeError(f"{name}: tensors on {sorted(map(str, devices))}{' and on the CPU' * bool(others)}")
    if kwargs.get("device") is not None:
        target = device_of(kwargs["device"])
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    target = target or next(iter(devices))
    back = {id(value.inner): value for value in ours}
    out = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    if copying and isinstance(args[0], torch.Tensor) and name.startswith("copy_"):
        return args[0]
    if target.type == "cpu":
        return out

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnGpu):
            return value
        return back.get(id(value)) if id(value) in back else OnGpu(value, target)

    return tree_map(placed, out)


def _is_index(name: str, others: list[torch.Tensor]) -> bool:
    """Whole numbers and marks of the CPU may index a tensor of a GPU."""
    return "index" in name and all(not value.is_floating_point() for value in others)


class Generator(torch.Generator):
    """Says which device it was made for."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Any = super().__new__(cls)
        made.made_for = device_of(device).type
        return made


class Mode(TorchFunctionMode):
    """Sees every call of torch's, also those that make a tensor on a GPU out of none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {key: value for key, value in (kwargs or {}).items() if key != "pin_memory"}
        ours = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, OnGpu)]
        asked = kwargs.get("device")
        makes = isinstance(asked, (str, torch.device, int)) and device_of(asked).type == "cuda"
        generator = kwargs.get("generator")
        if isinstance(generator, Generator) and generator.made_for != ("cuda" if ours or makes else "cpu"):
            raise RuntimeError(f"a generator for {generator.made_for!r} beside tensors elsewhere")
        if func in MOVES:
            return MOVES[func](*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "_has_compatible_shallow_copy_type":
            return False  # module.to makes new parameters
        if not ours and not makes:
            return func(*args, **kwargs)
        if name == "__get__" and func.__self__.__name__ in ("device", "is_cuda", "requires_grad", "layout"):
            return func(*args, **kwargs)
        if name in QUESTIONS:
            return func(*map(bare, args), **kwargs)
        if name in ASK:
            GPUS.waits.append(name)
        return HERE[func](*args, **kwargs) if func in HERE else computed(func, args, kwargs)


def _as_numpy(*args: Any, **kwargs: Any) -> Any:
    raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu() first")


def _new_tensor(tensor: torch.Tensor, values: Any, **kwargs: Any) -> torch.Tensor:
    return OnGpu(torch.tensor(values, dtype=kwargs.get("dtype") or tensor.dtype), tensor.device)


def _taken(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    _check_one_device(tensor, index)
    return OnGpu(bare(tensor)[tree_map(bare, index)], tensor.device)


def _put(tensor: torch.Tensor, index: Any, value: Any) -> None:
    _check_one_device(tensor, (index, value))
    bare(tensor)[tree_map(bare, index)] = bare(value)


def _check_one_device(tensor: torch.Tensor, parts: Any) -> None:
    for part in tree_flatten(parts)[0]:
        if isinstance(part, OnGpu) and part.device != tensor.device:
            raise RuntimeError(f"an index or a value on {part.device} for a tensor on {tensor.device}")


def _moved(tensor: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
    """``Tensor.to`` in its three forms."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for word in (*rest, kwargs.get("other")):
        if isinstance(word, torch.Tensor):
            device, dtype = word.device, word.dtype
        elif isinstance(word, (str, torch.device)):
            device = word
        elif isinstance(word, torch.dtype):
            dtype = word
    target = tensor.device if device is None else device_of(device)
    if tensor.device == target and dtype in (None, tensor.dtype):
        return tensor
    if tensor.device != target and not kwargs.get("non_blocking"):
        GPUS.waits.append(f"{tensor.device} to {target}")
    moved = bare(tensor).detach().clone().to(dtype or tensor.dtype)
    return moved if target.type == "cpu" else OnGpu(moved, target)


def _on_the_cpu(tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, OnGpu):
        GPUS.waits.append("cpu()")
    return bare(tensor).clone() if isinstance(tensor, OnGpu) else tensor


def _itself(tensor: torch.Tensor, *args: Any) -> torch.Tensor:
    return tensor


MOVES = {
    torch.Tensor.to: _moved,
    torch.Tensor.cpu: _on_the_cpu,
    torch.Tensor.pin_memory: _itself,
    torch.Tensor.record_stream: _itself,
}
HERE = {
    torch.Tensor.numpy: _as_numpy,
    torch.Tensor.__array__: _as_numpy,
    torch.Tensor.new_tensor: _new_tensor,
    torch.Tensor.__getitem__: _taken,
    torch.Tensor.__setitem__: _put,
}
"""Of tensors on a GPU."""


class Event:
    def __init__(self, **kwargs: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        assert stream is not None, "an event is recorded on the stream of the rows' own device"

    def synchronize(self) -> None:
        pass


class Current:
    """``torch.cuda.device``: since CUDA 12 a GPU has a context, some hundred MB of its memory, once it is the current one."""

    def __init__(self, device: Any) -> None:
        self._index = device_of(device).index

    def __enter__(self) -> None:
        GPUS.touched.add(self._index)
        self._before, GPUS.current = GPUS.current, self._index

    def __exit__(self, *error: object) -> None:
        GPUS.current = self._before


@contextmanager
def emulated(count: int, *, capability: tuple[int, int] = (9, 0)) -> Iterator[SimpleNamespace]:
    """Within the block torch has GPUs; yields which of them were touched.

    Args:
        count: Number of GPUs.
        capability: Of each.
    """
    GPUS.current, GPUS.touched, GPUS.waits = 0, set(), []
    places = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: GPUS.current,
        "device": Current,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "get_rng_state_all": list,
        "set_rng_state_all": lambda states: None,
        "empty_cache": lambda: None,
        "synchronize": lambda *device: None,
        "get_device_capability": lambda *device: capability,
        "Event": Event,
        "current_stream": lambda device=None: SimpleNamespace(device=device_of("cuda" if device is None else device)),
        "is_bf16_supported": lambda *args, **kwargs: True,
    }
    with ExitStack() as stack:
        for name, value in places.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch, "Generator", Generator))
        stack.enter_context(Mode())
        yield GPUS
