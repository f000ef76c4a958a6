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


def recipe_table(words: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Returns, for each recipe, its name, then paper, row, data and size, as the first line of its file's own comment says.

    Args:
        words: Take those alone that have all of them, in upper or lower case.

    Raises:
        UnknownNameError: None has a word, or all of them.
    """
    rows = [(name, *_told(recipe_folder() / f"{name}.yaml")) for name in recipe_names()]
    for word in words:
        known = {part for row in rows for part in (*row[0].split("/"), row[1], row[3])}
        rows = [row for row in rows if word.lower() in " ".join(row).lower()]
        if not rows:
            raise UnknownNameError("word of the recipes" if word == words[0] else "word of these recipes", word, known)
    return rows


def _told(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as lines:
        comments = (line for line in lines if line.startswith("# ") and not line.startswith("# @"))
        return next(comments).removeprefix("# ").strip().split(" | ")


def place_of(name: str) -> tuple[Path, str]:
    """Returns the folder of a recipe, and its name there; from a folder above, Hydra finds no group that is added to it.

    Raises:
        UnknownNameError: There is none of that name.
    """
    name = name.removesuffix(".yaml")
    if name not in recipe_names():
        hint = "`solo-gps pretrain --list` shows all; --config-path names a folder of your own."
        raise UnknownNameError("recipe", name, recipe_names(), hint)
    file = recipe_folder() / name
    return file.parent, file.name


def compose_recipe(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Composes a recipe in Python, with overrides as typed on the command line.

    Args:
        name: Name of a recipe that comes with solo-gps.
        overrides: For example ``["+sampler=gps", "max_epochs=3"]``.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    folder, name = place_of(name)
    with initialize_config_dir(version_base="1.2", config_dir=str(folder)):
        cfg = compose(name, overrides=list(overrides))
    OmegaConf.set_struct(cfg, False)
    return cfg
