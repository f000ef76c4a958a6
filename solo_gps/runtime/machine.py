"""What this machine has: CPUs, and the memory that a process may still take."""

from __future__ import annotations

import os
from pathlib import Path

from solo_gps.errors import MachineError


def cpu_count() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


MOST_WORKERS = max(32, 4 * cpu_count())
"""Worker processes that a recipe may ask for: more than a few on a CPU only take memory."""


def free_memory() -> int | None:
    """Bytes that may still be allocated here, by the kernel's own estimate and the container's limit; ``None`` where unknown."""
    known = [_available(), _left_to_container()]
    return min((size for size in known if size is not None), default=None)


def check_fits(what: str, size: float, mend: str) -> None:
    """Refuses what cannot fit in memory, before the kernel ends a process without a word.

    Args:
        what: What would take it, for the user.
        size: Bytes that it takes at the least.
        mend: What to change.

    Raises:
        MachineError: More than is free.
    """
    free = free_memory()
    if free is not None and size > free:
        raise MachineError(
            f"{what}: takes {size / 2**30:,.1f} GiB of memory or more, and {free / 2**30:,.1f} GiB are free. {mend}"
        )


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _left_to_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Files that were read count as taken, and are given up for whoever asks.
        return limit - taken + int(stat["inactive_file"]) + int(stat["active_file"])
    except (OSError, ValueError, KeyError):  # no such limit here, or "max"
        return None
