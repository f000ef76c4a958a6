"""Equal rows are one group; equal hashes alone are not."""

from __future__ import annotations

import numpy as np

from solo_gps.neighbours.exact.duplicates import group_duplicates

ROWS = np.array([[1, 2], [1, 2], [3, 4], [3, 4], [3, 5]], np.float32)


def test_equal_rows_are_grouped():
    assert group_duplicates(ROWS).group_of.tolist() == [0, 0, 1, 1, 2]


def test_rows_whose_hashes_collide_are_compared(monkeypatch):
    monkeypatch.setattr("solo_gps.neighbours.exact.duplicates._row_hashes", lambda array: np.zeros(len(array), np.uint64))
    assert group_duplicates(ROWS).group_of.tolist() == [0, 0, 1, 1, 2]
