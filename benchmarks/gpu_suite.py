"""Neighbour search on a GPU: one command, one JSON and one Markdown table for each size.

    python benchmarks/gpu_suite.py --out results/          # N = 1,281,167, D = 768, k = 50
    python benchmarks/gpu_suite.py --images 200000 --out results/

A row is on disk once it is measured, and a call begins none after --minutes: run it again until it says that all is done.

Runs our exact search, FAISS's flat search on the GPU (where a FAISS for CUDA is installed) and a plain torch float32 product with
topk, on the same embeddings; reports seconds, GPU memory and queries a second; then checks a random sample of rows of our tables
against float64 on the CPU. Peers run on as many queries as fit their share of the time and are scaled up to N; the table says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Ongoing, in_pieces, parser

from solo_gps.neighbours.backends.faiss_here import installed_faiss

K = 50
PEER_SECONDS = 75.0
SAMPLE = 300


def embeddings(images: int, columns: int, device: str) -> np.ndarray:
    """(N, D) float16, made on the device: an inner dimension of 32, 1,000 clusters, noise in every column."""
    import torch

    options: dict[str, Any] = {"device": device, "generator": torch.Generator(device).manual_seed(0)}
    centres = torch.randn((1000, 32), **options) * 2
    mixing = torch.randn((32, columns), **options) / 32**0.5
    out = np.empty((images, columns), np.float16)
    for start in range(0, images, 1 << 17):
        rows = min(1 << 17, images - start)
        inner = centres[torch.randint(0, 1000, (rows,), **options)] + torch.randn((rows, 32), **options)
        block = inner @ mixing + 0.1 * torch.randn((rows, columns), **options)
        out[start : start + rows] = block.half().cpu().numpy()
    return out


def timed(run: Callable[[], object], device: str) -> tuple[float, float | None, object]:
    """Seconds, peak GPU memory of torch in GiB, result."""
    import torch

    if device == "cpu":
        begun = time.perf_counter()
        result = run()
        return time.perf_counter() - begun, None, result
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    result = run()
    torch.cuda.synchronize()
    return time.perf_counter() - begun, torch.cuda.max_memory_allocated() / 2**30, result


def ours(array: np.ndarray, backend: str, given: argparse.Namespace) -> np.ndarray:
    from solo_gps.neighbours import find

    return find(array, {"backend": backend, "device": given.device, "gpu_memory_mib": given.memory_mib}, k=K).indices


def peer_queries(run: Callable[[int, int], object], images: int, block: int, device: str) -> tuple[int, float]:
    """Runs blocks of queries until the time is up; returns queries answered and seconds."""
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    run(0, min(block, images))
    wait()
    begun, done = time.perf_counter(), 0
    while done < images and time.perf_counter() - begun < PEER_SECONDS:
        run(done, min(done + block, images))
        wait()
        done = min(done + block, images)
    return done, time.perf_counter() - begun


def plain_torch(array: np.ndarray, device: str) -> tuple[int, float]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    points = torch.from_numpy(array).to(device).float()
    norms = (points * points).sum(1)

    def run(start: int, stop: int) -> object:
        squared = torch.addmm(norms[None, :], points[start:stop], points.T, alpha=-2)
        return torch.topk(squared, K + 1, dim=1, largest=False)

    return peer_queries(run, len(array), 2048, device)


def faiss_flat(array: np.ndarray) -> tuple[int, float]:
    import faiss

    points = array.astype(np.float32)
    index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(points.shape[1]), ngpu=1)
    index.add(points)
    return peer_queries(lambda start, stop: index.search(points[start:stop], K + 1), len(points), 8192, "cuda")


def check(array: np.ndarray, indices: np.ndarray) -> dict[str, object]:
    """Compares random rows with a float64 search on the CPU: how many rows hold the same images, and the largest difference."""
    rows = np.sort(np.random.default_rng(1).permutation(len(array))[:SAMPLE])
    best = np.full((len(rows), 0), 0.0)
    names = np.zeros((len(rows), 0), np.int64)
    queries = array[rows].astype(np.float64)
    own = (queries**2).sum(1)[:, None]
    for start in range(0, len(array), 1 << 16):
        block = array[start : start + (1 << 16)].astype(np.float64)
        squared = own + (block**2).sum(1)[None] - 2 * queries @ block.T
        at = np.arange(start, start + len(block))
        squared[rows[:, None] == at[None]] = np.inf
        best = np.concatenate([best, squared], axis=1)
        names = np.concatenate([names, np.broadcast_to(at, squared.shape)], axis=1)
        order = np.argpartition(best, K - 1, axis=1)[:, :K]
        best, names = np.take_along_axis(best, order, axis=1), np.take_along_axis(names, order, axis=1)
    reference = np.sort(best, axis=1)
    wide = array[rows].astype(np.float64)
    found = np.sort(((wide[:, None] - array[indices[rows]].astype(np.float64)) ** 2).sum(-1), axis=1)
    return {
        "rows": len(rows),
        "rows_with_the_same_images": int((np.sort(names, axis=1) == np.sort(indices[rows], axis=1)).all(axis=1).sum()),
        "largest_relative_difference": float((np.abs(found - reference) / np.maximum(reference, 1e-12)).max()),
    }


COLUMNS = {
    "search": "search",
    "seconds": "seconds|.1f",
    "queries": "queries run|,",
    "rate": "queries a second|,.0f",
    "gpu_gib": "GPU memory, GiB|.1f",
}
OURS = "solo-gps torch, exact"


def checked_search(array: np.ndarray, backend: str, given: argparse.Namespace) -> dict[str, object]:
    """Seconds and memory of one of our searches, and how its table compares with float64."""
    ours(array[:5000], backend, given)
    seconds, gib, indices = timed(lambda: ours(array, backend, given), given.device)
    return {"seconds": seconds, "queries": len(array), "gpu_gib": gib, "check": check(array, np.asarray(indices))}


def peer(answered: tuple[int, float], images: int) -> dict[str, object]:
    """A peer's seconds, scaled up to all queries."""
    queries, seconds = answered
    return {"seconds": seconds * images / queries, "queries": queries}


def searches(given: argparse.Namespace) -> dict[str, Callable[[np.ndarray], dict[str, object]]]:
    """Each row's name, and what measures it."""
    rows: dict[str, Callable[[np.ndarray], dict[str, object]]] = {
        OURS: lambda array: checked_search(array, "torch", given),
        "torch float32 product + topk": lambda array: peer(plain_torch(array, given.device), len(array)),
    }
    if given.device == "cuda" and installed_faiss().gpus:
        rows["solo-gps faiss_gpu, exact"] = lambda array: checked_search(array, "faiss_gpu", given)
        rows["FAISS GPU flat"] = lambda array: peer(faiss_flat(array), len(array))
    return rows


def main() -> None:
    arguments = in_pieces(parser(__doc__))
    arguments.add_argument("--images", type=int, default=1_281_167)
    arguments.add_argument("--columns", type=int, default=768)
    arguments.add_argument("--memory-mib", type=int, default=16384)
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script out, at a small size")
    given = arguments.parse_args()
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_suite: torch sees no GPU here; benchmarks/knn.py measures the CPU.")
    place = "on the GPU" if given.device == "cuda" else "ON THE CPU, which no figure of a GPU follows from"
    what = f"{installed_faiss()}; N = {given.images:,}, D = {given.columns}, k = {K}, {place}"
    report = Ongoing(what, COLUMNS, given, f"gpu_suite_{given.images}x{given.columns}")
    rows = searches(given)
    left = [name for name in rows if report.row(name) is None]
    array = embeddings(given.images, given.columns, given.device) if left else None
    while left:  # a row a call at the least
        row = rows[left[0]](array)
        report.add(search=left.pop(0), rate=given.images / row["seconds"], **row)
        if report.over:
            break
    notes = [
        f"{row['search']}, against float64: {row['check']['rows_with_the_same_images']} of {row['check']['rows']} rows hold the "
        f"same images; the largest relative difference of a distance is {row['check']['largest_relative_difference']:.1e}."
        for row in report.rows
        if "check" in row
    ]
    report.done(left, " ".join([*notes, "Where fewer queries than N were run, the seconds are scaled up."]))


if __name__ == "__main__":
    main()
