"""Programs in several processes (gloo), as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent


def torchrun(
    *program: object, cwd: Path, ranks: int = 2, timeout: float = 600, **environ: str
) -> subprocess.CompletedProcess[str]:
    """What ``ranks`` processes of a program printed, and how they ended.

    Args:
        *program: A script and its arguments, or ``-m``, a module and its arguments.
        cwd: Folder to start in.
        ranks: Number of processes.
        timeout: Seconds, after which none of them is left and the test fails.
        **environ: Environment variables.
    """
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *map(str, program)]
    started = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        started.terminate()  # torchrun ends its processes
        with suppress(subprocess.TimeoutExpired):
            started.communicate(timeout=60)
        started.kill()
        printed = started.communicate()
        raise AssertionError(f"still at work after {timeout:.0f} s: {printed}") from None
    return subprocess.CompletedProcess(command, started.returncode, *printed)


def threads_of_gloo(patience: float = 60) -> int:
    """How many threads of gloo's this process keeps; 0 outside Linux, where nobody says.

    Args:
        patience: Seconds until one counts as kept: a thread that was joined is listed until the kernel has buried it.
    """
    until = time.monotonic() + patience
    while (count := _listed_threads_of_gloo()) and time.monotonic() < until:
        time.sleep(0.05)
    return count


def _listed_threads_of_gloo() -> int:
    count = 0
    for task in Path("/proc/self/task").glob("*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            count += "gloo" in (task / "comm").read_text()
    return count


def mapped_file(array: np.ndarray) -> dict[str, int]:
    """The file that an array of this process is mapped from (inode 0: none), by the kernel's own list, and what of it is here.

    Returns:
        ``inode``, ``rss`` and ``pss`` in kB: of a page that two processes map each counts a half in ``pss``. Linux alone.
    """
    at = array.__array_interface__["data"][0]
    found: dict[str, int] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            start, end = (int(bound, 16) for bound in words[0].split("-"))
            inside = start <= at < end
            found = {"inode": int(words[4])} if inside else found
        elif inside and words[0] in ("Rss:", "Pss:"):
            found[words[0][:-1].lower()] = int(words[1])
    return found
