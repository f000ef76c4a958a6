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

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, in_a_process, parser, spending

K = 50
LARGE = (1_000_000, 64, 10)
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


def ours(backend: str, folder: Path | None = None) -> Callable[[np.ndarray, int], np.ndarray]:
    def run(array: np.ndarray, k: int) -> np.ndarray:
        from solo_gps.interfaces import Embeddings
        from solo_gps.neighbours import find

        embedded = Embeddings(array=array, fingerprint="benchmark", folder=folder, space="euclidean")
        return find(embedded, {"backend": backend}, k=k).indices

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


def one_case(case: str, images: int, columns: int, k: int, out: Path) -> dict[str, float]:
    """Runs in its own process; a small run first pays for imports and compilation."""
    array = embeddings(images, columns)
    RUNS[case](array[:1500].copy(), min(k, 50))
    with spending() as spent:
        indices = RUNS[case](array, k)
    if indices is not None:
        np.save(out / f"{case}.npy", np.asarray(indices, np.int32))
    return dataclasses.asdict(spent)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    sample = np.random.default_rng(1).permutation(len(exact))[:5000]
    return float(np.mean([len(np.intersect1d(found[i], exact[i])) for i in sample]) / exact.shape[1])


def size(images: int, columns: int, k: int, cases: list[str], repeats: int) -> list[dict[str, Any]]:
    """A row a case, of the repeat with the fewest CPU seconds; a case that fails says why on stderr and has no row."""
    rows: list[dict[str, Any]] = []
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            try:
                tries = [in_a_process(__file__, "--case", case, images, columns, k, folder) for _ in range(repeats)]
            except subprocess.CalledProcessError:
                print(f"{case}: failed", file=sys.stderr)
                continue
            rows.append({"case": case, "images": images, "columns": columns, "k": k, **min(tries, key=lambda one: one["cpu"])})
            if (Path(folder) / f"{case}.npy").exists():
                found[case] = np.load(Path(folder) / f"{case}.npy")
    exact = next((found[case] for case in ("torch", "faiss") if case in found), None)
    bound = next((row["cpu"] for row in rows if row["case"] == "sgemm"), None)
    for row in rows:
        row["recall"] = None if row["case"] not in found or exact is None else recall(found[row["case"]], exact)
        row["ratio"] = None if bound is None else row["cpu"] / bound
    return rows


def large_case(images: int, columns: int, k: int) -> dict[str, Any]:
    """A million points by an approximate backend; its recall is the one that the search measures itself."""
    array = embeddings(images, columns)
    ours("faiss_ivf")(array[:2000], k)
    with tempfile.TemporaryDirectory() as folder:
        with spending() as spent:
            ours("faiss_ivf", Path(folder))(array, k)
        (manifest,) = Path(folder).glob("neighbours-*.json")
        facts = json.loads(manifest.read_text())["facts"]["recall"]
    row = {"case": f"faiss_ivf {facts['settings']}", "images": images, "columns": columns, "k": k, "recall": facts["recall"]}
    return {**row, **dataclasses.asdict(spent)}


COLUMNS = {
    "images": "N|,",
    "columns": "D",
    "k": "k",
    "case": "search",
    "wall": "wall s|.2f",
    "cpu": "CPU s|.2f",
    "mib": "MiB|.0f",
    "recall": "recall|.4f",
    "ratio": "CPU / sgemm|.2f",
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", default="10000,50000")
    arguments.add_argument("--columns", default="64,512")
    arguments.add_argument("--only", default=",".join(RUNS))
    arguments.add_argument("--repeats", type=int, default=1)
    arguments.add_argument("--large", action="store_true", help=f"also {' x '.join(map(str, LARGE[:2]))}")
    arguments.add_argument("--case", nargs=5, help="measure one case here: its name, N, D, k and a folder")
    arguments.add_argument("--large-case", nargs=3, type=int, help="measure the large case here: N, D and k")
    given = arguments.parse_args()
    if given.case:
        case, images, columns, k, out = given.case
        return print(json.dumps(one_case(case, int(images), int(columns), int(k), Path(out))))
    if given.large_case:
        return print(json.dumps(large_case(*given.large_case)))
    cases = given.only.split(",")
    if unknown := set(cases) - set(RUNS):
        arguments.error(f"unknown cases {sorted(unknown)}; known: {', '.join(RUNS)}")
    report = Report("clustered float32 points, each search in a process of its own", COLUMNS)
    for images in map(int, given.sizes.split(",")):
        for columns in map(int, given.columns.split(",")):
            for row in size(images, columns, K, cases, given.repeats):
                report.add(**row)
    if given.large:
        report.add(**in_a_process(__file__, "--large-case", *LARGE))
    report.end(given.json)


if __name__ == "__main__":
    main()
