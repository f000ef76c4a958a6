"""`solo-gps cache build` by two ranks (gloo), and ranks of machines that share no disk."""

from __future__ import annotations

import json
import textwrap
from itertools import pairwise

import numpy as np
from processes import torchrun

from solo_gps.commands.cli import main as cli

BUILD = """
    import json, os, sys
    from pathlib import Path
    from unittest.mock import patch

    from solo_gps.commands.cli import main
    from solo_gps.neighbours import search

    def noted(work, backend, count, rows, *rest, nearest=search.nearest_points):
        Path(f"rank-{os.environ['RANK']}.json").write_text(json.dumps([rows.start, rows.stop]))
        return nearest(work, backend, count, rows, *rest)

    search.nearest_points = noted
    sys.exit(main(sys.argv[1:]))
"""
FOLDERS = """
    import os
    from pathlib import Path

    import numpy as np
    import torch.distributed as dist
    from image_sets import ArrayImages, digits_pixels

    from solo_gps.embeddings import embed
    from solo_gps.neighbours import find

    rank = os.environ["RANK"]
    embeddings = embed(ArrayImages(digits_pixels(60)), {"name": "pixels", "image_size": 8, "cache_dir": f"machine-{rank}"})
    dist.init_process_group("gloo")
    table = find(embeddings, k=4)
    for lost in ("0", "1"):
        dist.barrier()
        if rank == lost:
            for file in embeddings.folder.glob("neighbours-*"):
                file.unlink()
        dist.barrier()
        again = find(embeddings, k=4)
        assert np.array_equal(table.indices, again.indices)
    del table, again
    dist.destroy_process_group()
"""


def tables(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*/neighbours-*.npy")}


def test_the_ranks_of_torchrun_share_the_search_too(digits, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(BUILD))
    words = ["cache", "--cache-dir", "{}", "build", str(digits / "train"), "--k", "5", "--prior", "pixels", "image_size=8"]
    done = torchrun(tmp_path / "program.py", *(word.format(tmp_path / "two") for word in words), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    shares = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert shares == [list(pair) for pair in pairwise((0, 24, 48))]
    assert cli([word.format(tmp_path / "one") for word in words]) == 0
    assert len(tables(tmp_path / "one")) == 2
    assert tables(tmp_path / "two") == tables(tmp_path / "one")


def test_machines_with_a_folder_each_have_the_same_table_in_both(tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(FOLDERS))
    done = torchrun(tmp_path / "program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (tables(tmp_path / f"machine-{rank}") for rank in (0, 1))
    assert len(ours) == 2
    assert ours == theirs
    indices = next(np.load(file) for file in (tmp_path / "machine-1").glob("*/neighbours-*indices*.npy"))
    assert indices.shape == (60, 4)
