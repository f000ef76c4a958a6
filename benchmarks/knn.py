"""Neighbour search on this machine: one table of ours and its peers.

    python benchmarks/knn.py                      # N = 10,000 and 50,000, D = 64 and 512, k = 50
    python benchmarks/knn.py --large              # also N = 1,000,000 x 64, approximate, recall@10
    python benchmarks/knn.py --sizes 10000 --columns 64 --only torch,faiss

Every case runs in a fresh process, so that its peak memory is its own. Columns: wall seconds and CPU seconds (all threads; on a
machine with other work the CPU seconds say more), memory above the embeddings and imports in MiB, recall against the exact table,
and the ratio of its CPU seconds to those of the bare float32 matrix product of all pairs (sgemm) of the same size.

Peers: scikit-learn's brute force; PyNNDescent (approximate; pip install pynndescent); the way of the authors of GPS-SSL: FAISS
flat search with k = 2,048, then Python loops that drop the anchor and cut to k.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

K = 50
CASES = ("sgemm", "torch", "torch_float32", "faiss", "faiss_ivf", "faiss_hnsw", "sklearn", "pynndescent", "authors")
AUTHORS_K = 2048
INNER = 24


def embeddings(images: int, columns: int) -> np.ndarray:
    """(N, D) float32 like those of a real prior: an inner dimension of 24, clusters of uneven size, and noise in every column."""
    rng = np.random.default_rng(0)
    inner = min(INNER, columns)
    weights = rng.dirichlet(np.ones(100))
    centres = rng.standard_normal((100, inner)) * 2
    points = centres[rng.choice(100, images, p=weights)] + rng.standard_normal((images, inner))
    mixing = rng.standard_normal((inner, columns)) / inner**0.5
    noise = rng.standard_normal((images, columns), dtype=np.float32) * np.float32(0.1)
    return (points @ mixing).astype(np.float32) + noise


def ours(backend: str) -> Callable[[np.ndarray, int], np.ndarray]:
    def run(array: np.ndarray, k: int) -> np.ndarray:
        from solo_gps.interfaces import Embeddings
        from solo_gps.neighbours import find

        return find(
            Embeddings(array=array, fingerprint="benchmark", folder=None, space="euclidean"), {"backend": backend}, k=k
        ).indices

    return run


def torch_float32(array: np.ndarray, k: int) -> np.ndarray:
    from solo_gps.neighbours.backends import torch_exact

    torch_exact.bfloat16_pays = lambda *_: False
    return ours("torch")(array, k)


def sgemm(array: np.ndarray, k: int) -> None:
    import torch

    points = torch.from_numpy(array)
    out = torch.empty((1024, len(points)))
    for start in range(0, len(points), 1024):
        block = points[start : start + 1024]
        torch.mm(block, points.T, out=out[: len(block)])


def sklearn_brute(array: np.ndarray, k: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=-1).fit(array).kneighbors(return_distance=False)


def pynndescent(array: np.ndarray, k: int) -> np.ndarray:
    from pynndescent import NNDescent

    found = NNDescent(array, n_neighbors=k + 1, random_state=0, n_jobs=-1).neighbor_graph[0]
    return without_anchor(found, k)


def without_anchor(found: np.ndarray, k: int) -> np.ndarray:
    away = found != np.arange(len(found))[:, None]
    order = np.argsort(~away, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, axis=1)


def authors(array: np.ndarray, k: int) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatL2(array.shape[1])
    index.add(array)
    distances, found = index.search(array, min(AUTHORS_K, len(array)))
    neighbours: list[list[int]] = []
    for anchor in range(len(array)):
        row: list[int] = []
        for candidate, _ in zip(found[anchor].tolist(), distances[anchor].tolist(), strict=True):
            if candidate != anchor:
                row.append(candidate)
        neighbours.append(row)
    return np.array([row[:k] for row in neighbours])


RUNS: dict[str, Callable[[np.ndarray, int], np.ndarray | None]] = {
    "sgemm": sgemm,
    "torch": ours("torch"),
    "torch_float32": torch_float32,
    "faiss": ours("faiss"),
    "faiss_ivf": ours("faiss_ivf"),
    "faiss_hnsw": ours("faiss_hnsw"),
    "sklearn": sklearn_brute,
    "pynndescent": pynndescent,
    "authors": authors,
}


class PeakMemory:
    """Largest resident size of this process while the block runs, above that at its start, in MiB."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = (max(self.peak, self._now()) - self.start) / 2**20

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_case(case: str, images: int, columns: int, k: int, out: Path) -> None:
    """Runs in its own process; a small run first pays for imports and compilation."""
    array = embeddings(images, columns)
    RUNS[case](array[:1500].copy(), min(k, 50))
    with PeakMemory() as memory:
        wall, cpu = time.perf_counter(), time.process_time()
        indices = RUNS[case](array, k)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if indices is not None:
        np.save(out / f"{case}.npy", np.asarray(indices, np.int32))
    (out / f"{case}.json").write_text(json.dumps({"wall": wall, "cpu": cpu, "mib": memory.mib}))


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    sample = np.random.default_rng(1).permutation(len(exact))[:5000]
    return float(np.mean([len(np.intersect1d(found[i], exact[i])) for i in sample]) / exact.shape[1])


def quiet() -> dict[str, str]:
    """Threads that wait sleep instead of spinning, or the CPU seconds would count the waiting."""
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}


def size(images: int, columns: int, k: int, cases: list[str], repeats: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for case in cases:
            best: dict[str, float] | None = None
            for _ in range(repeats):
                arguments = ["--case", case, str(images), str(columns), str(k), folder]
                done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, env=quiet())
                if done.returncode:
                    print(f"{case}: failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                    break
                now = json.loads((out / f"{case}.json").read_text())
                best = now if best is None or now["cpu"] < best["cpu"] else best
            if best is not None:
                found = np.load(out / f"{case}.npy") if (out / f"{case}.npy").exists() else None
                rows.append({"case": case, "images": images, "columns": columns, "k": k, **best, "found": found})
    exact = next((row["found"] for row in rows if row["case"] in ("torch", "faiss") and row["found"] is not None), None)
    bound = next((row["cpu"] for row in rows if row["case"] == "sgemm"), None)
    for row in rows:
        found = row.pop("found")
        row["recall"] = None if found is None or exact is None else round(recall(found, exact), 4)
        row["ratio"] = None if bound is None else round(row["cpu"] / bound, 2)  # type: ignore[operator]
    return rows


def large(images: int, columns: int) -> list[dict[str, object]]:
    """A million points by an approximate backend; its recall is the one that the search measures itself."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, __file__, "--large-case", str(images), str(columns), folder], env=quiet())
        if done.returncode:
            raise SystemExit(done.returncode)
        return [json.loads((Path(folder) / "large.json").read_text())]


def large_case(images: int, columns: int, out: Path) -> None:
    from solo_gps.interfaces import Embeddings
    from solo_gps.neighbours import find

    array = embeddings(images, columns)
    find(
        Embeddings(array=array[:2000], fingerprint="warm", folder=None, space="euclidean"),
        {"backend": "faiss_ivf"},
        k=10,
    )
    with PeakMemory() as memory:
        wall, cpu = time.perf_counter(), time.process_time()
        embedded = Embeddings(array=array, fingerprint="benchmark", folder=out, space="euclidean")
        find(embedded, {"backend": "faiss_ivf"}, k=10)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    (manifest,) = out.glob("neighbours-*.json")
    facts = json.loads(manifest.read_text())["facts"]["recall"]
    row = {
        "case": f"faiss_ivf {facts['settings']}",
        "images": images,
        "columns": columns,
        "k": 10,
        "wall": wall,
        "cpu": cpu,
    }
    (out / "large.json").write_text(json.dumps({**row, "mib": memory.mib, "recall": round(facts["recall"], 4), "ratio": None}))


def show(rows: list[dict[str, object]]) -> str:
    lines = [
        "| N | D | k | search | wall s | CPU s | MiB | recall | CPU / sgemm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        recall_text = "" if row["recall"] is None else f"{row['recall']:.4f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(
            f"| {row['images']:,} | {row['columns']} | {row['k']} | {row['case']} | {row['wall']:.2f} | {row['cpu']:.2f} | "
            f"{row['mib']:.0f} | {recall_text} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,50000")
    parser.add_argument("--columns", default="64,512")
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--large-case", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        case, images, columns, k, out = given.case
        return one_case(case, int(images), int(columns), int(k), Path(out))
    if given.large_case:
        return large_case(int(given.large_case[0]), int(given.large_case[1]), Path(given.large_case[2]))
    unknown = set(given.only.split(",")) - set(CASES)
    if unknown:
        parser.error(f"unknown cases {sorted(unknown)}; known: {', '.join(CASES)}")
    rows: list[dict[str, object]] = []
    for images in map(int, given.sizes.split(",")):
        for columns in map(int, given.columns.split(",")):
            rows += size(images, columns, K, given.only.split(","), given.repeats)
    if given.large:
        rows += large(1_000_000, 64)
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n")
    print(show(rows))
    if given.json:
        temporary = given.json.with_suffix(".tmp")
        temporary.write_text(json.dumps(rows, indent=1))
        os.replace(temporary, given.json)


if __name__ == "__main__":
    main()
