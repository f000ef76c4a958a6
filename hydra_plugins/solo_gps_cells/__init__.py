"""A Hydra sweeper for `solo-gps compare`: cells whose overrides differ in more than one value, through any launcher."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig


class CellSweeper(Sweeper):
    """Launches batches of cells; a cell that fails does not keep the others from being trained.

    Args:
        plan: File of the batches (:mod:`solo_gps.comparison.plan`).
    """

    def __init__(self, plan: str) -> None:
        self._plan = plan
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher that ``hydra/launcher`` names."""
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launches batch after batch; ``arguments`` go to every cell."""
        from solo_gps.comparison.plan import launch

        assert self.launcher is not None
        return launch(self._plan, self.launcher, arguments)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="solo_gps_cells",
    node={"_target_": "hydra_plugins.solo_gps_cells.CellSweeper", "plan": MISSING},
    provider="solo-gps",
)
