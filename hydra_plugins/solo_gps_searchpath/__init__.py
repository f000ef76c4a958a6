"""Puts the config groups of solo-gps, and of its plugins, on the search path of every Hydra program."""

from __future__ import annotations

from functools import wraps
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
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


def _notice_swept_samplers() -> None:
    """Lets a job's own config switch solo-gps on.

    Hydra makes its callbacks once, from the config without the swept keys. In `--multirun +sampler=gps,none` ours would be
    missing and every job would train plainly, without a word.
    """
    original = Callbacks.on_job_start

    @wraps(original)
    def on_job_start(self: Callbacks, config: Any, **kwargs: Any) -> None:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        wanted = OmegaConf.select(config, "hydra.callbacks.solo_gps")
        if wanted is not None and not any(type(callback).__module__ == "solo_gps.host.callback" for callback in self.callbacks):
            self.callbacks.append(instantiate(wanted))
        original(self, config=config, **kwargs)

    Callbacks.on_job_start = on_job_start  # type: ignore[method-assign]


# At import, so that it also holds in the processes of parallel launchers, which import this module but ask for no search path.
_notice_swept_samplers()
