"""Large arrays: no row is lost between blocks, and no memory is copied."""

from __future__ import annotations

import numpy as np

from solo_gps.runtime.arrays import as_tensor, chunks


def test_chunks_are_the_rows_in_order(monkeypatch):
    monkeypatch.setattr("solo_gps.runtime.arrays._CHUNK_BYTES", 8 * 3 * 4)
    array = np.arange(30, dtype=np.float32).reshape(10, 3)
    blocks = list(chunks(array))
    assert [(start, len(block)) for start, block in blocks] == [(0, 4), (4, 4), (8, 2)]
    assert np.concatenate([block for _, block in blocks]).tolist() == array.tolist()


def test_a_tensor_over_a_read_only_array_copies_nothing_and_warns_of_nothing(recwarn):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    tensor = as_tensor(array)
    assert tensor.tolist() == array.tolist()
    assert tensor.data_ptr() == array.ctypes.data
    assert not recwarn.list
