"""The Hydra callback that `+sampler=<name>` adds: switches the plugin on when the job starts, off when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from solo_gps.errors import SoloGpsError


class Activate(Callback):
    """Keeps the plugin switched on for the length of one Hydra job."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Switches on; a wrong recipe ends the program with one clear line, before any work."""
        from solo_gps.host.activation import activate
        from solo_gps.host.console import show_progress_lines

        show_progress_lines()
        with user_errors_exit():
            activation = self._stack.enter_context(activate(config))
            activation.user_errors = user_errors_exit

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Switches off."""
        self._stack.close()


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Turns a user's error into the end of the program, with its message alone.

    Hydra demotes exceptions of callbacks to warnings and would train on, unguided; it lets ``SystemExit`` through.
    """
    try:
        yield
    except SoloGpsError as error:
        raise SystemExit(f"solo-gps: {error}") from None
