"""The keys of the config groups: as Hydra composes them, as their dataclasses have them, and as the docs list them.

python tests/config_keys.py    # writes the tables of keys in docs/ anew, between their markers
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from solo_gps.config import Key, described
from solo_gps.guide.check import make_samplers
from solo_gps.guide.refresh_config import RefreshConfig
from solo_gps.guide.watch_config import WatchConfig
from solo_gps.hosts.decode import ImagesConfig
from solo_gps.neighbours.config import SearchConfig
from solo_gps.plugins import registered
from solo_gps.priors.base import PriorConfig

ROOT = Path(__file__).parents[1]
TABLES = re.compile(r"(<!-- keys: (?P<of>[a-z ]+) -->\n).*?(<!-- end of keys -->)", re.DOTALL)


def composed(*typed: str, folder: Path = ROOT / "configs") -> dict[str, Any]:
    """Returns what overrides such as ``+prior=timm`` compose; ``folder`` comes first on the search path."""
    with initialize_config_dir(version_base="1.2", config_dir=str(folder)):
        return OmegaConf.to_container(compose(overrides=list(typed)))  # type: ignore[return-value]


def defaults(schema: type) -> dict[str, Any]:
    """Returns the keys of a group's dataclass with their defaults."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(schema)
    }


def row(key: Key) -> str:
    """Returns a line of a table."""
    sentence = key.sentence.replace("|", r"\|")
    return f"| `{key.name}` | {key.type} | {key.default} | {sentence} |"


def sampler_config(name: str) -> type:
    """Returns the dataclass of a sampler's keys."""
    return type(make_samplers(OmegaConf.create({"sampler": {name: None}}))[name].config)


def table(of: str) -> str:
    """Returns the rows of one table: ``refresh``, ``search``, ``prior``, ``each prior`` or ``sampler NAME``."""
    if of == "each prior":
        return _table_of_priors()
    shared = {
        "refresh": RefreshConfig,
        "search": SearchConfig,
        "prior": PriorConfig,
        "images": ImagesConfig,
        "watch": WatchConfig,
    }
    schema = shared[of] if of in shared else sampler_config(of.removeprefix("sampler "))
    lines = ["| key | type | default | what it is |", "|---|---|---|---|", *(row(key) for key in described(schema))]
    return "\n".join(lines) + "\n"


def _table_of_priors() -> str:
    """What a prior has beside the shared keys, or has another default for; a key that several share is one row."""
    shared, rows = set(described(PriorConfig)), {}
    for name, encoder in registered("register_encoders").items():
        for key in described(encoder.config_class):
            if key not in shared and key.name != "name":
                rows.setdefault(key, []).append(f"`{name}`")
    lines = ["| prior | key | type | default | what it is |", "|---|---|---|---|---|"]
    lines += [f"| {', '.join(names)} {row(key)}" for key, names in rows.items()]
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """Returns a page with its tables of keys as the dataclasses have them."""
    return TABLES.sub(lambda found: f"{found[1]}{table(found['of'])}{found[3]}", text)


if __name__ == "__main__":
    for page in sorted((ROOT / "docs").rglob("*.md")):
        page.write_text(with_tables(page.read_text()))
