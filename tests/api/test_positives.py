"""positives(): every form of images and prior, the pairs of a recipe, and an error with the argument's name for all else."""

from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import digits_pixels
from omegaconf import OmegaConf
from PIL import Image
from torchvision.datasets import CIFAR10, ImageFolder

import solo_gps
from solo_gps.api.positives import NOT_HERE
from solo_gps.errors import ConfigError, DataError, SoloGpsError, UnknownNameError, UnreadableImageError
from solo_gps.guide.check import make_samplers
from solo_gps.guide.pairing import Pairing
from solo_gps.hosts.images import host_images
from solo_gps.interfaces import Embeddings

PIXELS = digits_pixels(60)
LINE = np.array([[0.0], [1.0], [3.0], [7.0]], np.float32)  # 0-1-3-7: nearest of 0 is 1, of 1 is 0, of 3 is 1, of 7 is 3
FOUR = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)


def rgb(pixels):
    return Image.fromarray(pixels).convert("RGB")


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        return rgb(PIXELS[index]), index % 3


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for index, pixels in enumerate(PIXELS):
        rgb(pixels).save(folder / f"{index:02d}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def classes(flat, tmp_path):
    """The same images in the same order, in three folders."""
    folder = tmp_path / "classes"
    for index, file in enumerate(sorted(flat.glob("*.png"))):
        place = folder / str(index // 20)
        place.mkdir(parents=True, exist_ok=True)
        (place / file.name).write_bytes(file.read_bytes())
    return folder


def test_one_table_whatever_the_form(flat, classes):
    forms = [
        PIXELS,
        np.repeat(PIXELS[..., None], 3, axis=3),
        PIXELS[..., None],
        list(PIXELS),
        [rgb(pixels) for pixels in PIXELS],
        [Image.open(file) for file in sorted(flat.glob("*.png"))],
        Items(),
        torch.utils.data.Subset(Items(), range(60)),
        flat,
        str(classes),
        ImageFolder(str(classes), transform=lambda image: 1 / 0),
        host_images(ImageFolder(str(classes))),
    ]
    one, *others = [solo_gps.positives(form, prior="pixels", k=5).table for form in forms]
    assert (one.distances[:, 1:] >= one.distances[:, :-1]).all()
    assert one.indices.shape == (60, 5)
    for other in others:
        assert np.array_equal(one.indices, other.indices)
        assert np.array_equal(one.distances, other.distances)


KEYS = [
    {"k": 4, "choose": "uniform"},
    {"k": 6, "choose": "weighted", "temperature": 0.5, "keep_anchor": True},
    {"radius": "mean+std", "choose": "uniform"},
    {"radius": "q0.5", "radius_of": "image", "mutual": True, "choose": "uniform"},
    {"k": 3, "hops": 2, "choose": "uniform", "seed": 6},
    {"k": 9, "within": "clusters", "clusters": 4, "choose": "uniform"},
    {"k": 9, "within": "community", "choose": "uniform"},
]


@pytest.mark.parametrize("keys", KEYS, ids=["-".join(keys) for keys in KEYS])
def test_the_pairs_are_those_of_a_recipe(classes, keys):
    cfg = OmegaConf.create({"method": "simclr", "sampler": {"gps": keys}, "prior": {"name": "pixels"}})
    pairing = Pairing(cfg, make_samplers(cfg), None)
    pairing.prepare(host_images(ImageFolder(str(classes))))
    found = solo_gps.positives(classes, prior="pixels", **keys)
    drawn = [found.pairs(epoch).positives for epoch in range(3)]
    for epoch in range(3):
        assert np.array_equal(drawn[epoch], pairing.pairs(epoch).positives)
        assert np.array_equal(found.pairs(epoch).anchors, np.arange(60))
    assert not np.array_equal(drawn[0], drawn[1])


def test_another_seed_draws_other_pairs():
    one, same, other = (
        solo_gps.positives(PIXELS, prior="pixels", choose="uniform", **seed).pairs().positives
        for seed in ({}, {"seed": np.int64(5)}, {"seed": np.int64(6)})
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "given", [LINE, LINE.tolist(), LINE.astype(np.float64), LINE.astype(int), torch.tensor(LINE), LINE.astype("f2")]
)
def test_embeddings_of_ones_own(given):
    found = solo_gps.positives(FOUR, prior=given, k=2)
    assert found.table.indices.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert found.table.distances.tolist() == [[1, 9], [1, 4], [4, 9], [16, 36]]
    assert found.pairs().positives.tolist() == [2, 2, 0, 1]
    nearest = solo_gps.positives(FOUR, prior=given, k=2, choose="nearest")
    assert nearest.pairs(7).positives.tolist() == [1, 0, 1, 2]


def test_a_tensor_that_wants_a_gradient_and_half_floats_are_embeddings():
    given = torch.tensor(LINE, dtype=torch.bfloat16, requires_grad=True)
    assert solo_gps.positives(FOUR, prior=given, k=1).table.indices.tolist() == [[1], [0], [1], [2]]


def test_embeddings_say_how_they_are_compared():
    array = np.array([[1.0, 0.0], [10.0, 1.0], [1.0, 1.0], [0.0, 1.0]], np.float32)
    by_cosine = solo_gps.positives(FOUR, prior=Embeddings(array=array, space="cosine"), k=1)
    assert by_cosine.table.indices[:, 0].tolist() == [1, 0, 1, 2]
    assert solo_gps.positives(FOUR, prior=array, k=1).table.indices[:, 0].tolist() == [2, 2, 0, 2]


def test_purity_counted_by_hand():
    found = solo_gps.positives(FOUR, prior=LINE, k=2, labels=[0, 0, 1, -1])
    # of the neighbours of images 0, 1, 2 (image 3's label is unknown): 1 and not 2; 0 and not 2; neither 1 nor 0
    assert found.purity() == pytest.approx(2 / 6)
    assert found.purity(epoch=0) == 0  # the furthest of each: 2, 2, 0
    assert found.purity(labels=[5, 5, 5, 5]) == 1
    assert found.labels.tolist() == [0, 0, 1, -1]


def test_same_label_keeps_neighbours_of_the_class():
    found = solo_gps.positives(FOUR, prior=LINE, k=3, labels=[0, 0, 1, 1], same_label=True)
    assert found.pairs().positives.tolist() == [1, 0, 3, 2]
    assert found.purity() == 1


def test_same_label_takes_no_unknown_one_for_a_class():
    found = solo_gps.positives(FOUR, prior=LINE, k=3, labels=[0, 0, -1, -1], same_label=True)
    assert [set(row[row >= 0].tolist()) for row in found.table.indices] == [{1}, {0}, set(), set()]


def test_a_folder_of_tables_wants_a_fingerprint(tmp_path):
    brought = Embeddings(array=np.asarray(LINE, np.float32), folder=tmp_path, fingerprint="")
    with pytest.raises(ConfigError, match="without a fingerprint"):
        solo_gps.positives(FOUR, prior=brought, k=1)


def test_a_set_of_torchvisions_says_its_labels_and_loses_its_transform():
    whole = CIFAR10.__new__(CIFAR10)
    whole.data, whole.targets = np.repeat(PIXELS[..., None], 3, axis=3), list(range(60))
    whole.transform, whole.target_transform = (lambda image: 1 / 0), None
    found = solo_gps.positives(whole, prior="pixels", k=5)
    assert found.labels.tolist() == list(range(60))
    assert np.array_equal(found.table.indices, solo_gps.positives(PIXELS, prior="pixels", k=5).table.indices)
    assert solo_gps.GuidedPairs(whole, np.asarray, found)[3][2] == 3
    with pytest.raises(ConfigError, match="labels: a CIFAR10 says its own"):
        solo_gps.positives(whole, labels=list(range(60)))


def test_labels_are_those_of_the_folders_and_of_a_flat_folder_ones_own(classes, flat):
    assert solo_gps.positives(classes, prior="pixels").labels.tolist() == [index // 20 for index in range(60)]
    assert solo_gps.positives(flat, prior="pixels").labels is None
    assert solo_gps.positives(flat, prior="pixels", labels=np.arange(60)).labels.tolist() == list(range(60))


def test_found_again_in_the_cache(flat, caplog):
    with caplog.at_level(logging.INFO, logger="solo_gps"):
        solo_gps.positives(flat, prior="pixels", k=3)
        solo_gps.positives(PIXELS, prior={"name": "pixels"}, k=3)
        solo_gps.positives(flat, prior="pixels", k=3)
    words = caplog.text
    assert (words.count("built the embeddings"), words.count("found the embeddings")) == (2, 1)
    assert words.count("searched earlier") == 1


WRONG = {
    "a key misspelt": ({"chose": "nearest"}, ConfigError, ["chose: no such key", "Did you mean 'choose'"]),
    "a type": ({"k": "ten"}, ConfigError, ["k: Value 'ten'"]),
    "a bound": ({"k": 0}, ConfigError, ["k=0 must be at least 1"]),
    "a word": ({"choose": "farthest"}, ConfigError, ["choose='farthest'", "Did you mean 'furthest'"]),
    "k too large": ({"k": 60}, DataError, ["k=60", "N=60", "Use k <= 59"]),
    "a prior misspelt": ({"prior": "pixel"}, UnknownNameError, ["prior 'pixel'", "Did you mean 'pixels'"]),
    "a prior's key": (
        {"prior": {"name": "pixels", "image_sise": 8}},
        ConfigError,
        ["prior.image_sise", "Did you mean 'image_size'"],
    ),
    "a prior without a name": ({"prior": {"image_size": 8}}, ConfigError, ["prior.name"]),
    "a prior without its file": ({"prior": "array"}, ConfigError, ["prior: path is missing"]),
    "a prior of another type": ({"prior": 5}, ConfigError, ["prior: wanted a prior's name", "got 5"]),
    "rows of other images": ({"prior": np.ones((59, 2))}, DataError, ["prior: wanted embeddings of shape (60, D)", "(59, 2)"]),
    "ragged rows": ({"prior": [[1.0], [1.0, 2.0]]}, DataError, ["prior: wanted an (N, D) array of numbers", "list"]),
    "a sparse tensor": ({"prior": torch.eye(60).to_sparse()}, DataError, ["prior: wanted an (N, D) array of numbers", "Tensor"]),
    "embeddings of texts": ({"prior": np.full((60, 2), "a")}, DataError, ["prior: wanted", "<U1"]),
    "embeddings not finite": ({"prior": np.diag([1.0] * 59 + [np.nan])}, DataError, ["prior: row 59", "not finite"]),
    "beyond float32": ({"prior": np.diag([1.0] * 59 + [1e39])}, DataError, ["prior: row 59", "not finite in float32"]),
    "no direction": ({"prior": Embeddings(array=np.eye(60, 59), space="cosine")}, DataError, ["prior[59] is a zero vector"]),
    "norms too large": ({"prior": np.diag(np.arange(60) * 1e18)}, DataError, ["prior: the largest norm is 5.9e+19"]),
    "all at one point": ({"prior": np.ones((60, 2))}, DataError, ["60 of 60 images lie at one point", "rows of prior"]),
    "a search backend": ({"search": {"backend": "fais"}}, UnknownNameError, ["search backend 'fais'", "Did you mean 'faiss'"]),
    "a radius by an approximate search": (
        {"search": {"backend": "faiss_hnsw"}, "radius": 3.0},
        ConfigError,
        ["search.backend=faiss_hnsw", "radius=3.0", "Use search.backend=auto, or k in place"],
    ),
    "a search key": ({"search": {"bakend": "torch"}}, ConfigError, ["search.bakend"]),
    "a radius with no neighbour": ({"radius": 1e-6}, DataError, ["radius=1e-06: no image has a positive", " fits: "]),
    "labels too few": ({"labels": [1, 2]}, DataError, ["labels: wanted 60 whole numbers", "(2,)"]),
    "labels that are names": ({"labels": ["a"] * 60}, DataError, ["labels: wanted 60 whole numbers"]),
    "a class without labels": ({"same_label": True}, DataError, ["labels: same_label=True needs them"]),
    "a key of the decoder": ({"decode": {"scale": "owm"}}, ConfigError, ["decode: scale='owm'", "Did you mean 'own'"]),
    **{f"{key}, a key of recipes": ({key: 2}, ConfigError, [f"{key}: ", "here"]) for key in NOT_HERE},
}


@pytest.mark.parametrize(("arguments", "error", "words"), WRONG.values(), ids=WRONG)
def test_what_a_recipe_would_be_refused_is_refused(arguments, error, words):
    with pytest.raises(error) as caught:
        solo_gps.positives(PIXELS, **{"prior": "pixels", **arguments})
    for word in words:
        assert word in str(caught.value)
    assert "sampler." not in str(caught.value)


def test_the_radius_that_an_error_names_fits():
    with pytest.raises(DataError) as caught:
        solo_gps.positives(PIXELS, prior="pixels", radius=1e-6)
    radius = float(str(caught.value).partition("radius=1e-06")[2].partition("radius=")[2].split()[0])
    assert (solo_gps.positives(PIXELS, prior="pixels", radius=radius).table.indices[:, 0] >= 0).mean() >= 0.5


NO_IMAGES = {
    "a number": (5, ["images: wanted", "got int"]),
    "nothing": (None, ["images: wanted", "got NoneType"]),
    "an empty list": ([], ["this list holds no image"]),
    "no folder": ("nowhere", ["'nowhere': no such folder"]),
    "tensors": (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), ["images[0]", "Tensor of (3, 8, 8)"]),
    "channels first": (np.zeros((4, 3, 8, 8), np.uint8), ["images[0]", "ndarray of (3, 8, 8) uint8"]),
    "one image": (np.zeros((8, 8), np.uint8), ["images[0]", "(8,)"]),
    "no pixels": (np.zeros((4, 0, 8), np.uint8), ["images[0]"]),
    "texts": (["a", "b"], ["images[0]", "got str"]),
}


@pytest.mark.parametrize(("images", "words"), NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_set_of_images_is_refused(images, words):
    with pytest.raises(DataError) as caught:
        solo_gps.positives(images, prior=LINE, k=1)
    for word in words:
        assert word in str(caught.value)


def test_folders_that_torchvision_would_stumble_over_or_read_in_part(flat, classes, tmp_path):
    (tmp_path / "empty").mkdir()
    (classes / "3").mkdir()
    (flat / "deeper").mkdir()
    for folder, word in (
        (tmp_path / "empty", "holds no image"),
        (classes, "class folder '3' is empty"),
        (flat, "beside folders"),
    ):
        with pytest.raises(DataError, match=word) as caught:
            solo_gps.positives(folder)
        assert str(folder) in str(caught.value)
    (classes / "3").rmdir()
    with pytest.raises(ConfigError, match=r"labels: a folder of classes says its own"):
        solo_gps.positives(classes, labels=[0] * 60)


def test_images_of_16_bits_are_refused_and_each_mend_works():
    deep = (PIXELS.astype(np.uint16) * 200)[:20]
    with pytest.raises(DataError, match=r"images\[0\] has values from 0 to") as caught:
        solo_gps.positives(deep, prior="pixels", k=3)
    assert "solo-learn" not in str(caught.value)
    mends = [ast.literal_eval(mend) for mend in re.findall(r"decode=(\{.*?\})", str(caught.value))]
    assert [mend["scale"] for mend in mends] == ["own", "type", "fixed"]
    for mend in mends:
        found = solo_gps.positives(deep, prior="pixels", k=3, decode=mend)
        shown = np.asarray(solo_gps.GuidedPairs(deep.copy(), np.asarray, found)[0][0])
        assert shown.max() == (255 if mend["scale"] != "type" else round(int(deep[0].max()) * 255 / 65535))


def test_an_image_that_cannot_be_read_is_named(flat):
    (flat / "07.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"07\.png"):
        solo_gps.positives(flat, prior="pixels")

    class Broken(Items):
        def __getitem__(self, index):
            return super().__getitem__(index) if index != 33 else {}["lost"]

    with pytest.raises(UnreadableImageError, match=r"images\[33\] cannot be read: KeyError"):
        solo_gps.positives(Broken(), prior="pixels")


@pytest.mark.parametrize("epoch", [-1, 1.5, "2", None, 2**40])
def test_an_epoch_is_a_whole_number(epoch):
    with pytest.raises(ConfigError, match=r"epoch=.*wanted a whole number"):
        solo_gps.positives(FOUR, prior=LINE, k=1).pairs(epoch)


def test_no_purity_without_labels():
    with pytest.raises(DataError, match=r"purity\(labels=\.\.\.\)"):
        solo_gps.positives(FOUR, prior=LINE, k=1).purity()


def test_no_solo_learn_is_imported():
    """In a process where importing it, Lightning or Hydra is an error."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('solo', 'lightning', 'pytorch_lightning')))\n"
        "import numpy as np, solo_gps\n"
        "found = solo_gps.positives(np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8), k=2)\n"
        "pairs = solo_gps.GuidedPairs(np.zeros((30, 8, 8), np.uint8), np.asarray, found)\n"
        "print(len(pairs), pairs[3][0].shape)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(solo_gps.__file__).parents[1]
    )
    assert run.stdout.split("\n")[0] == "30 (8, 8, 3)", run.stderr


def test_every_key_of_gps_is_one_here_or_says_why_not():
    from dataclasses import fields

    from solo_gps.samplers.gps.config import GpsConfig

    for field in fields(GpsConfig):
        if field.name in NOT_HERE:
            with pytest.raises(SoloGpsError, match=f"{field.name}: a key of solo-learn's recipes"):
                solo_gps.positives(FOUR, prior=LINE, **{field.name: field.default})
        else:
            given = {"k": 1, field.name: field.default} if field.name != "k" else {"k": 2}
            assert getattr(solo_gps.positives(FOUR, prior=LINE, **given).config, field.name) == given[field.name]
