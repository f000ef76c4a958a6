"""The error family for users: every bad input gets one error that says where, what was wanted, what came, and the mend."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

MOST_NAMED, CLOSEST = 30, 8
"""Names that an error lists; of more it lists the closest."""


class SoloGpsError(ValueError):
    """Base of every error that a user can cause and mend."""

    def __init__(self, message: str) -> None:
        # A DataLoader makes its worker's error anew, of the same type, from the worker's traceback: that ends with the message.
        super().__init__(message.rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2].strip())


class ConfigError(SoloGpsError):
    """A key, type or value in the configuration is wrong."""


class UnknownNameError(ConfigError):
    """A sampler, prior, backend, method or recipe of that name does not exist."""

    def __init__(self, kind: str, name: object, known: Iterable[str], hint: str = "") -> None:
        options = sorted(known)
        shown = options
        if len(options) > MOST_NAMED:
            near = difflib.get_close_matches(str(name), options, n=CLOSEST, cutoff=0.0)
            shown = [*near, f"and {len(options) - len(near)} others"]
        message = f"unknown {kind} {name!r}; known: {', '.join(shown) or 'none'}.{did_you_mean(name, options)}"
        super().__init__(message + (f" {hint}" if hint else ""))


class DataError(SoloGpsError):
    """The images, labels or embeddings are not what was asked for."""


class UnreadableImageError(DataError):
    """An image that cannot be read.

    Args:
        message: Where it is; or, made anew by a DataLoader, the whole message.
        reason: What reading it raised.
    """

    def __init__(self, message: str, reason: BaseException | None = None) -> None:
        why = "" if reason is None else f" cannot be read: {brief(reason).rstrip('.')}. Mend or remove it."
        super().__init__(f"{message}{why}")


class CacheError(SoloGpsError):
    """A cache folder is damaged, foreign, or cannot be written."""


class HostError(SoloGpsError):
    """solo-learn is missing, of an unsupported generation, or was not reached."""


class RefusedMethodError(SoloGpsError):
    """A solo-learn method that a sampler cannot act on."""


class MachineError(SoloGpsError):
    """A file that cannot be read or written, a full disk, no memory."""


class UnexpectedError(RuntimeError):
    """Nothing that a user can mend: a bug, of solo-gps or of a plugin. Its cause has the traceback."""


@contextmanager
def our_part(doing: str) -> Iterator[None]:
    """Gives every exception of our own rooms a form that no host takes for anything else.

    Hosts read meaning into some: for Lightning a ``StopIteration`` is the end of an epoch, for Python a ``SystemExit`` without a
    number is success.

    Args:
        doing: What is being done, for the user: "building the prior".

    Raises:
        SoloGpsError: What a user can mend.
        UnexpectedError: Anything else, except ``KeyboardInterrupt``, which stays what it is.
    """
    try:
        yield
    except (SoloGpsError, UnexpectedError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise _in_our_words(error, doing) from error


def _in_our_words(error: BaseException, doing: str) -> SoloGpsError | UnexpectedError:
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, OmegaConfBaseException):
        key = getattr(error, "full_key", None)
        return ConfigError(f"{f'{key}: ' if key else ''}{first_line(error)}. Mend it in the recipe.")
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return MachineError(
            f"{doing}: the GPU has too little memory free ({brief(error).partition('. GPU')[0]}). Lower prior.batch_size, or use "
            "the CPU: prior.device=cpu, ++search.device=cpu."
        )
    if isinstance(error, MemoryError):
        return MachineError(f"{doing}: out of memory ({brief(error)}). Lower prior.batch_size or search.memory_mib.")
    if (killed := killed_worker(error)) is not None:
        return killed
    if isinstance(error, OSError):
        return MachineError(f"{doing}: {brief(error)}. Mend the file, the permission or the disk, and start again.")
    return UnexpectedError(
        f"solo-gps ended this run while {doing}: {brief(error)}. This is a bug, of solo-gps or of a plugin, not of your "
        "recipe: please report it with the traceback."
    )


def of_host(error: BaseException, doing: str) -> HostError:
    """Returns an exception of the host's in one line: solo-learn and Lightning judge a recipe by assertions, deep within.

    Args:
        error: What was raised.
        doing: What the host was doing, for the user.
    """
    if isinstance(error, URLError):
        return HostError(
            f"solo-learn ended while {doing}: what is not on this machine cannot be fetched ({brief(error)}). Put the data set "
            "below data.train_path and data.val_path by hand, or mend the network."
        )
    *_, last = traceback.extract_tb(error.__traceback__)
    reason = last.line if isinstance(error, AssertionError) and not str(error) else brief(error)
    place = f"{'/'.join(Path(last.filename).parts[-3:])}, line {last.lineno}"
    return HostError(
        f"solo-learn ended while {doing}: {reason} ({place}). Mend the key of the recipe that this is about; HYDRA_FULL_ERROR=1 "
        "shows the traceback."
    )


def killed_worker(error: BaseException) -> MachineError | None:
    """What to say of a process of a DataLoader that was killed; torch raises its error wherever the main process is just then."""
    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")):
        return None
    return MachineError(
        f"a process that reads images has ended: {first_line(error).rstrip('.')}. Perhaps the machine had no memory left: lower "
        "the number of workers or the batch size (prior.num_workers, prior.batch_size; data.num_workers, optimizer.batch_size)."
    )


def brief(error: BaseException) -> str:
    """Returns an error's type and the first line of its message."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}".removesuffix(f": {name}")


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type's name where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(name: object) -> str:
    """Returns a file's name on one line: line breaks and the like are escaped."""
    return str(name) if str(name).isprintable() else repr(str(name))[1:-1]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the closest known name, or the empty string."""
    by_case = {option.lower(): option for option in known}
    close = difflib.get_close_matches(str(name).lower(), by_case, n=1, cutoff=0.5)
    return f" Did you mean {by_case[close[0]]!r}?" if close else ""
