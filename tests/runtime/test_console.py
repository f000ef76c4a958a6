"""One line is shown once, in one format, whoever sets up logging and when; log files get it as well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import io, logging, logging.config, sys
from solo_gps.runtime.console import show_progress_lines
early = logging.getLogger("solo_gps.neighbours")
{before}
show_progress_lines()
{after}
logging.getLogger("solo_gps.neighbours").info("found %d", 3)
"""
RANK_NAMES = re.compile(r"(.*_RANK|SLURM_.*)$")


def stderr_of(program, cwd=None, **environ):
    kept = {name: value for name, value in os.environ.items() if not RANK_NAMES.match(name)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environ},
    )
    assert done.stdout == b""
    return done.stderr.decode()  # as it was written: text mode would take "\r" for "\n"


HYDRAS_HANDLER = """
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)
"""


@pytest.mark.parametrize(
    "set_up",
    [
        "",
        "show_progress_lines(); show_progress_lines()",
        "logging.basicConfig(level=logging.INFO, format='own: %(message)s')",
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout)",
        "logging.basicConfig(stream=open(2, 'w', closefd=False))",
        HYDRAS_HANDLER,
        "logging.getLogger().setLevel(logging.ERROR)",
        "logging.basicConfig(level=logging.DEBUG, force=True)",
        "logging.getLogger().addHandler(logging.NullHandler())",
    ],
    ids=["nothing", "again", "basicConfig", "stdout", "by number", "Hydra", "level", "force", "null"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_line_is_shown_once_in_our_format(set_up, when):
    assert stderr_of(PROGRAM.format(**{"before": "", "after": "", when: set_up})) == "solo-gps: found 3\n"


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("early.disabled = True", "", "solo-gps: found 3\n"),
        ("logging.config.dictConfig({'version': 1, 'disable_existing_loggers': True})", "", "solo-gps: found 3\n"),
        (
            HYDRAS_HANDLER,
            "early.info('before'); logging.getLogger().handlers[:] = [logging.StreamHandler()]",
            "solo-gps: before\nsolo-gps: found 3\n",
        ),
        (
            "",
            "early.warning('a'); early.error('b'); early.debug('c')",
            "solo-gps: warning: a\nsolo-gps: error: b\nsolo-gps: found 3\n",
        ),
        (
            "logging.addLevelName(logging.WARNING, '\\033[33mWARN')",
            "early.warning('a')",
            "solo-gps: warning: a\nsolo-gps: found 3\n",
        ),
        ("logging.getLogger('solo_gps').setLevel(10)", "early.debug('a')", "solo-gps: debug: a\nsolo-gps: found 3\n"),
        ("logging.getLogger().setLevel(10)", "early.debug('a')", "solo-gps: debug: a\nsolo-gps: found 3\n"),
        ("logging.getLogger('solo_gps').setLevel(30)", "early.error('a')", "solo-gps: error: a\n"),
        ("", "early.info('%d', 'a')", "faulty"),
        ("", "early.info('\\udcff')", "solo-gps: \\udcff\nsolo-gps: found 3\n"),
        ("", "sys.stderr.close()", ""),
        ("", "sys.stderr = None", ""),
        ("logging.getLogger('solo_gps').addHandler(logging.StreamHandler())", "", "found 3\n"),
    ],
    ids=[
        *(
            "disabled",
            "dictConfig",
            "handlers change",
            "kinds",
            "coloured levels",
            "debug",
            "debug of the root",
            "quiet",
            "faulty",
        ),
        *("not text", "closed", "none", "a handler of the user's"),
    ],
)
def test_what_is_shown(before, after, shown):
    found = stderr_of(PROGRAM.format(before=before, after=after))
    if shown == "faulty":
        assert found.startswith("--- Logging error ---")
        assert found.endswith("solo-gps: found 3\n")
    else:
        assert found == shown


def test_a_stderr_that_is_replaced_gets_the_lines_from_then_on():
    after = "early.info('first'); sys.stderr = other = io.StringIO()"
    end = "assert other.getvalue() == 'solo-gps: found 3\\n'"
    assert stderr_of(PROGRAM.format(before="", after=after) + end) == "solo-gps: first\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_log_files_and_other_handlers_get_the_lines_too(when, tmp_path):
    set_up = """
class Kept(logging.Handler):
    lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())
file = logging.FileHandler("own.log")
file.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
errors = logging.FileHandler("errors.log")
errors.setLevel(logging.ERROR)
logging.getLogger().handlers[:] = [logging.StreamHandler(), file, errors, Kept(), logging.StreamHandler(io.StringIO())]
"""
    end = """
early.error("bad")
assert Kept.lines == ["found 3", "bad"]
assert logging.getLogger().handlers[-1].stream.getvalue() == "found 3\\nbad\\n"
"""
    program = PROGRAM.format(**{"before": "", "after": "", when: set_up}) + end
    assert stderr_of(program, tmp_path) == "solo-gps: found 3\nsolo-gps: error: bad\n"
    assert (tmp_path / "own.log").read_text() == "solo_gps.neighbours INFO found 3\nsolo_gps.neighbours ERROR bad\n"
    assert (tmp_path / "errors.log").read_text() == "bad\n"


def test_the_handler_of_rich_is_one_on_the_console():
    pytest.importorskip("rich")
    before = "from rich.logging import RichHandler; logging.basicConfig(level=20, handlers=[RichHandler()])"
    assert stderr_of(PROGRAM.format(before=before, after="")) == "solo-gps: found 3\n"


@pytest.mark.parametrize(
    ("ranks", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0", "SLURM_PROCID": "1"}, True),
    ],
)
def test_one_rank_shows_the_lines_of_all_and_each_its_warnings(ranks, first):
    program = PROGRAM.format(before="", after="") + 'logging.getLogger("solo_gps.hosts").warning("strange")\n'
    shown = ["solo-gps: found 3\n"] * first + ["solo-gps: warning: strange\n"]
    assert stderr_of(program, **ranks) == "".join(shown)


BAR = """
from tqdm import tqdm
bar = tqdm(total=2, file=sys.stderr, bar_format="{n} of {total}", mininterval=0)
bar.update()
"""


def test_a_line_stands_above_a_progress_bar():
    shown = stderr_of(PROGRAM.replace("{after}", BAR).replace("{before}", "") + "bar.close()\n")
    assert shown == "\r0 of 2\r1 of 2\r      \rsolo-gps: found 3\n\r1 of 2\r1 of 2\n"


def test_no_bar_is_imported_for_a_line():
    program = PROGRAM.format(before="", after="") + "assert 'tqdm' not in sys.modules, 'imported'\n"
    assert stderr_of(program) == "solo-gps: found 3\n"


HYDRA_PROGRAM = """
import logging
import hydra

@hydra.main(version_base="1.2", config_path=None)
def program(cfg):
    from solo_gps.runtime.console import show_progress_lines
    logging.getLogger("host").info("begins")
    show_progress_lines()
    logging.getLogger("solo_gps.embeddings").info("found")
    logging.getLogger("solo_gps.embeddings").debug("blocks")
    logging.getLogger("solo_gps.embeddings").warning("strange")
    logging.getLogger("host").info("ends")

program()
"""
SHOWN = ["solo-gps: found", "solo-gps: warning: strange"]
HOSTS = ["[host][INFO] - begins", "[host][INFO] - ends"]
OURS = ["[solo_gps.embeddings][INFO] - found", "[solo_gps.embeddings][WARNING] - strange"]


@pytest.mark.parametrize(
    ("override", "stderr", "stdout", "file"),
    [
        ([], SHOWN, HOSTS, [HOSTS[0], *OURS, HOSTS[1]]),
        (["hydra/job_logging=disabled"], SHOWN, [], None),
        (["hydra/job_logging=none"], SHOWN, ["[HYDRA] begins", "[HYDRA] ends"], None),
        (["hydra/job_logging=stdout"], SHOWN, ["begins", "ends"], None),
        (
            ["hydra.verbose=solo_gps"],
            [SHOWN[0], "solo-gps: debug: blocks", SHOWN[1]],
            HOSTS,
            [HOSTS[0], OURS[0], "[solo_gps.embeddings][DEBUG] - blocks", OURS[1], HOSTS[1]],
        ),
    ],
    ids=["default", "disabled", "none", "stdout", "verbose"],
)
def test_under_hydras_own_logging(override, stderr, stdout, file, tmp_path):
    (tmp_path / "program.py").write_text(HYDRA_PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py", "hydra.run.dir=out", *override],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
    )
    assert done.stderr.splitlines() == stderr
    assert [re.sub(r"^\[[\d\-: ,]+\]", "", line) for line in done.stdout.splitlines()] == stdout
    log = tmp_path / "out" / "program.log"
    if file is None:
        assert not log.exists() or log.read_text() == ""
    else:
        assert [re.sub(r"^\[[\d\-: ,]+\]", "", line) for line in log.read_text().splitlines()] == file
