"""Import time of solo_gps (wall), and what the search-path plugin adds to any Hydra program (CPU time).

python benchmarks/imports.py
"""

from __future__ import annotations

import subprocess
import sys

from harness import Report, parser, spread

PLUGIN = """
import time, hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
started = time.process_time()
from hydra_plugins.solo_gps_searchpath import SoloGpsSearchPath
SoloGpsSearchPath().manipulate_search_path(ConfigSearchPathImpl())
print(1e3 * (time.process_time() - started))
"""


def import_ms() -> float:
    """Cumulative, by the interpreter's own clock."""
    command = [sys.executable, "-X", "importtime", "-c", "import solo_gps"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    return next(int(cumulative) for _, cumulative, name in rows if name.strip() == "solo_gps") / 1e3


def plugin_ms() -> float:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PLUGIN], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=9)
    options = arguments.parse_args()
    report = Report(f"{options.repeats} new processes each", {"what": "what", "ms": "ms (least to most)"})
    for what, measure in (("import solo_gps", import_ms), ("search path, in a Hydra program", plugin_ms)):
        times = [measure() for _ in range(options.repeats)]
        report.add(what=what, ms=spread(times, ".1f"), all_ms=times)
    report.end(options.json)


if __name__ == "__main__":
    main()
