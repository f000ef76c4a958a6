"""Puts the config groups of solo-gps, and of its plugins, on the search path of every Hydra program, and guides its jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

CONFIG_GROUP = "solo_gps.configs"


class SoloGpsSearchPath(SearchPathPlugin):
    """Appends the folder of our groups (sampler, prior, search, recipe), then the packages that plugins name.

    A plugin names the package that holds its config groups by an entry point of the group ``solo_gps.configs``. Nothing of it is
    imported here: this code runs in every Hydra program on the machine.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the paths."""
        search_path.append(provider="solo-gps", path=config_folder().as_uri())
        for entry in entry_points(group=CONFIG_GROUP):
            search_path.append(provider=entry.name, path=f"pkg://{entry.value}")


def config_folder() -> Path:
    """Returns the folder of our config groups: in the package when installed, beside it in a checkout."""
    import solo_gps

    package = Path(solo_gps.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "sampler").is_dir():
            return folder
    raise FileNotFoundError(f"solo-gps is installed without its config groups (looked beside {package}). Reinstall it.")


def _guide_jobs(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Has Hydra run, in place of a program's function, one that guides it when its recipe asks for that."""

    @wraps(launch)
    def guided(self: Hydra, config_name: str | None, task_function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from solo_gps.hydra_switch import GuidedJob

        if not isinstance(task_function, GuidedJob):
            task_function = GuidedJob(task_function, _own_nodes(self, config_name))
        return launch(self, config_name, task_function, *args, **kwargs)

    return guided


def _own_nodes(hydra: Hydra, config_name: str | None) -> dict[str, Any]:
    """What the program's primary config says under our top-level keys in its own file."""
    from omegaconf import OmegaConf

    from solo_gps.hydra_switch import NODES

    values: Any = {}
    with suppress(Exception):  # Hydra reads it too, and says what is wrong with it in its own words
        if config_name is not None:
            repository = hydra.config_loader.repository  # type: ignore[attr-defined]
            values = OmegaConf.to_container(repository.load_config(config_name).config, resolve=False)
    return {key: values[key] for key in NODES if isinstance(values, dict) and isinstance(values.get(key), dict)}


# At import: Hydra imports its plugins before it runs anything.
for _name in ("run", "multirun"):
    setattr(Hydra, _name, _guide_jobs(getattr(Hydra, _name)))
