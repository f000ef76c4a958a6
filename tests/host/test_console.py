"""One line is shown once, whoever sets up logging and when."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging
from solo_gps.host.console import show_progress_lines
{before}
show_progress_lines()
show_progress_lines()
{after}
logging.getLogger("solo_gps.neighbours").info("found")
"""


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("", "", "solo-gps: found\n"),
        ("logging.basicConfig(level=logging.INFO, format='own: %(message)s')", "", "own: found\n"),
        ("", "logging.basicConfig(format='late: %(message)s')", "late: found\n"),
        ("logging.getLogger('solo_gps.neighbours').disabled = True", "", "solo-gps: found\n"),
    ],
)
def test_a_line_is_shown_once(before, after, shown):
    program = PROGRAM.format(before=before, after=after)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == shown


@pytest.mark.parametrize(
    ("ranks", "shown"),
    [
        ({}, "solo-gps: found\nsolo-gps: strange\n"),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, "solo-gps: found\nsolo-gps: strange\n"),
        ({"LOCAL_RANK": "1"}, "solo-gps: strange\n"),
        ({"LOCAL_RANK": "0", "GROUP_RANK": "1"}, "solo-gps: strange\n"),
    ],
)
def test_one_rank_shows_the_lines_of_all_and_each_its_warnings(ranks, shown):
    program = PROGRAM.format(before="", after="") + 'logging.getLogger("solo_gps.host").warning("strange")\n'
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_RANK")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**environ, **ranks})
    assert done.stderr == shown
