"""Our log lines on stderr: one format from the first to the last, whatever the host does to the root logger."""

from __future__ import annotations

import copy
import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

NAME = "solo_gps"
KINDS = ((logging.ERROR, "error: "), (logging.WARNING, "warning: "), (logging.INFO, ""), (logging.NOTSET, "debug: "))
RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
# A process of SLURM may start torchrun, or Lightning more processes; LOCAL_RANK is then the number that counts.
RANKS_OF_LAUNCHERS = ("SLURM_PROCID", "SLURM_LOCALID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def show_progress_lines() -> None:
    """Shows the lines of solo-gps on stderr, each once, as ``solo-gps: ...``.

    Handlers of the root logger that write elsewhere (a log file, a socket) get them as well; those on stdout and stderr do not:
    Hydra, Lightning or the host may set one up, replace it or raise its level between two of our lines. One rank of a distributed
    training shows the lines of all; warnings come from each. A level that was set on the logger ``solo_gps`` is kept.
    """
    logger = logging.getLogger(NAME)
    for name, known in list(logging.Logger.manager.loggerDict.items()):
        if f"{name}.".startswith(f"{NAME}.") and isinstance(known, logging.Logger):
            known.disabled = False
    if not any(isinstance(handler, Console) for handler in logger.handlers):
        logger.addHandler(Console())
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.DEBUG if logging.getLogger().isEnabledFor(logging.DEBUG) else logging.INFO)


class Console(logging.Handler):
    """Writes records to stderr in our format, and hands them to those handlers of the root logger that write elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line; whoever gave our own logger a handler on the console has chosen another format."""
        others = [handler for handler in logging.getLogger(NAME).handlers if handler is not self]
        if (record.levelno >= logging.WARNING or _speaks_for_all()) and not any(map(_on_console, others)):
            try:
                line = self.format(record)
            except Exception:  # noqa: BLE001 - a message that does not fit its arguments must not end a training
                self.handleError(record)
            else:
                _write(f"{line}\n")
        record = _printable(record)
        for handler in list(logging.getLogger().handlers):
            if record.levelno >= handler.level and handler not in others and not _on_console(handler):
                handler.handle(record)

    def format(self, record: logging.LogRecord) -> str:
        """Puts our name before the message and, unless it is for information, its kind."""
        kind = next(kind for level, kind in KINDS if record.levelno >= level)
        return f"solo-gps: {kind}{super().format(record)}"


def _printable(record: logging.LogRecord) -> logging.LogRecord:
    """The record, with escapes for names that are not UTF-8, as log files are."""
    with suppress(Exception):  # a message that does not fit its arguments is for its handler to report
        message = record.getMessage()
        printable = message.encode("utf-8", "backslashreplace").decode()
        if printable != message:
            record = copy.copy(record)
            record.msg, record.args = printable, ()
    return record


def _speaks_for_all() -> bool:
    names = RANKS if "LOCAL_RANK" in os.environ else RANKS + RANKS_OF_LAUNCHERS
    return all(os.environ.get(name, "0") in ("0", "") for name in names)


def _on_console(handler: logging.Handler) -> bool:
    """Whether a handler writes to this process's stdout or stderr, or to one that is closed by now."""
    stream: Any = getattr(handler, "stream", None)
    if stream is None:
        stream = getattr(getattr(handler, "console", None), "file", None)  # rich's handler
    if stream is None:
        return False
    if any(stream is standard for standard in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return True
    try:
        return stream.fileno() in (1, 2)
    except (AttributeError, OSError, ValueError):
        return bool(getattr(stream, "closed", False))


def _write(line: str) -> None:
    """Writes to the stderr of this moment, above the bars that tqdm shows on it; one that is closed gets nothing."""
    stream: Any = sys.stderr
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = line.encode(encoding, "backslashreplace").decode(encoding)
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    bars_aside: AbstractContextManager[Any] = tqdm.external_write_mode(file=stream) if tqdm else nullcontext()
    with suppress(AttributeError, OSError, ValueError), bars_aside:
        stream.write(line)
        stream.flush()
