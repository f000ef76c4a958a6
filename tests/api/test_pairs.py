"""GuidedPairs: which image each view shows, told from its pixels, for every epoch and every kind of worker."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import torchrun
from torch.utils.data import DataLoader

import solo_gps
from solo_gps.errors import ConfigError, DataError, UnreadableImageError

N = 24
CODED = np.broadcast_to(np.arange(N, dtype=np.uint8)[:, None, None], (N, 4, 4))  # image i is of colour i
POINTS = np.random.default_rng(0).normal(size=(N, 3))
LABELS = np.arange(N) % 5


def colour(image):
    return np.asarray(image)[0, 0, 0].item()


def darker(image):
    return colour(image) + 100


@pytest.fixture
def found():
    return solo_gps.positives(CODED, prior=POINTS, labels=LABELS, k=6, choose="uniform")


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for index, pixels in enumerate(CODED):
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{index:02d}.png")
    return folder


WORKERS = {
    "none": {},
    "forked": {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
    "started anew": {"num_workers": 2, "multiprocessing_context": "spawn", "persistent_workers": True},
}


@pytest.mark.parametrize("workers", WORKERS.values(), ids=WORKERS)
def test_each_epoch_shows_its_pairs(found, workers):
    pairs = solo_gps.GuidedPairs(CODED, np.array, found)
    loader = DataLoader(pairs, batch_size=5, shuffle=True, **workers)
    for epoch in (0, 1, 2, 1):
        pairs.set_epoch(epoch)
        anchors, positives, targets = map(torch.cat, zip(*loader, strict=True))
        order = anchors[:, 0, 0, 0].argsort()
        assert anchors[order, 0, 0, 0].tolist() == list(range(N))
        assert positives[order, 0, 0, 0].tolist() == found.pairs(epoch).positives.tolist()
        assert targets[order].tolist() == LABELS.tolist()
    assert found.pairs(1).positives.tolist() != found.pairs(2).positives.tolist()


def test_folders_go_to_workers_that_are_started_anew(flat, tmp_path):
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "one").symlink_to(flat)
    for folder in (flat, tmp_path / "classes"):
        found = solo_gps.positives(folder, prior=POINTS, k=3)
        pairs = solo_gps.GuidedPairs(folder, np.array, found)
        ((anchors, positives, *_),) = DataLoader(pairs, N, num_workers=1, multiprocessing_context="spawn")
        assert anchors[:, 0, 0, 0].tolist() == list(range(N))
        assert positives[:, 0, 0, 0].tolist() == found.pairs(0).positives.tolist()


def test_two_transforms_are_the_anchors_and_the_positives(found):
    for transform in ((colour, darker), [colour, darker]):
        anchor, positive, _ = solo_gps.GuidedPairs(CODED, transform, found)[7]
        assert (anchor, positive) == (7, found.pairs(0).positives[7] + 100)


def test_a_copy_says_where_epochs_are_drawn(found):
    copy = pickle.loads(pickle.dumps(solo_gps.GuidedPairs(found.brought, np.asarray, found)))
    assert len(copy[3]) == len(solo_gps.GuidedPairs(found.brought, np.asarray, found)[3])
    with pytest.raises(ConfigError, match="this is a copy"):
        copy.set_epoch(1)


def test_an_image_without_a_neighbour_shows_itself_twice():
    found = solo_gps.positives(CODED[:4], prior=[[0.0], [1.0], [2.0], [50.0]], radius=2.0)
    pairs = solo_gps.GuidedPairs(CODED[:4], colour, found)
    assert [pairs[item] for item in range(4)] == [(0, 1), (1, 2), (2, 1), (3, 3)]


def test_the_images_in_another_form(found, flat):
    larger = [Image.new("RGB", (9, 9), (int(value),) * 3) for value in range(N)]
    items = [(image, "a target that nobody asked for") for image in larger]
    for images in (larger, items, flat, str(flat)):
        anchor, positive, *target = solo_gps.GuidedPairs(images, colour, found)[3]
        assert (anchor, positive) == (3, found.pairs(0).positives[3])
        assert target == ([3] if images in (larger, items) else [])


def test_other_images_are_refused(flat, tmp_path, found):
    by_name = solo_gps.positives(flat, prior=POINTS, k=2)
    (tmp_path / "other").mkdir()
    for file in flat.iterdir():
        (tmp_path / "other" / file.name.replace("07", "007")).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"images: image 1 is '007.png', but the positives were found for '01.png' there"):
        solo_gps.GuidedPairs(tmp_path / "other", colour, by_name)
    with pytest.raises(DataError, match=rf"images: 5 of them, but the positives were found for {N}"):
        solo_gps.GuidedPairs(CODED[:5], colour, found)


@pytest.mark.parametrize("transform", [None, (), (colour,), (colour,) * 3, (colour, 5), "flip"])
def test_a_transform_is_a_function_or_two(found, transform):
    with pytest.raises(ConfigError, match=r"transform: wanted a function"):
        solo_gps.GuidedPairs(CODED, transform, found)


def test_the_arguments_in_another_order_are_an_error(found):
    with pytest.raises(ConfigError, match=r"positives: wanted what solo_gps.positives\(\) returns, got function"):
        solo_gps.GuidedPairs(CODED, found, colour)


def test_a_damaged_image_ends_the_epoch_or_is_left_out_by_name(flat):
    positive = solo_gps.positives(flat, prior=POINTS, k=1).pairs(0).positives
    lost, shows_it = int(positive[9]), 9
    (flat / f"{lost:02d}.png").write_bytes(b"no image")
    found = solo_gps.positives(flat, prior=POINTS, k=1)
    for item in (lost, shows_it):
        with pytest.raises(UnreadableImageError, match=rf"{lost:02d}\.png cannot be read"):
            solo_gps.GuidedPairs(flat, colour, found)[item]
    skipping = solo_gps.GuidedPairs(flat, colour, solo_gps.positives(flat, prior=POINTS, k=1, on_bad_image="skip"))
    assert skipping.unreadable == []
    assert skipping[lost] == (positive[lost],) * 2
    assert skipping[shows_it] == (shows_it,) * 2
    assert skipping.unreadable == [f"image {lost} ({lost:02d}.png)"]


def test_two_ranks_find_one_table_and_share_the_items(tmp_path):
    run = torchrun(Path(__file__).with_name("two_ranks.py"), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    ranks = [np.load(tmp_path / f"rank-{rank}.npz") for rank in range(2)]
    assert np.array_equal(ranks[0]["table"], ranks[1]["table"])
    for epoch in range(2):
        anchors, positives = np.concatenate([rank[f"epoch-{epoch}"] for rank in ranks], axis=1)
        assert sorted(anchors) == list(range(40))
        assert np.array_equal(positives, ranks[0][f"pairs-{epoch}"][anchors])
    assert not np.array_equal(ranks[0]["pairs-0"], ranks[0]["pairs-1"])
