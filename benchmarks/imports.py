"""Import time of solo_gps (wall), and what the search-path plugin adds to any Hydra program (CPU time).

python benchmarks/imports.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

REPEATS = 9


def microseconds(module, preload=""):
    """Cumulative import time of the module, by the interpreter's own clock."""
    code = f"{preload}\nimport {module}"
    out = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True).stderr
    rows = [line.removeprefix("import time:").split("|") for line in out.splitlines() if line.startswith("import time:")]
    return next(int(cumulative) for _, cumulative, name in reversed(rows) if name.strip() == module)


PATH = """
import time, hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
started = time.process_time()
from hydra_plugins.solo_gps_searchpath import SoloGpsSearchPath
SoloGpsSearchPath().manipulate_search_path(ConfigSearchPathImpl())
print(int(1e6 * (time.process_time() - started)))
"""


def plugin_microseconds():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PATH], capture_output=True, text=True, check=True)
    return int(done.stdout)


def main():
    rows = {
        "import solo_gps": [microseconds("solo_gps") for _ in range(REPEATS)],
        "search path, in a Hydra program": [plugin_microseconds() for _ in range(REPEATS)],
    }
    print(f"{'ms':<34}{'median':>9}{'least':>9}{'most':>9}")
    for name, times in rows.items():
        print(f"{name:<34}{statistics.median(times) / 1e3:>9.1f}{min(times) / 1e3:>9.1f}{max(times) / 1e3:>9.1f}")


if __name__ == "__main__":
    main()
