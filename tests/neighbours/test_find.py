"""find(): the door of the room, its errors and its stored tables."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
import torch

from solo_gps.errors import CacheError, ConfigError, DataError, MachineError, UnknownNameError, our_part
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import advise, find, search


def points(array, space="euclidean", folder=None):
    return Embeddings(array=np.asarray(array), fingerprint="f" * 8, folder=folder, space=space)


LINE = np.array([[0.0], [1.0], [3.0], [7.0]], np.float32)


@pytest.mark.parametrize("backend", ["torch", "faiss", "auto"])
def test_four_points_on_a_line(backend):
    table = find(points(LINE), {"backend": backend}, k=2)
    assert table.indices.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert table.distances.tolist() == [[1, 9], [1, 4], [4, 9], [16, 36]]
    assert (table.indices.dtype, table.distances.dtype) == (np.int32, np.float32)


def test_cosine_is_one_minus_the_cosine():
    table = find(points(np.array([[2, 0], [0, 3], [1, 1]], np.float32), "cosine"), k=2)
    assert table.indices.tolist() == [[2, 1], [2, 0], [0, 1]]
    np.testing.assert_allclose(table.distances, [[1 - 0.5**0.5, 1]] * 2 + [[1 - 0.5**0.5] * 2], rtol=1e-6)


def test_radius_is_strict_and_pads():
    table = find(points(LINE), radius=4.0)
    assert table.indices.tolist() == [[1], [0], [-1], [-1]]
    assert table.distances.tolist() == [[1], [1], [np.inf], [np.inf]]


@pytest.mark.parametrize(
    ("array", "arguments", "error", "words"),
    [
        (LINE, {"k": 4}, DataError, ["k=4", "N=4"]),
        (LINE, {"k": 0}, ConfigError, ["k=0"]),
        (LINE, {}, ConfigError, ["exactly one"]),
        (LINE, {"k": 1, "radius": 1.0}, ConfigError, ["exactly one"]),
        (LINE, {"radius": -1.0}, ConfigError, ["radius=-1"]),
        (LINE[:1], {"radius": 1.0}, DataError, ["at least 2"]),
        (LINE[:, 0], {"k": 1}, DataError, ["(N, D)", "(4,)"]),
        (LINE.astype(np.float64), {"k": 1}, DataError, ["float64", "astype"]),
        (np.array([[1, 2], [3, np.nan]], np.float32), {"k": 1}, DataError, ["[1, 1]", "nan"]),
        (np.array([[1], [np.inf]], np.float32), {"k": 1}, DataError, ["[1, 0]", "inf"]),
        (np.array([[1], [1e19]], np.float32), {"k": 1}, DataError, ["norm", "float32"]),
        (np.array([[1e-20], [2e-20]], np.float32), {"k": 1}, DataError, ["vanish"]),
        (LINE, {"k": 1, "search": {"backend": "tortch"}}, UnknownNameError, ["'torch'", "Did you mean"]),
        (LINE, {"k": 1, "search": {"bakend": "torch"}}, ConfigError, ["search.bakend", "Did you mean 'backend'"]),
        (LINE, {"k": 1, "search": {"memory_mib": 1}}, ConfigError, ["memory_mib=1", "16"]),
        (LINE, {"k": 1, "search": {"device": "gpu"}}, ConfigError, ["device", "cuda"]),
        (LINE, {"radius": 100.0, "search": {"max_ball": 2}}, DataError, ["max_ball=2", "radius=9.01 fits", "3 images"]),
    ],
)
def test_one_clear_error(array, arguments, error, words):
    with pytest.raises(error) as caught:
        find(points(array), **arguments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_f7_a_stored_ball_above_todays_bound_is_refused_like_a_fresh_one(tmp_path):
    find(points(LINE, folder=tmp_path), radius=100.0)
    errors = []
    for folder in (tmp_path, None):
        with pytest.raises(DataError, match=r"a ball holds 3 images, more than search\.max_ball=2") as caught:
            find(points(LINE, folder=folder), {"max_ball": 2}, radius=100.0)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert find(points(LINE, folder=tmp_path), {"max_ball": 3}, radius=100.0).indices.shape == (4, 3)


def test_zero_vector_has_no_direction():
    with pytest.raises(DataError, match=r"embeddings\[2\].*zero vector"):
        find(points(np.array([[1, 0], [0, 1], [0, 0]], np.float32), "cosine"), k=1)


def test_unknown_space():
    with pytest.raises(ConfigError, match="hyperbolic"):
        find(points(LINE, "hyperbolic"), k=1)


def test_table_is_stored_and_found_again(tmp_path, monkeypatch):
    first = find(points(LINE, folder=tmp_path), {"backend": "torch"}, k=2)
    assert isinstance(first.indices, np.memmap)
    monkeypatch.setattr("solo_gps.neighbours.search.points_of", lambda _: pytest.fail("searched again"))
    # Every exact backend gives the same table, whatever its memory: one file serves them all.
    again = find(points(LINE, folder=tmp_path), {"backend": "faiss", "memory_mib": 16}, k=2)
    assert again.indices.tolist() == first.indices.tolist()
    assert not again.indices.flags.writeable


@pytest.mark.parametrize(
    ("size", "wanted"),
    [({"k": 2}, "the 2 nearest of 4 images"), ({"radius": 4.5}, "the balls of radius 4.5 around 4 images")],
    ids=["k", "radius"],
)
def test_a_line_says_what_was_found_and_whether_now_or_earlier(size, wanted, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "solo_gps"):
        for folder in (None, tmp_path, tmp_path):
            find(points(LINE, folder=folder), {"device": "cpu"}, **size)
    shape = re.escape(f"neighbours: {wanted} found in ") + r"\d+\.\d s \(torch on cpu, exact\)"
    assert [bool(re.fullmatch(shape, line)) for line in caplog.messages] == [True, True, False]
    assert caplog.messages[2] == f"neighbours: {wanted} found beside the embeddings, searched earlier (exact)"


def test_a_long_search_says_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr("solo_gps.runtime.progress.LOG_EVERY_SECONDS", -1)
    monkeypatch.setattr("solo_gps.neighbours.backends.torch_exact.TorchExact.rows_per_block", lambda *_: 3)
    monkeypatch.setattr("solo_gps.neighbours.exact.near_points.NearPairs.rows_per_block", 3)
    with caplog.at_level(logging.INFO, "solo_gps"):
        for size in ({"k": 2}, {"radius": 4.5}):
            find(points(LINE), {"device": "cpu"}, **size)
    said = [line.partition(", ")[0] for line in caplog.messages if "left" in line]
    assert said == ["neighbours: 3 of 4 images", "neighbours: 4 of 4 images"] * 2


def test_other_requests_are_other_files(tmp_path):
    for arguments in ({"k": 1}, {"k": 2}, {"radius": 2.0}, {"radius": 5.0}):
        find(points(LINE, folder=tmp_path), **arguments)
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("kind", ["indices", "distances"])
def test_damaged_table_is_refused_by_name(tmp_path, kind):
    find(points(LINE, folder=tmp_path), k=2)
    (path,) = tmp_path.glob(f"*.{kind}.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=path.name):
        find(points(LINE, folder=tmp_path), k=2)


def test_a_whole_table_of_another_request_is_refused_by_name(tmp_path):
    for k in (1, 2):
        find(points(LINE, folder=tmp_path), k=k)
    names = {k: next(tmp_path.glob(f"neighbours-k{k}-*.json")).stem for k in (1, 2)}
    for path in tmp_path.glob(f"{names[1]}*"):
        path.replace(tmp_path / path.name.replace(names[1], names[2]))
    with pytest.raises(CacheError, match="belongs to another search than the one asked for"):
        find(points(LINE, folder=tmp_path), k=2)


def test_a_plain_array_is_compared_by_squared_distance():
    one, other = find(LINE, k=2), find(points(LINE), k=2)
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.distances, other.distances)
    assert str(advise(LINE)) == str(advise(points(LINE)))


def test_what_is_no_array_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"wanted an \(N, D\) numpy array, or solo_gps.interfaces.Embeddings, got list"):
        find(LINE.tolist(), k=2)  # type: ignore[arg-type]


def test_copies_are_named(caplog):
    with caplog.at_level(logging.WARNING, "solo_gps"):
        find(points(LINE[[0, 1, 2, 1]]), k=2, name="photo-{}.png".format)
    assert "for example photo-1.png and photo-3.png" in caplog.text


def test_damaged_manifest_is_refused_by_name(tmp_path):
    find(points(LINE, folder=tmp_path), k=2)
    (path,) = tmp_path.glob("*.json")
    entry = json.loads(path.read_text())
    entry["request"]["k"] = 3
    for content in (json.dumps(entry), "{", "[]"):
        path.write_text(content)
        with pytest.raises(CacheError, match="Delete"):
            find(points(LINE, folder=tmp_path), k=2)


@pytest.mark.parametrize("keys", [{"k": 4}, {"radius": 3.0}])
def test_a_gpu_with_little_memory_is_searched_in_smaller_parts(keys, monkeypatch, caplog):
    """The error is put in by hand, where a GPU would raise it."""
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    expected, asked = find(rows, {"device": "cpu"}, **keys), []
    opened = search._open

    def little(embeddings, backend):
        asked.append(backend.config.gpu_memory_mib)
        if asked[-1] > 300:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return opened(embeddings, backend)

    given_back = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(asked[-1]))
    monkeypatch.setattr(search, "_open", little)
    found = find(rows, {"device": "cpu", "gpu_memory_mib": 1024}, **keys)
    assert asked == given_back == [1024, 512, 256]
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_a_gpu_without_memory_is_one_error_with_a_mend(monkeypatch):
    def none(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 3 MiB")

    monkeypatch.setattr(search, "_open", none)
    said = r"searching: the GPU has too little memory.*2 GiB\).*search.device=cpu"
    with pytest.raises(MachineError, match=said), our_part("searching"):
        find(np.eye(9, dtype=np.float32), k=2)
