"""Time and peak memory of the search for semantic pairs at the size of 10 % of ImageNet.

    python benchmarks/sepp_pairs.py --images 130000 --columns 512 --threads 2

Points lie around random directions, as classes do, so that pairs exist. Each part is measured in a process of its own, since peak
memory only grows: the bare matrix products of the upper triangle (the bound), the search and, with --sweep, the sweep.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

PARTS = ("import and points", "products alone", "search", "sweep")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=130_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--sweep", action="store_true", help="measure the sweep over thresholds too")
    parser.add_argument("--part", choices=PARTS, help="measure this part here")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure(options)))
        return
    full = options.images**2 * 4 / 2**30
    print(f"K = {options.images:,} x {options.columns} float32; a K x K matrix would take {full:,.1f} GiB")
    print(f"{platform.machine()}, {options.threads} threads, working memory {options.memory_mib} MiB\n")
    print("| part | seconds | CPU seconds | peak memory, MiB | found |\n|---|---|---|---|---|")
    for part in PARTS if options.sweep else PARTS[:-1]:
        sizes = [f"--images={options.images}", f"--columns={options.columns}"]
        limits = [f"--threads={options.threads}", f"--memory-mib={options.memory_mib}"]
        command = [sys.executable, __file__, *sizes, *limits, "--part", part]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"| {part} | {row['seconds']:.1f} | {row['cpu']:.1f} | {row['peak']:,.0f} | {row['found']} |", flush=True)


def measure(options: argparse.Namespace) -> dict:
    import torch

    torch.set_num_threads(options.threads)
    array = points(options.images, options.columns)
    started, cpu = time.perf_counter(), time.process_time()
    parts = dict(zip(PARTS, (lambda *_: "-", products, search, sweep), strict=True))
    text = parts[options.part](array, options)
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "found": text,
    }


def points(images: int, columns: int):  # type: ignore[no-untyped-def]
    """(K, D) float32: 1,000 directions with a spread that differs from one to the next."""
    import numpy as np

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, columns)).astype(np.float32)
    array = np.empty((images, columns), np.float32)
    for start in range(0, images, 10_000):
        stop = min(start + 10_000, images)
        of = rng.integers(0, 1000, stop - start)
        spread = (0.12 + 0.4 * of / 1000).astype(np.float32)[:, None]
        array[start:stop] = centres[of] + spread * rng.standard_normal((stop - start, columns), dtype=np.float32)
    return array


def products(array, options: argparse.Namespace) -> str:  # type: ignore[no-untyped-def]
    from solo_gps.samplers.sepp.cosines import UnitRows

    return f"{sum(1 for _ in UnitRows(array, memory_mib=options.memory_mib).tiles())} tiles"


def search(array, options: argparse.Namespace) -> str:  # type: ignore[no-untyped-def]
    from solo_gps.samplers.sepp.cosines import UnitRows, find_cosine_pairs

    found = find_cosine_pairs(UnitRows(array, memory_mib=options.memory_mib), 0.96, 0.99)
    return f"{len(found.first):,} pairs, {found.above:,} above"


def sweep(array, options: argparse.Namespace) -> str:  # type: ignore[no-untyped-def]
    from solo_gps.samplers.sepp.cosines import UnitRows, sample_cosines
    from solo_gps.samplers.sepp.sweep import sweep_thresholds

    result = sweep_thresholds(UnitRows(array, memory_mib=options.memory_mib), sample_cosines(array), None)
    return f"{len(result.thresholds)} thresholds"


if __name__ == "__main__":
    main()
