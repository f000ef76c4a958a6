"""Two ranks (gloo) search together: what fails in one ends both, with its message."""

from __future__ import annotations

import textwrap

import pytest
from processes import torchrun

PROGRAM = """
    import sys

    import numpy as np
    import torch.distributed as dist

    from solo_gps.neighbours import find, search
    from solo_gps.neighbours.exact import points
    from solo_gps.neighbours.exact.workspace import Workspace

    dist.init_process_group("gloo")
    rows = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    asked = {"k": {"k": 3}, "radius": {"radius": 0.5}}[sys.argv[2]]
    alone = find(rows, {"distributed": False}, **asked)
    if sys.argv[1] == "recall":
        asked["search"] = {"backend": "faiss_hnsw"}
        alone = find(rows, {"backend": "faiss_hnsw", "distributed": False}, k=3)
    together = find(rows, **asked)
    assert (together.indices == alone.indices).all()
    if dist.get_rank() == 1:
        def broken(*_):
            raise ValueError("by hand, in rank 1")

        if sys.argv[1] == "points":
            points._prepare = broken
        elif sys.argv[1] == "fit":
            search.Workspace = broken
        elif sys.argv[1] == "recall":
            search.reach_recall = broken
        elif sys.argv[1] == "within":
            Workspace.within = broken
        else:
            search.nearest_points = broken
    try:
        find(rows, **asked)
    except Exception as error:
        print(f"rank {dist.get_rank()}: {type(error).__name__}: {error}", flush=True)
    else:
        raise AssertionError("no error")
    dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("where", "asked"), [("points", "k"), ("fit", "k"), ("nearest", "k"), ("recall", "k"), ("within", "radius")]
)
def test_an_error_of_one_rank_ends_both(where, asked, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = torchrun(program, where, asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 1: ValueError: by hand, in rank 1" in done.stdout
    assert "rank 0: ConfigError: another rank failed: rank 1: by hand, in rank 1" in done.stdout
