"""What Hydra runs in place of a program's function: switched on by what its recipe says, off at its end, every error an end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from functools import update_wrapper
from importlib.abc import MetaPathFinder
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from solo_gps.errors import ConfigError, SoloGpsError, UnexpectedError, of_host, our_part

log = logging.getLogger(__name__)

NODES = ("sampler", "prior", "search", "refresh", "images", "watch")
"""Top-level keys of a recipe that are ours."""
SHAPE = ("method", "backbone", "augmentations")
"""Keys by which a pretraining recipe is known, at the top or in a group, where the program has not imported solo-learn yet."""
HOSTS = ("solo", "lightning", "pytorch_lightning")
"""Packages whose exceptions before the first step are about the recipe."""


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
            if asks_for_guidance(cfg):
                return self._guided(cfg)
            before = _switched_on()
            with _kept_from_solo_learn(cfg), _at_end(lambda: _check_plain(cfg, before)), _data_of_ours(cfg, self._function):
                return self._function(cfg)
        except SoloGpsError as error:
            _end(error, f"solo-gps: {error}")
        except UnexpectedError as error:
            _end_by_bug(error)

    def _guided(self, cfg: DictConfig) -> Any:
        from solo_gps.guide.check import read_recipe
        from solo_gps.runtime.console import show_progress_lines

        with our_part("reading the recipe"):
            show_progress_lines()
            _check_places(_places(cfg))
            asked = read_recipe(cfg)  # before torch is imported: a misspelt word costs a second
            for line in overruled(self._own, cfg, _typed(), _choices()):
                log.warning(line)
        if not asked.samplers:
            with loader_workers(), _data_of_ours(cfg, self._function), _resumed_as_ours(cfg):
                return self._function(cfg)
        from solo_gps.guide.switch import activate

        with (
            loader_workers(),
            activate(cfg, program=self._function) as run,
            _at_end(lambda: run.check_trained(cfg)),
            _refused_by_host(run),
        ):
            return self._function(cfg)


@contextmanager
def _refused_by_host(run: Any) -> Iterator[None]:
    """An exception out of the host before the first step is its word on the recipe; later, or the program's own, it is none."""
    try:
        yield
    except (SoloGpsError, UnexpectedError):
        raise
    except Exception as error:
        modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if run.receipt.steps or not any(module.split(".")[0] in HOSTS for module in modules):
            raise
        raise of_host(error, "preparing its first step") from error


@contextmanager
def _resumed_as_ours(cfg: DictConfig) -> Iterator[None]:
    """Lets a baseline (``sampler=none``) resume its like alone, as guided runs do: another seed is no part of the first."""
    if not OmegaConf.select(cfg, "auto_resume.enabled", throw_on_missing=False):
        yield
        return
    from solo_gps.hosts.detect import detect_host

    host = detect_host()
    with host.switched_on() if host.generation == "1.0.6" else nullcontext():  # 1.0.2's programs are ours
        yield


@contextmanager
def _at_end(check: Callable[[], None]) -> Iterator[None]:
    """Checks a job that ends well, also one that ends itself by ``sys.exit(0)``."""
    try:
        yield
    except SystemExit as error:
        if not error.code:
            check()
        raise
    check()


def _switched_on() -> int:
    """How often this process has switched on, which a program may do by itself."""
    return getattr(sys.modules.get("solo_gps.guide.switch"), "times_switched_on", 0)


def _check_plain(cfg: Any, switched_on: int) -> None:
    if asks_for_guidance(cfg) and not _wants_none(cfg) and _switched_on() == switched_on:
        raise ConfigError(
            f"this training was plain, though its recipe has {' and '.join(_places(cfg))}: that, or solo-learn, came into the "
            "program after its start. Say it in the recipe's file or on the command line, and import solo.methods at the top of "
            "the program's file; or train inside `with solo_gps.activate(cfg)`."
        )


@contextmanager
def loader_workers() -> Iterator[None]:
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
    """Whether a job is one of solo-learn whose recipe says anything under our words.

    Our search path reaches every Hydra program on the machine; those that have nothing to do with solo-learn may use the same
    words for something else.
    """
    if not _is_group(cfg):
        return False
    return _is_of_solo_learn(cfg) and bool(_places(cfg))


def _is_of_solo_learn(cfg: DictConfig) -> bool:
    return "solo.methods" in sys.modules or any(all(key in node for key in SHAPE) for node in _groups(cfg).values())


@contextmanager
def _data_of_ours(cfg: Any, function: Callable[[DictConfig], Any]) -> Iterator[None]:
    """Lets a plain job of solo-learn's train on a data set that solo-learn does not know, and we do."""
    if not (_is_group(cfg) and _is_of_solo_learn(cfg) and _names_data_of_ours(cfg)):
        yield
        return
    from solo_gps.guide.named_data import named_data
    from solo_gps.hosts.detect import detect_host

    with named_data(cfg, detect_host(), function):
        yield


def _names_data_of_ours(cfg: DictConfig) -> bool:
    from solo_gps.hosts.named import named_dataset

    with suppress(OmegaConfBaseException):  # the program says what is wrong with it, in its own words
        return named_dataset(OmegaConf.select(cfg, "data.dataset")) is not None
    return False


def _is_group(cfg: Any) -> bool:
    return isinstance(cfg, DictConfig) and not cfg._is_none() and not cfg._is_missing()


def _at_top(cfg: Any) -> list[str]:
    return [key for key in NODES if _is_given(cfg, key)] if _is_group(cfg) else []


def _places(cfg: DictConfig) -> list[str]:
    """The dotted places at which a recipe says something under our words: each at its top or below it."""
    top = _at_top(cfg)
    if ("sampler" in cfg.keys() and "sampler" not in top) or _wants_none(cfg):  # noqa: SIM118 - `in` needs it resolved
        return top  # a sampler of null, at the top, says that none is wanted
    absent = [key for key in NODES if key not in top]
    chosen = [(group.partition("@")[2], group.partition("@")[0]) for group in _choices() if "@" in group]
    below = [(place, key) for place, node in _groups(cfg).items() for key in absent if key in node]
    meant = [(place, key) for place, key in below if place.split(".")[0] not in ("", *NODES) and _is_ours(cfg, f"{place}.{key}")]
    places = {f"{place}.{key}" for place, key in [*chosen, *meant] if key in absent and place != "_global_"}
    return [*top, *sorted(places)]


def _wants_none(cfg: DictConfig) -> bool:
    return OmegaConf.to_container(cfg, resolve=False).get("sampler") == {}  # type: ignore[union-attr]


def _is_given(cfg: DictConfig, key: str) -> bool:
    if key not in cfg.keys():  # noqa: SIM118
        return False
    return OmegaConf.is_interpolation(cfg, key) or OmegaConf.is_missing(cfg, key) or cfg[key] is not None


def _groups(cfg: DictConfig) -> dict[str, Mapping[Any, Any]]:
    """Every group of a config by its dotted place, the config itself by the empty one; interpolations as they stand."""
    found: dict[str, Mapping[Any, Any]] = {}
    left: list[tuple[str, Any]] = [("", OmegaConf.to_container(cfg, resolve=False))]
    while left:
        place, node = left.pop()
        found[place] = node
        left += [(f"{place}.{key}".lstrip("."), below) for key, below in node.items() if isinstance(below, Mapping)]
    return found


def _is_ours(cfg: DictConfig, place: str) -> bool:
    """Whether a group below the top says what one of ours would say."""
    from solo_gps.guide.refresh_config import OF
    from solo_gps.hosts.decode import ImagesConfig
    from solo_gps.plugins import registered

    node, word = None, place.rpartition(".")[2]
    with suppress(OmegaConfBaseException):
        node = OmegaConf.select(cfg, place)
    if not OmegaConf.is_dict(node) or not node:
        return False
    if word == "sampler":
        return set(node) <= set(registered("register_samplers"))
    if word == "prior":
        return node.get("name") in registered("register_encoders")
    if word == "images":
        return set(node) <= {field.name for field in fields(ImagesConfig)}
    if word == "search":
        return node.get("backend") in [*registered("register_search_backends"), "auto"]
    return node.get("of") in OF


def _check_places(places: Sequence[str]) -> None:
    below = [place for place in places if "." in place]
    if below:
        raise ConfigError(
            f"{' and '.join(below)}: solo-gps reads {', '.join(NODES)} at the top of the recipe alone. Type "
            "+sampler=... without @; in a recipe of a subfolder, make its first line `# @package _global_`; keys that mean "
            "something else in this program need another name."
        )


@contextmanager
def _kept_from_solo_learn(cfg: Any) -> Iterator[None]:
    """Runs a job that was taken for a stranger's, though it has words of ours: importing solo-learn in it is an error."""
    places = _at_top(cfg)
    watch = _Watch(places)
    if places and not _wants_none(cfg):
        sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(watch)


class _Watch(MetaPathFinder):
    def __init__(self, places: Sequence[str]) -> None:
        self._places = places

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        # A program that has reached for solo_gps.activate switches on by itself.
        if fullname == "solo.methods" and "solo_gps.guide.switch" not in sys.modules:
            raise ConfigError(
                f"this program imports solo-learn inside its function, and its recipe has {' and '.join(self._places)}: solo-gps "
                "could not tell before that guidance is asked for. Import solo.methods at the top of the program's file; or "
                "import it and train inside `with solo_gps.activate(cfg)`; or, if these keys mean something else, rename them."
            )


def overruled(own: Mapping[str, Any], cfg: DictConfig, typed: Mapping[str, str], chosen: Collection[str] = NODES) -> list[str]:
    """Returns a line for each of a recipe's own keys that a config group, read after them, has overruled.

    Args:
        own: What the recipe's own file says under our top-level keys.
        cfg: The composed recipe.
        typed: Key to value, as typed on the command line: there, whoever typed it knows.
        chosen: Config groups that the recipe's defaults lists or the command line chose.
    """
    lines = []
    for key, wanted in _leaves(own):
        came = OmegaConf.select(cfg, key, throw_on_missing=False)
        came = OmegaConf.to_container(came) if OmegaConf.is_config(came) else came
        if came != wanted and key not in typed and not (isinstance(wanted, str) and "${" in wanted):
            group = key.split(".")[0]
            by = f"the group {group!r}" if group in chosen else "another file of its defaults list"
            lines.append(
                f"{key} is {came!r}, not {wanted!r} as the recipe's own file says: {by} is read after the file's own keys. Leave "
                f"it out, since the keys alone switch on; or write _self_ last in the recipe's defaults list; or type "
                f"{key}={wanted}."
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
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # an interpolation is the recipe's
    pairs = (override.partition("=") for override in words)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _choices() -> list[str]:
    """The config groups that were chosen, each as ``group`` or ``group@package``."""
    if not HydraConfig.initialized():
        return []
    return [str(group) for group, choice in HydraConfig.get().runtime.choices.items() if choice not in (None, "null")]


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
