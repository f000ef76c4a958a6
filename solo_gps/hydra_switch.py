"""What Hydra runs in place of a program's function: switched on by what its recipe says, off at its end, every error an end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import SoloGpsError, UnexpectedError, our_part

log = logging.getLogger(__name__)

NODES = ("sampler", "prior", "search", "refresh")
"""Top-level keys of a recipe that are ours."""
SHAPE = ("method", "backbone", "augmentations")
"""Keys by which a pretraining recipe of solo-learn is known, where the program has not imported solo-learn yet."""


class FailedJob(CompactHydraException):
    """An error for the user, as Hydra reports it at the end of a sweep: by its message alone. Launchers can send it."""


class GuidedJob:
    """The function of a Hydra program, guided when its recipe asks for it.

    Hydra's callbacks would not do: their exceptions are demoted to warnings, a launcher may run the function elsewhere, in a
    copy, and a failed callback cannot fail one job of a sweep. Picklable as far as the function is.

    Args:
        function: The program's function.
        own: What the recipe's own file says under each of our top-level keys, before its defaults list is merged with it.
    """

    def __init__(self, function: Callable[[DictConfig], Any], own: Mapping[str, Any]) -> None:
        update_wrapper(self, function, updated=())  # a callable object's own attributes are its business, not ours
        self._function = function
        self._own = own

    def __call__(self, cfg: DictConfig) -> Any:
        """Runs the job, and returns what the function returns."""
        try:
            if not asks_for_guidance(cfg):
                return self._function(cfg)
            return self._guided(cfg)
        except SoloGpsError as error:
            _end(error, f"solo-gps: {error}")
        except UnexpectedError as error:
            _end_by_bug(error)

    def _guided(self, cfg: DictConfig) -> Any:
        from solo_gps.guide.check import read_recipe
        from solo_gps.runtime.console import show_progress_lines

        with our_part("reading the recipe"):
            show_progress_lines()
            read_recipe(cfg)  # before torch is imported: a misspelt word costs a second
            for line in overruled(self._own, cfg, _typed()):
                log.warning(line)
        from solo_gps.guide.run import activate

        with _loader_workers(), activate(cfg, program=self._function) as activation:
            try:
                result = self._function(cfg)
            except SystemExit as error:
                if not error.code:  # success, says the program
                    activation.check_trained()
                raise
            activation.check_trained()
        return result


@contextmanager
def _loader_workers() -> Iterator[None]:
    """Lets data loaders have workers in a process of joblib's, whose own way of starting processes torch cannot use."""
    before = multiprocessing.get_start_method(allow_none=True)
    if before != "loky":
        yield
        return
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def asks_for_guidance(cfg: Any) -> bool:
    """Whether a job is one of solo-learn whose recipe says anything under our top-level keys.

    Our search path reaches every Hydra program on the machine; those that have nothing to do with solo-learn may use the same
    words for something else.
    """
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing():
        return False
    # Not `in`, nor get(): a key whose interpolation fails would not be there.
    given = [key for key in NODES if key in cfg.keys() and _is_given(cfg, key)]  # noqa: SIM118
    if not given:
        return False
    shaped = all(key in cfg.keys() for key in SHAPE)  # noqa: SIM118
    return shaped or "solo.methods" in sys.modules or ("sampler" in given and _names_samplers(cfg))


def _is_given(cfg: DictConfig, key: str) -> bool:
    return OmegaConf.is_interpolation(cfg, key) or OmegaConf.is_missing(cfg, key) or cfg[key] is not None


def _names_samplers(cfg: DictConfig) -> bool:
    if OmegaConf.is_interpolation(cfg, "sampler") or OmegaConf.is_missing(cfg, "sampler") or not OmegaConf.is_dict(cfg.sampler):
        return False
    from solo_gps.plugins import registered
    from solo_gps.samplers import register_samplers

    names = set(cfg.sampler)
    if not names.isdisjoint(register_samplers()):
        return True
    # Plugins are not loaded for a program that cannot mean one: each of ours has a group of keys.
    nodes = OmegaConf.to_container(cfg.sampler, resolve=False).values()  # type: ignore[union-attr]
    groups = all(node is None or isinstance(node, dict) for node in nodes)
    return groups and not names.isdisjoint(registered("register_samplers"))


def overruled(own: Mapping[str, Any], cfg: DictConfig, typed: Mapping[str, str]) -> list[str]:
    """Returns a line for each of a recipe's own keys that a config group, read after them, has overruled.

    Args:
        own: What the recipe's own file says under our top-level keys.
        cfg: The composed recipe.
        typed: Key to value, as typed on the command line: there, whoever typed it knows.
    """
    lines = []
    for key, wanted in _leaves(own):
        came = OmegaConf.select(cfg, key, throw_on_missing=False)
        came = OmegaConf.to_container(came) if OmegaConf.is_config(came) else came
        if came != wanted and key not in typed and not (isinstance(wanted, str) and "${" in wanted):
            lines.append(
                f"{key} is {came!r}, not {wanted!r} as the recipe's own file says: the group {key.split('.')[0]!r} is read after "
                f"the file's own keys. Leave the group out, since the keys alone switch on; or write _self_ last in the recipe's "
                f"defaults list; or type {key}={wanted}."
            )
    return lines


def _leaves(node: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in node.items():
        leaves += _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) and value else [(f"{above}{key}", value)]
    return leaves


def _typed() -> dict[str, str]:
    if not HydraConfig.initialized():
        return {}
    pairs = (override.partition("=") for override in HydraConfig.get().overrides.task)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _end(error: Exception, line: str) -> None:
    """Ends a job with one line; a single job ends the program, a job of a sweep fails as Hydra's jobs do."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    if _in_a_sweep():
        log.error(line.removeprefix("solo-gps: "))
        raise FailedJob(line) from None
    raise SystemExit(line) from None


def _end_by_bug(error: UnexpectedError) -> None:
    """Ends a job with its traceback; a launcher's process, which sends back no causes, shows it at once."""
    if _in_a_sweep():
        log.error("%s", error, exc_info=error)
    raise error


def _in_a_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
