"""The sweep file: read, checked, and composed into cells that are found again as long as they are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from solo_gps.comparison.cells import CHECKPOINT, Cell, JudgeKeys, SweepKeys
from solo_gps.comparison.rows import cells_of, words_of
from solo_gps.config import parse
from solo_gps.errors import ConfigError, printable

OURS = ("sampler", "prior", "search", "refresh", "images", "watch")
"""Groups of which a cell's words count, not all that is composed: a new key with its default is no other cell."""
OF_THE_MACHINE = ("name", "checkpoint", "wandb", "auto_resume", "accelerator", "devices", "strategy", "num_nodes", "seed")
"""Keys of a recipe that say where and how a cell is trained; its seed counts by itself."""
UNKNOWN = "'of that row.ckpt'"
"""In place of a checkpoint that another cell is to leave."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file that was read.

    Attributes:
        keys: What it says.
        judge: How a trained network is judged.
        recipe_folder: Folder that Hydra composes from.
        recipe: Name of the recipe in it.
        cells: Every cell, in the order in which they are trained.
    """

    keys: SweepKeys
    judge: JudgeKeys
    recipe_folder: Path
    recipe: str
    cells: tuple[Cell, ...]

    @property
    def out(self) -> Path:
        """Folder of checkpoints and of the table."""
        return Path(self.keys.out)

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return Path(self.keys.records) if self.keys.records is not None else self.out / "records"

    def folder(self, cell: Cell) -> Path:
        """Folder of a cell's checkpoints."""
        return self.out / "cells" / cell.name

    def cell(self, row: str, seed: int | None) -> Cell:
        """The cell of a row with this seed."""
        return next(cell for cell in self.cells if (cell.row, cell.seed) == (row, seed))


def read_sweep(file: Path) -> Sweep:
    """Reads a sweep file, and composes every recipe that it asks for.

    Raises:
        ConfigError: It is no YAML, a key, name or word is wrong, Hydra cannot compose a row's recipe, or a row asks for the
            checkpoint of a row that is not there.
    """
    where = printable(file.name)
    values = _values(file, where)
    keys = parse(values, SweepKeys, where)
    judge = parse(keys.judge, JudgeKeys, f"{where}: judge")
    if not keys.seeds or len(set(keys.seeds)) < len(keys.seeds):
        raise ConfigError(f"{where}: seeds={keys.seeds}: wanted one or more, each once.")
    cells = cells_of(keys, where)
    folder, recipe = _recipe(file, keys)
    keyed = tuple(_with_keys(cells, recipe, judge, folder))
    by_name: dict[str, Cell] = {}
    for cell in keyed:
        other = by_name.setdefault(cell.name, cell)
        if other is not cell:
            raise ConfigError(
                f"{where}: {other.row!r} and {cell.row!r} say the same, and would be one file. Rename one, or leave it out."
            )
    return Sweep(keys=keys, judge=judge, recipe_folder=folder, recipe=recipe, cells=keyed)


def _values(file: Path, where: str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not file.is_file():
        raise ConfigError(
            f"{printable(file)}: no such file. Wanted a sweep file (docs/compare.md), seen from {printable(Path.cwd())}."
        )
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)  # its loader refuses a key that is there twice
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{printable(file)}: cannot be read as YAML ({' '.join(str(error).split())}). Mend the file."
        ) from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: wanted a group of keys, got {type(values).__name__}.")
    for key in ("recipe", "out", "axes", "judge"):
        if values.get(key) is None:
            raise ConfigError(f"{where}: {key} is missing; wanted recipe, out, axes and judge (docs/compare.md).")
    # A list or group whose lines are all commented out is null.
    kept = {str(key): value for key, value in values.items() if value is not None}
    kept["overrides"] = list(words_of(kept.get("overrides", []), f"{where}: overrides"))
    escaped: dict[str, Any] = _escaped(kept)
    return escaped


def _escaped(value: Any) -> Any:
    """Names as text; and interpolations, which are the recipe's, kept as they are written."""
    if isinstance(value, Mapping):
        return {str(name): _escaped(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_escaped(below) for below in value]
    return value.replace("${", r"\${") if isinstance(value, str) else value


def _recipe(file: Path, keys: SweepKeys) -> tuple[Path, str]:
    """The folder to compose from, and the recipe's name in it; for ours its own folder, so that groups may be added to it."""
    from hydra_plugins.solo_gps_searchpath import config_folder

    folder = config_folder() / "recipe" if keys.config_path is None else (file.parent / keys.config_path).resolve()
    recipe = folder / f"{keys.recipe.removesuffix('.yaml')}.yaml"
    if not recipe.is_file():
        raise ConfigError(
            f"{printable(recipe)}: no such recipe. recipe={keys.recipe!r} is one that `solo-gps pretrain --list` shows or, with "
            "config_path (seen from the sweep file), one of your own."
        )
    return (recipe.parent, recipe.stem) if keys.config_path is None else (folder, keys.recipe)


def composed(recipe: str, folder: Path, words: Sequence[str], row: str, *, with_hydra: bool = False) -> Any:
    """A recipe with overrides, as Hydra composes it; in place of a row's checkpoint stands a file that does not exist.

    Args:
        recipe: Its name.
        folder: Its folder.
        words: Overrides.
        row: Named in errors.
        with_hydra: Whether Hydra's own node is there too.

    Raises:
        ConfigError: Hydra cannot.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(version_base="1.2", config_dir=str(folder)):
            cfg = compose(recipe, overrides=[CHECKPOINT.sub(UNKNOWN, word) for word in words], return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{row}: {' '.join(str(error).split())}") from error
    OmegaConf.set_struct(cfg, False)
    return cfg


def _with_keys(cells: Sequence[Cell], recipe: str, judge: JudgeKeys, folder: Path) -> Iterator[Cell]:
    from omegaconf import OmegaConf

    judged = {key: value for key, value in asdict(judge).items() if key not in ("train", "test")}
    recipes: dict[str, Any] = {}
    made: dict[tuple[str, int | None], str] = {}
    for cell in cells:
        if cell.row not in recipes and not cell.alone:
            whole: Any = OmegaConf.to_container(composed(recipe, folder, cell.overrides, cell.row), resolve=False)
            recipes[cell.row] = {key: value for key, value in whole.items() if key not in (*OURS, *OF_THE_MACHINE)}
        below = [made[row, cell.seed] for row in cell.needs]
        said = [list(cell.overrides), recipes.get(cell.row), judged, below, cell.seed]
        made[cell.row, cell.seed] = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
        yield replace(cell, key=made[cell.row, cell.seed])
