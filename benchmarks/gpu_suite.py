"""Neighbour search on a GPU: one command, one JSON and one Markdown table. Under eight minutes on one data-centre GPU.

    python benchmarks/gpu_suite.py --out results/          # N = 1,281,167, D = 768, k = 50
    python benchmarks/gpu_suite.py --images 200000 --out results/

Runs our exact search, FAISS's flat search on the GPU (where a FAISS for CUDA is installed) and a plain torch float32 product with
topk, on the same embeddings; reports seconds, GPU memory and queries a second; then checks a random sample of rows of our table
against float64 on the CPU. Peers run on as many queries as fit their share of the time and are scaled up to N; the table says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Report, parser

from solo_gps.neighbours.backends.faiss_here import installed_faiss
from solo_gps.runtime.files import write_text

K = 50
PEER_SECONDS = 75.0
SAMPLE = 300


def embeddings(images: int, columns: int) -> np.ndarray:
    """(N, D) float16, made on the GPU: an inner dimension of 32, 1,000 clusters, noise in every column."""
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    options = {"device": "cuda", "generator": generator}
    centres = torch.randn((1000, 32), **options) * 2
    mixing = torch.randn((32, columns), **options) / 32**0.5
    out = np.empty((images, columns), np.float16)
    for start in range(0, images, 1 << 17):
        rows = min(1 << 17, images - start)
        inner = centres[torch.randint(0, 1000, (rows,), **options)] + torch.randn((rows, 32), **options)
        block = inner @ mixing + 0.1 * torch.randn((rows, columns), **options)
        out[start : start + rows] = block.half().cpu().numpy()
    return out


def timed(run: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds, peak GPU memory of torch in GiB, result."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    result = run()
    torch.cuda.synchronize()
    return time.perf_counter() - begun, torch.cuda.max_memory_allocated() / 2**30, result


def ours(array: np.ndarray, backend: str, memory_mib: int) -> np.ndarray:
    from solo_gps.interfaces import Embeddings
    from solo_gps.neighbours import find

    search = {"backend": backend, "device": "cuda", "gpu_memory_mib": memory_mib}
    return find(Embeddings(array=array, fingerprint="gpu-suite", folder=None, space="euclidean"), search, k=K).indices


def peer_queries(run: Callable[[int, int], object], images: int, block: int) -> tuple[int, float]:
    """Runs blocks of queries until the time is up; returns queries answered and seconds."""
    import torch

    run(0, block)
    torch.cuda.synchronize()
    begun, done = time.perf_counter(), 0
    while done < images and time.perf_counter() - begun < PEER_SECONDS:
        run(done, min(done + block, images))
        torch.cuda.synchronize()
        done = min(done + block, images)
    return done, time.perf_counter() - begun


def plain_torch(array: np.ndarray) -> tuple[int, float]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    points = torch.from_numpy(array).to("cuda").float()
    norms = (points * points).sum(1)

    def run(start: int, stop: int) -> object:
        squared = torch.addmm(norms[None, :], points[start:stop], points.T, alpha=-2)
        return torch.topk(squared, K + 1, dim=1, largest=False)

    return peer_queries(run, len(array), 2048)


def faiss_flat(array: np.ndarray) -> tuple[int, float]:
    import faiss

    points = array.astype(np.float32)
    index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(points.shape[1]), ngpu=1)
    index.add(points)
    return peer_queries(lambda start, stop: index.search(points[start:stop], K + 1), len(points), 8192)


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


def suite(report: Report, images: int, columns: int, memory_mib: int) -> dict[str, object]:
    """Adds a row a search; a peer's seconds are scaled up to all queries. Returns the check of our table."""
    import torch

    def add(search: str, seconds: float, queries: int = images, gpu_gib: float | None = None) -> None:
        scaled = seconds * images / queries
        report.add(search=search, seconds=scaled, queries=queries, rate=images / scaled, gpu_gib=gpu_gib)

    array = embeddings(images, columns)
    ours(array[:5000], "torch", memory_mib)
    seconds, gib, indices = timed(lambda: ours(array, "torch", memory_mib))
    add("solo-gps torch, exact", seconds, gpu_gib=gib)
    checked = check(array, np.asarray(indices))
    queries, seconds = plain_torch(array)
    add("torch float32 product + topk", seconds, queries)
    torch.cuda.empty_cache()
    if installed_faiss().gpus:
        seconds, _, _ = timed(lambda: ours(array, "faiss_gpu", memory_mib))
        add("solo-gps faiss_gpu, exact", seconds)
        queries, seconds = faiss_flat(array)
        add("FAISS GPU flat", seconds, queries)
    return checked


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=1_281_167)
    arguments.add_argument("--columns", type=int, default=768)
    arguments.add_argument("--memory-mib", type=int, default=16384)
    arguments.add_argument("--out", type=Path, default=Path("."))
    given = arguments.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("gpu_suite: torch sees no GPU here; benchmarks/knn.py measures the CPU.")
    report = Report(f"{installed_faiss()}; N = {given.images:,}, D = {given.columns}, k = {K}", COLUMNS)
    checked = suite(report, given.images, given.columns, given.memory_mib)
    note = (
        f"Checked against float64: {checked['rows_with_the_same_images']} of {checked['rows']} rows hold the same images; the "
        f"largest relative difference of a distance is {checked['largest_relative_difference']:.1e}. Where fewer queries than N "
        "were run, the seconds are scaled up."
    )
    report.end(given.json or given.out / "gpu_suite.json", note, check=checked)
    write_text(given.out / "gpu_suite.md", report.text)


if __name__ == "__main__":
    main()
