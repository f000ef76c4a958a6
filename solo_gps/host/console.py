"""Where the one-line reports of solo-gps go."""

from __future__ import annotations

import logging
import os
import sys


def show_progress_lines() -> None:
    """Shows the INFO lines of solo-gps on stderr when the program set up no logging of its own.

    One rank of a distributed training shows them for all; warnings come from each. solo-learn's recipes
    switch Hydra's logging off, which would hide where a cache is and which search was picked.
    """
    logger = logging.getLogger("solo_gps")
    for name, known in logging.Logger.manager.loggerDict.items():
        if name.startswith("solo_gps") and isinstance(known, logging.Logger):
            known.disabled = False
    if logging.getLogger().handlers or logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("solo-gps: %(message)s"))
    # A library may set up the root logger later; each line would then come twice.
    handler.addFilter(lambda record: not logging.getLogger().handlers)
    logger.addHandler(handler)
    first = os.environ.get("LOCAL_RANK", "0") == "0" == os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    logger.setLevel(logging.INFO if first else logging.WARNING)
