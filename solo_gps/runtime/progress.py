"""Progress of long work: a bar with rate and time left on a terminal, a plain log line every so often without one."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

logger = logging.getLogger("solo_gps.embeddings")

LOG_EVERY_SECONDS = 30.0


class Progress:
    """Counts ``total`` units of work. Only rank 0 should enable it.

    Args:
        what: What is done, for example ``"embedding with patches"``.
        total: Units of the whole work.
        unit: Name of a unit.
        done: Units that were done before, and do not count in the rate.
        enabled: False to stay silent.
    """

    def __init__(self, what: str, total: int, *, unit: str = "images", done: int = 0, enabled: bool = True) -> None:
        self.what, self.total, self.unit, self.initial, self.enabled = what, total, unit, done, enabled
        self.done = done
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._start = self._logged = time.monotonic()
        if self.enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.total, initial=self.initial, desc=self.what, unit=f" {self.unit}", unit_scale=True, leave=False
            )
        return self

    def update(self, count: int, note: str = "") -> None:
        """Counts ``count`` more units, with an optional ``note``, for example the loss."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            if note:
                self._bar.set_postfix_str(note, refresh=False)
        elif self.enabled and (now := time.monotonic()) - self._logged > LOG_EVERY_SECONDS:
            self._logged = now
            logger.info(self._line(now, note))

    def _line(self, now: float, note: str) -> str:
        rate = (self.done - self.initial) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.1f} {self.unit}/s, {duration(left)} left"
        return f"{text} ({note})" if note else text

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Seconds as ``"1 h 02 min"``, ``"3 min 20 s"`` or ``"4.2 s"``."""
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
