"""The recipes that come with solo-gps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from solo_gps.errors import UnknownNameError

PARTS = "parts"


def recipe_folder() -> Path:
    """Returns the folder of the recipes."""
    from hydra_plugins.solo_gps_searchpath import config_folder

    return config_folder() / "recipe"


def recipe_names() -> list[str]:
    """Returns the names that ``--config-name`` takes without ``--config-path``; what recipes are put together from is none."""
    files = (path.relative_to(recipe_folder()).with_suffix("") for path in recipe_folder().rglob("*.yaml"))
    return sorted(path.as_posix() for path in files if path.parts[0] != PARTS)


def recipe_table() -> list[tuple[str, ...]]:
    """Returns, for each recipe, its name, then paper, row, data and size, as the first line of its file's own comment says."""
    return [(name, *_told(recipe_folder() / f"{name}.yaml")) for name in recipe_names()]


def _told(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as lines:
        comments = (line for line in lines if line.startswith("# ") and not line.startswith("# @"))
        return next(comments).removeprefix("# ").strip().split(" | ")


def check_recipe_name(name: str) -> None:
    """Raises :class:`UnknownNameError`, with the closest name, for a recipe that does not exist."""
    if name.removesuffix(".yaml") not in recipe_names():
        raise UnknownNameError("recipe", name, recipe_names(), "--config-path names a folder of your own.")


def compose_recipe(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Composes a recipe in Python, with overrides as typed on the command line.

    Args:
        name: Name of a recipe that comes with solo-gps.
        overrides: For example ``["+sampler=gps", "max_epochs=3"]``.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    check_recipe_name(name)
    with initialize_config_dir(version_base="1.2", config_dir=str(recipe_folder())):
        cfg = compose(name, overrides=list(overrides))
    OmegaConf.set_struct(cfg, False)
    return cfg
