"""What the machine says is free."""

from __future__ import annotations

import pytest

from solo_gps.runtime.machine import _left_to_container


@pytest.mark.parametrize(("limit", "left"), [("1000", 1000 - 900 + 500 + 100), ("max", None)])
def test_files_that_were_read_are_no_memory_that_is_taken(limit, left, tmp_path):
    """In a container that unpacked its libraries nearly all of what counts as taken is such files."""
    for name, text in {"max": limit, "current": "900", "stat": "anon 300\ninactive_file 500\nactive_file 100"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert _left_to_container(tmp_path) == left


def test_no_container_no_limit(tmp_path):
    assert _left_to_container(tmp_path) is None
