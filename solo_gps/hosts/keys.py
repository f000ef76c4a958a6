"""The keys of a recipe that are solo-learn's own, checked before any work: it would only stumble over them in its middle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from solo_gps.config import check_number, node_of, numbers_of, parse, plain
from solo_gps.errors import ConfigError, UnknownNameError, first_line
from solo_gps.hosts.devices import rank_count
from solo_gps.hosts.named import dataset_names
from solo_gps.hosts.schema import CROP_GROUPS, OPTIMIZERS, SCHEDULERS, SECTIONS, Frame, MethodKwargs
from solo_gps.methods import facts_of
from solo_gps.runtime.files import check_can_write
from solo_gps.runtime.machine import check_fits

_LIGHTNINGS = ("best", "last", "hpc", "registry")  # what Lightning looks for by itself
_TEXTS = ("data.dataset", "data.train_path", "data.val_path", "data.format", "resume_from_checkpoint", "checkpoint.dir")
_COUNTS = {"max_epochs": True, "accumulate_grad_batches": False, "num_nodes": False}
_QUEUES = ("all4one", "mocov2plus", "nnbyol", "nnclr", "nnsiam", "ressl")
DEFAULT_QUEUE = 65536  # solo-learn's own
DEFAULT_WHITENING = 256


def check_host_keys(recipe: DictConfig) -> None:
    """Checks names, types and bounds of what solo-learn reads, and what must fit together.

    Keys that solo-learn does not know are left alone: they may be the program's own. Lightning's are checked by its own code
    (:func:`solo_gps.hosts.rehearsal.rehearse`).

    Raises:
        ConfigError: A key is missing, or has a value that solo-learn cannot use.
        UnknownNameError: No dataset, optimizer or scheduler of that name.
        MachineError: A size does not fit in memory.
    """
    _check_finite(recipe)
    for key in _TEXTS:
        value = _value(recipe, key)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{key}={value!r}: wanted a text. Write it in quotes, as {key}=\\'...\\' on a shell's line.")
    sections = {name: _section(recipe, name, schema) for name, schema in SECTIONS.items()}
    for key, known in (("data.dataset", dataset_names()), ("optimizer.name", OPTIMIZERS), ("scheduler.name", SCHEDULERS)):
        section, _, name = key.partition(".")
        if getattr(sections[section], name) not in known:
            raise UnknownNameError(key, getattr(sections[section], name), known)
    for key, required in _COUNTS.items():
        _check_count(key, _value(recipe, key), required)
    _check_crops(recipe, sections["optimizer"].batch_size)
    _check_sizes(recipe, sections["optimizer"].batch_size)
    if sections["checkpoint"].enabled:
        _check_name(recipe)
        check_can_write(sections["checkpoint"].dir, "checkpoint.dir")
    _check_checkpoint(_value(recipe, "resume_from_checkpoint"))


def _check_finite(recipe: DictConfig) -> None:
    known = {key: recipe._get_node(key, validate_access=False) for key in (*SECTIONS, "augmentations", "method_kwargs")}
    values = {key: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node for key, node in known.items()}
    for key, value in numbers_of(values, ""):
        try:
            check_number(key, value, most=max(2**63, value) if isinstance(value, int) else None)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _section(recipe: DictConfig, name: str, schema: type) -> Any:
    """A section by its schema; ``None`` as a text is YAML's null, as solo-learn reads it."""
    node = node_of(recipe, name)
    if not isinstance(node, (DictConfig, type(None))):
        raise ConfigError(f"{name}={node!r}: wanted a group of keys.")
    values = {} if node is None else plain(node, name)
    own = {field.name for field in dataclasses.fields(schema)}
    known = {key: None if value == "None" else value for key, value in values.items() if key in own}
    return parse(known, schema, name)


def _check_count(key: str, value: Any, required: bool) -> None:
    if value is None and not required:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise ConfigError(f"{key}={value!r}: wanted a whole number of at least 1.")


def _check_crops(recipe: DictConfig, batch_size: int) -> None:
    node = node_of(recipe, "augmentations")
    if not (isinstance(node, ListConfig) and node and all(isinstance(crop, DictConfig) for crop in node)):
        raise ConfigError(f"augmentations={node!r}: wanted a list with the keys of each kind of crop.")
    frames = []
    for place in range(len(node)):
        where = f"augmentations[{place}]"
        values: Any = plain(node[place], where)
        for group, schema in CROP_GROUPS.items():
            if group in values:
                _known_part(values[group], schema, f"{where}.{group}")
        frames.append(_known_part(values, Frame, where))
    large = sum(frame.num_crops for frame in frames if frame.crop_size == frames[0].crop_size)
    method = node_of(recipe, "method")
    if (large < 2 and method != "mae") or (large > 2 and facts_of(str(method)).unpacks_two):
        raise ConfigError(
            f"augmentations: {large} large crops (of size {frames[0].crop_size}, the first pipeline's), wanted 2 for {method}. "
            "Check num_crops and crop_size."
        )
    small = sum(frame.num_crops for frame in frames) - large
    if small and facts_of(str(method)).refuses_small:
        raise ConfigError(
            f"augmentations: {small} small crops, which solo-learn's {method} cannot take: it would stop in its first step. "
            "Leave them out, or take a method that learns from them: byol, simclr, supcon, swav."
        )
    pixels = sum(frame.num_crops * frame.crop_size**2 for frame in frames)
    check_fits(
        f"augmentations: a batch of crops (optimizer.batch_size={batch_size})",
        12 * pixels * batch_size,
        "Lower crop_size, num_crops or the batch size.",
    )


def _known_part(values: Any, schema: type, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}={values!r}: wanted a group of keys.")
    own = {field.name for field in dataclasses.fields(schema)}
    return parse({key: value for key, value in values.items() if key in own}, schema, where)


def _check_sizes(recipe: DictConfig, batch_size: int) -> None:
    """What must fit together, and in memory."""
    method, kwargs = str(node_of(recipe, "method")), _section(recipe, "method_kwargs", MethodKwargs)
    step = batch_size * rank_count(recipe)
    queue = DEFAULT_QUEUE if kwargs.queue_size is None else kwargs.queue_size
    if method in _QUEUES and (queue < 1 or queue % step):
        raise ConfigError(
            f"method_kwargs.queue_size={queue} must be a multiple of batch x devices = {step}. For example "
            f"method_kwargs.queue_size={max(1, queue // step) * step}."
        )
    whitening = DEFAULT_WHITENING if kwargs.whitening_size is None else kwargs.whitening_size
    if method == "wmse" and batch_size % whitening:
        raise ConfigError(f"method_kwargs.whitening_size={whitening} must divide optimizer.batch_size={batch_size}.")
    warmup = kwargs.warmup_teacher_temperature_epochs or 0
    if method == "dino" and warmup > recipe.max_epochs:
        raise ConfigError(
            f"method_kwargs.warmup_teacher_temperature_epochs={warmup} is more than max_epochs={recipe.max_epochs}."
        )
    hidden, output = kwargs.proj_hidden_dim or 1, kwargs.proj_output_dim or 1
    held = hidden * (512 + hidden + output) + (kwargs.pred_hidden_dim or 1) * 2 * output
    held += output * (queue if method in (*_QUEUES, "swav") else 0)
    held += output * max((value for _, value in numbers_of(kwargs.num_prototypes, "")), default=0)
    check_fits("what method_kwargs asks for", 4 * held, "Lower its dimensions, queue_size or num_prototypes.")


def _check_name(recipe: DictConfig) -> None:
    name = str(_value(recipe, "name"))
    if {"{", "}", "/", "\0"} & set(name):
        raise ConfigError(
            f"name={name!r}: solo-learn makes file names of it, and takes braces for places to fill in. Leave them and / out."
        )
    if len(name.encode()) > 150:
        raise ConfigError(f"name={name[:40]!r}...: solo-learn makes file names of it; {len(name)} letters are too many, 150 fit.")


def _check_checkpoint(checkpoint: str | None) -> None:
    if checkpoint in (None, "None", *_LIGHTNINGS) or "://" in str(checkpoint):
        return
    if not Path(str(checkpoint)).is_file():
        raise ConfigError(f"resume_from_checkpoint={checkpoint!r}: no such file. Relative paths start at {Path.cwd()}.")


def _value(recipe: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(recipe, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {first_line(error)}. Give it a value.") from error
