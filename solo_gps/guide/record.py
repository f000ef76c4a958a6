"""What a run says of itself before it trains: its name, and its record in the recipe, the checkpoint and the loggers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, asdict, fields
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from solo_gps.guide.check import Asked
from solo_gps.hosts.decode import ImagesConfig
from solo_gps.interfaces import NeighbourTable
from solo_gps.priors import DEFAULT_ENCODER
from solo_gps.priors.config import RUNTIME_KEYS
from solo_gps.version import __version__

KEY = "solo_gps"
"""Where the record stands: in the recipe, in Lightning's hyper-parameters and in a checkpoint."""
NAME_LENGTH = 100
NOT_IN_NAMES = {
    "name",
    "batch_size",
    "num_workers",
    "device",
    "cache_dir",
    "pictures",
    "max_pairs",
    "min_share",
    "on_bad_image",
    "store",
}
"""Keys that change nothing of what is trained."""


def run_suffix(asked: Asked) -> str:
    """Returns what is appended to a run's name: the samplers, and of all keys those that are not the defaults.

    Checkpoints are found again, and overwritten, by that name: runs that differ must differ in it.

    Args:
        asked: What the recipe asks for, with at least one sampler.
    """
    parts = ["+".join(_named(name, sampler.config) for name, sampler in asked.samplers.items())]
    if asked.prior is not None:
        prior = _named(asked.prior.name, asked.prior, same=set(RUNTIME_KEYS) - {"space"})
        parts += [prior] if prior != DEFAULT_ENCODER else []
    parts += [_named("refresh", asked.refresh)] if asked.refresh is not None else []
    parts += [_named("images", asked.images, same={"store"})] if asked.images.scale is not None else []
    whole = "-".join(parts)
    # Of a path its last part says most; what is cut off goes into a digest.
    safe = re.sub(r"[^\w.=+-]", "", re.sub(r"(=)[^_]*/", r"\1", whole))[:NAME_LENGTH]
    return f"-{safe}" if safe == whole else f"-{safe}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _named(name: str, config: Any, same: Collection[str] = ()) -> str:
    told = [field for field in fields(config) if field.name not in NOT_IN_NAMES and field.name not in same]
    changed = [(field.name, getattr(config, field.name)) for field in told if getattr(config, field.name) != default_of(field)]
    return "_".join([name, *(f"{key}={value}" for key, value in changed)])


def default_of(field: Field) -> Any:
    """Returns a field's default; ``MISSING`` where it must be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def record_of(asked: Asked, generation: str) -> dict[str, Any]:
    """Returns the record of a run as plain values: every key with its default filled in.

    Args:
        asked: What the recipe asks for.
        generation: Of the host.
    """
    record = {
        "version": __version__,
        "solo_learn": generation,
        "seed": next((sampler.seed for sampler in asked.samplers.values()), None),
        "samplers": {name: asdict(sampler.config) for name, sampler in asked.samplers.items()},
        "prior": None if asked.prior is None else asdict(asked.prior),
        "search": asdict(asked.search),
        "refresh": None if asked.refresh is None else asdict(asked.refresh),
        "images": None if asked.images == ImagesConfig() else asdict(asked.images),
        "embeddings": None,
        "tables": {},
    }
    acting = that_act([record["samplers"], record["refresh"], record["images"] or asdict(ImagesConfig())])
    return {**record, "keys": hashlib.sha256(json.dumps(acting, sort_keys=True).encode()).hexdigest()}


def that_act(keys: Any) -> Any:
    """Returns keys, however deep, without those that change nothing of what is trained: who resumes a run may change them."""
    if isinstance(keys, Mapping):
        return {key: that_act(value) for key, value in keys.items() if key not in NOT_IN_NAMES}
    return [that_act(value) for value in keys] if isinstance(keys, (list, tuple)) else keys


def write_into(recipe: DictConfig, record: Mapping[str, Any]) -> None:
    """Writes the record into a recipe, in place: what the host saves of its recipe then says what was really used.

    Args:
        recipe: The recipe that the host saves and its AutoResumer compares.
        record: As :func:`record_of` returns it.
    """
    with read_write(recipe), open_dict(recipe):
        recipe.sampler = record["samplers"]
        for node in ("prior", "refresh", "images"):
            if record[node] is not None:
                recipe[node] = record[node]
        recipe[KEY] = {key: record[key] for key in ("version", "solo_learn", "keys", "embeddings", "tables")}


def table_digest(table: NeighbourTable) -> str:
    """Returns the hex digest of a neighbour table."""
    digest = hashlib.sha256()
    for array in (table.indices, table.distances):
        digest.update(array.tobytes())
    return digest.hexdigest()
