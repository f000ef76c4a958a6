"""Switching on and off: the one place where samplers meet solo-learn."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import HostError, our_part
from solo_gps.guide.check import check_recipe, read_recipe
from solo_gps.guide.method import guided_method, is_guided
from solo_gps.guide.named_data import named_data
from solo_gps.guide.programs import registries
from solo_gps.guide.run import GuidedRun
from solo_gps.guide.trainer_callback import trainer_callback
from solo_gps.hosts.dali import guided_module
from solo_gps.hosts.data_folder import reads_by_dali
from solo_gps.hosts.detect import Host, detect_host
from solo_gps.hosts.devices import gpus_asked
from solo_gps.hosts.rehearsal import rehearse
from solo_gps.plugins import wrapped
from solo_gps.runtime.devices import gpus_of_run
from solo_gps.runtime.ranks import leave_at_exit

log = logging.getLogger(__name__)

times_switched_on = 0
"""In this process, for whoever asks whether a program switched on by itself."""


@contextmanager
def activate(cfg: Mapping[str, Any], *, program: Callable[..., Any] | None = None) -> Iterator[GuidedRun]:
    """Switches the plugin on for the installed solo-learn, and off again on exit.

    Within the context, ``METHODS[cfg.method]`` is the guided method and training loaders that solo-learn's ``prepare_dataloader``
    makes are guided. On exit, solo-learn is exactly as before.

    Args:
        cfg: The whole recipe, in the form of solo-learn 1.0.6, with a group ``sampler`` (for example
            ``{"gps": {"k": 10}}``) and, where the defaults do not do, ``prior`` and ``search``.
        program: The function that will train. Launchers send it to other processes by value, where it looks methods up in
            copies of METHODS; those are guided too.

    Raises:
        ConfigError: A key, name or value is wrong.
        RefusedMethodError: A sampler cannot act on the method.
        DataError: The training folder is missing or empty.
        HostError: No solo-learn of a known generation is installed.
        MachineError: A file cannot be read or written, or memory ran out.
        UnexpectedError: A bug.

    Example:
        >>> with solo_gps.activate(cfg):  # doctest: +SKIP
        ...     model = METHODS[cfg.method](cfg)
    """
    recipe = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
    with ExitStack() as stack:
        with our_part("switching on"):
            run = _switch_on(recipe, program, stack)
        yield run
        leave_at_exit()  # not after an error, where the others may never answer what is under way


def _switch_on(recipe: DictConfig, program: Any, stack: ExitStack) -> GuidedRun:
    asked = read_recipe(recipe)
    host = detect_host()
    stack.enter_context(named_data(recipe, host, program))
    check_recipe(recipe, host, asked.samplers)
    if asked.samplers:
        rehearse(recipe, host)
    run = GuidedRun(recipe, host, asked)
    run.callback = trainer_callback(run)
    stack.enter_context(_as_current(run))
    stack.enter_context(gpus_of_run(gpus_asked(recipe)))
    if recipe.get("deterministic"):
        # As Lightning does, but before our own products: CUDA reads it once.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    global times_switched_on
    times_switched_on += 1
    stack.enter_context(host.switched_on())
    if asked.samplers:
        original, guided = host.methods[recipe.method], _method_class(run)
        for methods in registries(program, host.methods, recipe.method):
            stack.callback(methods.__setitem__, recipe.method, original)
            methods[recipe.method] = guided
        if reads_by_dali(recipe):
            stack.enter_context(guided_module(run.shown_by))
        else:
            stack.enter_context(patch.object(host.loader_module, "DataLoader", run.make_loader))
        stack.enter_context(patch.object(host.lightning.Trainer, "fit", _guarded_fit(host)))
        if asked.prior is None and recipe.get("prior") is not None:
            log.warning(
                "the prior is never used: %s. Leave it out.",
                f"none of the samplers ({', '.join(asked.samplers)}) looks for neighbours in its space"
                if asked.refresh is None
                else "with refresh.start=0 the network being trained guides from the first epoch on",
            )
        log.info("switched on: %s on %s (solo-learn %s)", "+".join(asked.samplers), recipe.method, host.generation)
    return run


def _method_class(run: GuidedRun) -> type:
    """Returns the class to train in place of the host's: every sampler's wrapper, then those of other plugins."""
    cls: Any = run.host.methods[run.cfg.method]
    for sampler in run.samplers.values():
        cls = sampler.wrap_method(cls, run.cfg)
    guided: type = wrapped("wrap_method", "method", guided_method(cls, run), cfg=run.cfg)
    return guided


def _guarded_fit(host: Host) -> Callable[..., Any]:
    """The trainer's ``fit``, which refuses a method of the host that was not built guided."""
    fit = host.lightning.Trainer.fit

    @wraps(fit)
    def guarded(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        network = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
        if isinstance(network, host.methods["base"]) and not is_guided(network):
            raise HostError(
                f"a plain {type(network).__name__} was about to be trained, though the recipe asks for guidance. Build it by "
                "solo.methods.METHODS[cfg.method](cfg), while the plugin is switched on, and no earlier."
            )
        return fit(trainer, model, *args, **kwargs)

    return guarded


def current_run() -> GuidedRun | None:
    """Returns what :func:`activate` has switched on, or ``None`` while solo-learn is untouched."""
    return _current[-1] if _current else None


_current: list[GuidedRun] = []


@contextmanager
def _as_current(run: GuidedRun) -> Iterator[None]:
    if _current:
        raise HostError("solo-gps is switched on already; leave the first `with activate(...)` before the second.")
    _current.append(run)
    try:
        yield
    finally:
        _current.pop()
