"""Reading weights: solo-learn and Lightning checkpoints, plain state dicts and safetensors, without running any pickled code."""

from __future__ import annotations

import hashlib
import logging
import pickle  # for the name of its error # nosec B403
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from solo_gps.errors import DataError

logger = logging.getLogger("solo_gps.embeddings")

CONTAINERS = ("state_dict", "model", "model_state_dict", "teacher", "student", "network")
"""Keys under which common training programs keep the state dict inside a checkpoint."""
HEADS = ("fc.", "head.", "classifier.", "head_dist.", "last_linear.")
"""A classifier that the embedding does not use may be left over in the file."""


def load_weights(network: torch.nn.Module, path: str, *, where: str) -> None:
    """Fills ``network`` from a file: :func:`read_state`, :func:`best_prefix` and :func:`fill_weights` in one."""
    state = read_state(path, where=where)
    fill_weights(network, state, path=path, where=where, prefix=best_prefix(state, network.state_dict()))


def fill_weights(network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, path: str, where: str, prefix: str) -> None:
    """Fills every weight of ``network``, and logs what was stripped and left over.

    Args:
        network: Network without a classifier.
        state: Tensors by their name in the file.
        path: The file, named in messages.
        where: The configuration key, named in messages.
        prefix: Part of the names to strip, for example ``"backbone."``.

    Raises:
        DataError: The state does not hold every weight of the network in its shape.
    """
    wanted = network.state_dict()
    found = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    wrong = [
        f"{name} {tuple(found[name].shape)} in place of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    if missing or wrong:
        raise DataError(_misfit(path, where, prefix, missing, wrong, state, len(wanted)))
    for name in wanted:
        if name in found and found[name].is_floating_point() and not bool(torch.isfinite(found[name]).all()):
            raise DataError(
                f"{where}: the weights {prefix}{name} in {path} are not finite. Take a checkpoint of before it diverged."
            )
    left = [name for name in found if name not in wanted]
    network.load_state_dict({name: found[name] for name in wanted if name in found}, strict=False)
    logger.info(
        "%s: every weight of the network is taken from %s%s%s",
        where,
        Path(path).name,
        f" (prefix {prefix!r} stripped from its names)" if prefix else "",
        f"; not used: {_some(left)}" if left else "",
    )
    logger.debug("%s: %d tensors taken", where, len(wanted))
    strange = [name for name in left if prefix and not name.startswith(HEADS)]
    if strange:
        logger.warning(
            "%s: %s holds weights that the network has no place for: %s. Check that the architecture is the file's.",
            where,
            Path(path).name,
            _some(strange),
        )


def read_state(path: str, *, where: str) -> dict[str, torch.Tensor]:
    """Reads the state dict of a file.

    Returns:
        Tensors by their name in the file, on the CPU.

    Raises:
        DataError: The file is missing, damaged, or holds objects that only pickled code could rebuild.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{where}: no file {path}.")
    with file.open("rb") as opened:
        start = opened.read(64)
    if not start:
        raise DataError(f"{where}: {path} is empty (0 bytes). Save or download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{where}: {path} is Git LFS's pointer to a file, not the file. Run git lfs pull beside it.")
    is_safetensors = file.suffix == ".safetensors" or start[8:9] == b"{"  # 8 bytes of length, then JSON, whatever its name
    content = _read_safetensors(file, where) if is_safetensors else _read_torch(file, where)
    state = _unwrap(content)
    if not state:
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise DataError(f"{where}: {path} holds no state dict; found: {keys}.")
    return state


def best_prefix(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The prefix (``"backbone."``, ``"module."``, ...) under which most of ``wanted`` is in ``state``; the shortest of equals."""
    scores: dict[str, int] = {"": 0}
    for name in state:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:cut])
                scores[prefix] = scores.get(prefix, 0) + 1
    order = {prefix: place for place, prefix in enumerate(scores)}
    return max(scores, key=lambda prefix: (scores[prefix], "momentum" not in prefix, -len(prefix), -order[prefix]))


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a state dict (names, types, shapes and values, in order of the names), in hex."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(file: Path, where: str) -> dict[str, torch.Tensor]:
    try:
        return load(file.read_bytes())  # by Python: safetensors itself knows no path that is not UTF-8
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{where}: {file} is no safetensors file, or a damaged one ({error}). Save or download it again."
        ) from error


def _read_torch(file: Path, where: str) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of any type, by what stands in the file
        # torch's own messages advise to switch safety off: only the line that names what is in the file is shown.
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global " in line), None)
        if isinstance(error, pickle.UnpicklingError) and reason is not None:
            raise DataError(
                f"{where}: {file} holds more than tensors and plain values, and is not read for safety: {reason} "
                "Save its state dict alone: torch.save(checkpoint['state_dict'], 'weights.pth')."
            ) from error
        raise DataError(
            f"{where}: {file} is damaged, or not a checkpoint of torch's ({type(error).__name__}). Save or download it again."
        ) from error


def _unwrap(content: Any) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key])
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _misfit(
    path: str, where: str, prefix: str, missing: list[str], wrong: list[str], state: Mapping[str, Any], wanted: int
) -> str:
    text = f"{where}: {path} does not fit the architecture: {wanted - len(missing)} of {wanted} tensors found, prefix {prefix!r}."
    if missing:
        text += f" Missing: {_some(missing)}."
    if wrong:
        text += f" Wrong shape: {_some(wrong)}."
    return text + f" The file holds {len(state)} tensors, such as {_some(list(state))}. Check the architecture."


def _some(names: list[str], count: int = 4) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
