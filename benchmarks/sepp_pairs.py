"""Time and peak memory of the search for semantic pairs at the size of 10 % of ImageNet.

    python benchmarks/sepp_pairs.py --images 130000 --columns 512 --threads 2

Points lie around random directions, as classes do, so that pairs exist. Each part is measured in a process of its own, since peak
memory only grows: the bare matrix products of the upper triangle (the bound), the search and, with --sweep, the sweep.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import numpy as np
from harness import Report, in_a_process, parser, spending


def products(rows: Any, array: np.ndarray) -> str:
    return f"{sum(1 for _ in rows.tiles())} tiles"


def search(rows: Any, array: np.ndarray) -> str:
    from solo_gps.samplers.sepp.cosines import find_cosine_pairs

    found = find_cosine_pairs(rows, 0.96, 0.99)
    return f"{len(found.first):,} pairs, {found.above:,} above"


def sweep(rows: Any, array: np.ndarray) -> str:
    from solo_gps.samplers.sepp.cosines import sample_cosines
    from solo_gps.samplers.sepp.sweep import sweep_thresholds

    return f"{len(sweep_thresholds(rows, sample_cosines(array), None).thresholds)} thresholds"


PARTS = {"import and points": None, "products alone": products, "search": search, "sweep": sweep}


SIZES = {"images": 130_000, "columns": 512, "threads": 2, "memory-mib": 512}


def points(images: int, columns: int) -> np.ndarray:
    """(K, D) float32: 1,000 directions with a spread that differs from one to the next."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, columns)).astype(np.float32)
    array = np.empty((images, columns), np.float32)
    for start in range(0, images, 10_000):
        stop = min(start + 10_000, images)
        of = rng.integers(0, 1000, stop - start)
        width = (0.12 + 0.4 * of / 1000).astype(np.float32)[:, None]
        array[start:stop] = centres[of] + width * rng.standard_normal((stop - start, columns), dtype=np.float32)
    return array


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from solo_gps.samplers.sepp.cosines import UnitRows

    torch.set_num_threads(options.threads)
    array, part = points(options.images, options.columns), PARTS[options.part]
    with spending() as spent:
        found = None if part is None else part(UnitRows(array, memory_mib=options.memory_mib), array)
    return {"found": found, **dataclasses.asdict(spent)}


def main() -> None:
    arguments = parser(__doc__)
    for size, default in SIZES.items():
        arguments.add_argument(f"--{size}", type=int, default=default)
    arguments.add_argument("--sweep", action="store_true", help="measure the sweep over thresholds too")
    arguments.add_argument("--part", choices=PARTS, help="measure this part here")
    options = arguments.parse_args()
    if options.part:
        print(json.dumps(measure(options)))
        return
    full = options.images**2 * 4 / 2**30
    what = (
        f"K = {options.images:,} x {options.columns} float32, of which a K x K matrix would take {full:,.1f} GiB; "
        f"{options.threads} threads, working memory {options.memory_mib} MiB"
    )
    columns = {"part": "part", "wall": "seconds|.1f", "cpu": "CPU seconds|.1f", "peak": "peak memory, MiB|,.0f", "found": "found"}
    report = Report(what, columns)
    for part in PARTS:
        if part != "sweep" or options.sweep:
            sizes = (f"--{size}={getattr(options, size.replace('-', '_'))}" for size in SIZES)
            report.add(part=part, **in_a_process(__file__, *sizes, "--part", part))
    report.end(options.json)


if __name__ == "__main__":
    main()
