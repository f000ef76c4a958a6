"""Two ranks of torch.distributed give the table of one process."""

from __future__ import annotations

import numpy as np
import pytest
from processes import torchrun

from solo_gps.errors import DataError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find

RANK = """
from pathlib import Path
import numpy as np
import torch.distributed as dist
from processes import threads_of_gloo

dist.init_process_group("gloo")  # a program may have its group before it imports solo_gps
from solo_gps.errors import DataError
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find

folder, rank = Path(), dist.get_rank()
array = np.load(folder / "array.npy")
for number, request in enumerate([{"k": 7}, {"radius": 3.0}]):
    for kind, where in (("bare", None), ("stored", folder), ("again", folder)):
        table = find(Embeddings(array=array, fingerprint="f", folder=where, space="euclidean"), {"backend": "torch"}, **request)
        np.save(folder / f"{kind}-{number}-{rank}.npy", np.asarray(table.indices))
for most in (84, 10):
    try:
        find(Embeddings(array=array, fingerprint="f", folder=None, space="euclidean"), {"max_ball": most}, radius=3.0)
    except DataError as error:
        (folder / f"error-{most}-{rank}").write_text(str(error))
dist.destroy_process_group()
assert threads_of_gloo() == 0, "one of them would free its last exchange while the interpreter ends, and abort the process"
"""


def test_two_ranks_equal_one_process(tmp_path):
    array = np.random.default_rng(0).standard_normal((501, 6)).astype(np.float32)
    array[100] = array[3]
    np.save(tmp_path / "array.npy", array)
    (tmp_path / "rank.py").write_text(RANK)
    ended = torchrun(tmp_path / "rank.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    embeddings = Embeddings(array=array, fingerprint="f", folder=None, space="euclidean")
    for number, request in enumerate([{"k": 7}, {"radius": 3.0}]):
        alone = find(embeddings, {"backend": "torch"}, **request).indices.tolist()
        for kind in ("bare", "stored", "again"):
            for rank in range(2):
                assert np.load(tmp_path / f"{kind}-{number}-{rank}.npy").tolist() == alone
    for most in (84, 10):  # above 84 there is one ball, which rank 0 looks at
        with pytest.raises(DataError, match=r"radius=\S+ fits") as alone:
            find(embeddings, {"max_ball": most}, radius=3.0)
        assert [(tmp_path / f"error-{most}-{rank}").read_text() for rank in range(2)] == [str(alone.value)] * 2
    assert len(list(tmp_path.glob("neighbours-*.json"))) == 2
    assert not list(tmp_path.glob(".*.part"))
