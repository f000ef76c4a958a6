"""Images that cannot be read, and those of more than 8 bits, in whole runs: one line that names the file, or the right pixels."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from config_keys import composed
from odd_images import write_deep, write_huge, write_truncated
from omegaconf import OmegaConf
from PIL import Image

import solo_gps
from solo_gps.commands.program import run_program
from solo_gps.embeddings import embed
from solo_gps.errors import ConfigError, DataError, UnreadableImageError
from solo_gps.guide.check import parse_images
from solo_gps.hosts.decode import ImagesConfig, decoded
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.images import host_images

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]
HOST = detect_host()
DATA = {"dataset": "custom", "format": "image_folder", "no_labels": False, "fraction": -1.0}
GPS = {"gps": {"k": 3}}
PIXELS = {"name": "pixels", "image_size": 8}


@pytest.fixture
def folder(digits, tmp_path):
    """The digits, to be broken; number 30 is 2/006.png."""
    shutil.copytree(digits / "train", tmp_path / "train")
    return tmp_path / "train"


@pytest.fixture
def rows(tmp_path):
    """Embeddings of the digits that read no image: neighbours are those of the number."""
    np.save(tmp_path / "rows.npy", np.arange(48, dtype=np.float32)[:, None])
    return {"name": "array", "path": str(tmp_path / "rows.npy")}


@pytest.fixture
def ends(recipe, folder, tmp_path, capfd):
    """Returns the line that a run of `solo-gps pretrain` ends with."""

    def run(**nodes):
        cfg = OmegaConf.merge(recipe(batch_size=16, max_epochs=1), {"data": {"train_path": str(folder)}, "sampler": GPS}, nodes)
        hydra = f"hydra: {{output_subdir: null, run: {{dir: {tmp_path}}}}}\n"
        (tmp_path / "recipe.yaml").write_text(OmegaConf.to_yaml(cfg) + hydra)
        with pytest.raises(SystemExit) as ended:
            run_program(["--config-path", str(tmp_path), "--config-name", "recipe"])
        assert "Traceback" not in capfd.readouterr().err
        line = str(ended.value.code)
        assert line.startswith("solo-gps: ")
        assert "\n" not in line
        return line

    return run


@pytest.mark.parametrize("fraction", [-1.0, 0.9])
def test_c1_a_truncated_jpeg_is_named_while_the_prior_is_built(ends, folder, fraction):
    bad = folder / "2" / "006.jpg"
    write_truncated(bad)
    shutil.copy(bad, folder / "2" / "007.jpg")  # one of the two is in every share
    line = ends(prior=PIXELS, data={"fraction": fraction})
    assert f"solo-gps: {folder}/2/00" in line
    assert ".jpg cannot be read: OSError:" in line


def test_c2_an_image_beyond_pillows_limit_is_named(ends, folder):
    write_huge(folder / "2" / "006.png")
    line = ends(prior=PIXELS)
    assert line.startswith(f"solo-gps: {folder}/2/006.png cannot be read: DecompressionBombError: Image size (400000000 pixels)")


@pytest.mark.parametrize("workers", [0, 2])
def test_c3_an_image_that_breaks_after_the_embeddings_is_named_in_an_epoch(ends, folder, rows, workers):
    (folder / "2" / "006.png").write_bytes(b"no image")
    line = ends(prior=rows, data={"num_workers": workers})
    assert line.startswith(f"solo-gps: {folder}/2/006.png cannot be read: UnidentifiedImageError:")
    assert line.endswith("Mend or remove it.")


def test_c3_a_refresh_and_sepp_name_it_too(ends, folder, rows):
    (folder / "2" / "006.png").write_bytes(b"no image")
    for nodes in (
        {"prior": None, "refresh": {"start": 0, "every": 1}},
        {"sampler": {"sepp": {"low": 0.1, "high": 0.9}}, "prior": PIXELS},
    ):
        assert f"{folder}/2/006.png cannot be read" in ends(**nodes)


@pytest.mark.skipif(HOST.generation != "1.0.6", reason="on 1.0.2 pNN acts on the methods that find neighbours by themselves")
def test_c3_pnn_alone_names_it_too(ends, folder):
    (folder / "2" / "006.png").write_bytes(b"no image")
    assert f"{folder}/2/006.png cannot be read" in ends(sampler={"pnn": {}})


@pytest.mark.parametrize("store", [None, "memory", "mapped"])
@pytest.mark.parametrize("workers", [0, 2])
def test_skip_shows_the_other_image_alone_and_says_so(recipe, train, folder, rows, workers, store, tmp_path, caplog):
    """Images are numbers here: the positive of 30 is one of 28 to 32, and what is shown is compared pixel by pixel."""
    known = np.stack([np.asarray(image) for image, _ in host_set(folder)])
    (folder / "2" / "006.png").write_bytes(b"no image")
    sampler = {"gps": {"k": 3, "choose": "nearest", "on_bad_image": "skip"}}
    data = {"train_path": str(folder), "num_workers": workers}
    cfg = recipe(batch_size=16, max_epochs=1, sampler=sampler, prior=rows, data=data, images={"store": store}, name="skip")
    cfg.checkpoint = {"enabled": True, "dir": str(tmp_path / "kept"), "frequency": 1, "keep_prev": False}
    run = train(cfg)
    items, first, second = (np.concatenate([get(step) for step in run.batches]) for get in (indices, crop(0), crop(1)))
    assert not (items == 30).any(), "the batch knows the image that it shows"
    shown = [nearest_of(known, image) for image in first]
    assert (np.array(shown) == items).all()
    (path,) = (tmp_path / "kept").rglob("solo_gps_receipt.json")
    receipt = json.loads(path.read_text())
    alone = sum((a == b).all() for a, b in zip(first, second, strict=True))
    assert alone == receipt["items_with_an_unreadable_image"] >= 2
    assert receipt["share_guided"] == 1 - alone / 48
    assert "1 images were skipped, since they cannot be read: image 30 (2/006.png)" in caplog.text


def test_skip_ends_where_neither_image_can_be_read(ends, folder, rows):
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"no image")
    assert "cannot be read" in ends(prior=rows, sampler={"gps": {"k": 3, "on_bad_image": "skip"}})


def indices(step):
    return step[0].numpy()


def crop(number):
    return lambda step: step[1][number].numpy()


def nearest_of(known, image):
    from torchvision.transforms import functional as F

    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    pixels = ((image.transpose(1, 2, 0) * std + mean) * 255).round()
    resized = [np.asarray(F.resize(Image.fromarray(one), 32, F.InterpolationMode.BICUBIC)) for one in known]
    return int(np.abs(np.stack(resized) - pixels).sum(axis=(1, 2, 3)).argmin())


def host_set(folder, **keys):
    from torchvision.datasets import ImageFolder

    return ImageFolder(folder)


def deep(folder, mode="16"):
    """The same digits in 12 of 16 bits, or as floats of 0 to 1."""
    for path in folder.glob("*/*.png"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.float64)
        path.unlink()
        if mode == "16":
            write_deep(path, grey * 16)
        else:
            Image.fromarray((grey / 255).astype(np.float32)).save(path.with_suffix(".tiff"))


@pytest.mark.parametrize("mode", ["16", "float"])
def test_b4_images_whose_values_would_be_lost_are_refused_with_mends_that_work(ends, recipe, train, folder, mode):
    deep(folder, mode)
    line = ends(prior=PIXELS)
    assert f"solo-gps: {folder}/0/000." in line
    assert "which solo-learn cuts off at 0 and 255" in line
    for scale in ("own", "type"):
        assert f"+images={scale} " in line
        train(recipe(max_steps=1, sampler=GPS, prior=PIXELS, images={"scale": scale}, data={"train_path": str(folder)}))


@pytest.mark.parametrize("mode", ["16", "float"])
@pytest.mark.parametrize("sampler", [GPS, {"sepp": {"low": 0.1, "high": 0.9}}], ids=["gps", "sepp"])
def test_b4_scaled_images_train_as_the_same_images_in_8_bits_do(recipe, train, folder, mode, sampler):
    nodes = {"max_epochs": 1, "sampler": sampler, "prior": PIXELS, "data": {"train_path": str(folder)}}
    expected = train(recipe(**nodes))
    deep(folder, mode)
    images = {"scale": "fixed", "low": 0, "high": 255 * 16 if mode == "16" else 1}
    run = train(recipe(**nodes, images=images))
    assert run.losses == expected.losses
    for (items, crops, _), (same, as_before, _) in zip(run.batches, expected.batches, strict=True):
        assert (items == same).all()
        assert all((one == other).all() for one, other in zip(crops, as_before, strict=True))


def test_b4_another_scale_is_another_cache(folder):
    deep(folder)
    first, second = (embed(host_images(host_set(folder), ImagesConfig(scale=scale)), PIXELS) for scale in ("own", "type"))
    assert first.fingerprint != second.fingerprint
    assert not np.array_equal(first.array, second.array)
    assert embed(host_images(host_set(folder), ImagesConfig(scale="own")), PIXELS).fingerprint == first.fingerprint


def test_b4_pixels_of_each_scale(tmp_path):
    (tmp_path / "a").mkdir()
    write_deep(tmp_path / "a" / "0.png", np.array([[100, 200, 300, 65535]]))
    Image.fromarray(np.array([[-1.0, 0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a" / "1.tiff")
    write_deep(tmp_path / "a" / "2.png", np.array([[0, 3, 255]]))

    def grey(index, **keys):
        return np.asarray(host_images(host_set(tmp_path), ImagesConfig(**keys)).image(index))[0, :, 0].tolist()

    assert grey(0, scale="own") == [0, 0, 1, 255]
    assert grey(0, scale="type") == [0, 1, 1, 255]
    assert grey(0, scale="fixed", low=100, high=300) == [0, 128, 255, 255]
    assert grey(1, scale="own") == [0, 128, 191, 255]
    assert grey(1, scale="fixed", low=0, high=1) == [0, 0, 128, 255]
    assert grey(2) == [0, 3, 255], "what fits 8 bits is read as solo-learn reads it"
    write_deep(tmp_path / "a" / "3.png", np.array([[70000 - 5000] * 2]))
    for index, high in ((1, 1.0), (3, 65001)):
        with pytest.raises(DataError) as caught:
            grey(index)
        low, advised = re.search(r"images.low=(\S+) images.high=(\S+)\.", str(caught.value)).groups()
        assert grey(index, scale="fixed", low=float(low), high=float(advised))[0] == 0, "the advice is accepted as printed"
        assert float(advised) == high
    for index, keys, text in (
        (0, {}, "values from 100 to 65535"),
        (1, {}, "-1 to 1"),
        (1, {"scale": "type"}, "Set images.scale=own or fixed"),
    ):
        with pytest.raises(DataError, match=text):
            grey(index, **keys)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 0.5, 1.0001]], np.float32),  # of 0 to 1, made larger by a bicubic filter
        np.array([[0.0, 3.0, 100.5]], np.float32),
        np.array([[-990, 0, 2740]], np.int32),
        np.array([[0, 5, 2**31 - 1]], np.int32),
        np.array([[-3e36, 0, 9e36]], np.float32),
        np.array([[1e17, 1e17]], np.float32),
        np.array([[-4.0, -4.0]], np.float32),
    ],
    ids=["just above 1", "halves", "Hounsfield", "32 bits", "huge", "constant", "constant below 0"],
)
def test_b4_every_mend_that_is_offered_works(values, tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(values).save(tmp_path / "a" / "0.tiff")
    with pytest.raises(DataError, match="cuts off at 0 and 255") as caught:
        host_images(host_set(tmp_path)).image(0)
    said = str(caught.value)
    assert "+images=own" in said
    offered = [{"scale": scale} for scale in ("own", "type") if f"+images={scale} " in said]
    if fixed := re.search(r"images.low=(\S+) images.high=(\S+)\.$", said):
        offered.append(dict(zip(("low", "high"), map(float, fixed.groups()), strict=True), scale="fixed"))
    for keys in offered:
        host_images(host_set(tmp_path), ImagesConfig(**keys)).image(0)


def test_b4_a_validation_set_of_16_bits_is_refused_beside_images(recipe, folder, digits, tmp_path):
    shutil.copytree(digits / "val", tmp_path / "val")
    deep(tmp_path / "val")
    data = {"train_path": str(folder), "val_path": str(tmp_path / "val")}
    cfg = recipe(sampler=GPS, prior=PIXELS, images={"scale": "own"}, data=data)
    with pytest.raises(DataError, match=r"data.val_path: .*val/0/.*does not reach the validation"), solo_gps.activate(cfg):
        pass


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({"scale": "ow"}, r"images: scale='ow' is not one of.*Did you mean 'own'"),
        ({"scale": "fixed"}, "wants two numbers low < high"),
        ({"scale": "fixed", "low": 5, "high": 5}, "wants two numbers low < high"),
        ({"scale": "own", "low": 5}, "low and high belong to scale=fixed"),
        ({"scael": "own"}, r"images.scael: no such key.*Did you mean 'scale'"),
        ("own", r"images='own': wanted a group"),
        ({"store": "memroy"}, r"images: store='memroy' is not one of memory, mapped. Did you mean 'memory'"),
    ],
)
def test_b4_wrong_keys(node, text, recipe):
    with pytest.raises(ConfigError, match=text), solo_gps.activate(recipe(sampler=GPS, images=node)):
        pass


def test_an_error_of_a_loaders_worker_is_one_line():
    error = UnreadableImageError("a/b.png", OSError("truncated."))
    assert str(error) == "a/b.png cannot be read: OSError: truncated. Mend or remove it."
    traceback = f"Original Traceback:\n  x\nsolo_gps.errors.UnreadableImageError: {error}\n"
    sent = f"Caught UnreadableImageError in DataLoader worker process 0.\n{traceback}"
    assert str(UnreadableImageError(sent)) == str(error)


def is_same(run, expected):
    assert np.array_equal(run.losses, expected.losses, equal_nan=True)  # without labels the classifier's is no number
    for (items, crops, targets), (same, as_before, known) in zip(run.batches, expected.batches, strict=True):
        assert (items == same).all()
        assert (targets == known).all()
        assert all((one == other).all() for one, other in zip(crops, as_before, strict=True))


PNN = pytest.param(
    {"pnn": {}}, marks=pytest.mark.skipif(HOST.generation != "1.0.6", reason="on 1.0.2 pNN acts on methods with queues")
)


@pytest.mark.parametrize("store", ["memory", "mapped"])
@pytest.mark.parametrize("sampler", [GPS, {"sepp": {"low": 0.1, "high": 0.9}}, PNN])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_decoded_once_train_as_those_that_are_decoded_each_time(recipe, train, sampler, store, workers):
    nodes = {"max_epochs": 2, "sampler": sampler, "data": {"num_workers": workers}, "flip": 0.5}
    nodes.update({} if "pnn" in sampler else {"prior": PIXELS})
    expected = train(recipe(**nodes))
    is_same(train(recipe(**nodes, images={"store": store})), expected)


def test_an_epoch_of_a_run_with_a_store_decodes_no_file(recipe, train, monkeypatch):
    opened = []
    monkeypatch.setattr("solo_gps.hosts.images.decoded", lambda image, config, do=decoded: opened.append(1) or do(image, config))
    nodes = {"max_epochs": 3, "sampler": GPS, "prior": PIXELS, "refresh": {"every": 1}}
    train(recipe(**nodes, images={"store": "mapped"}))
    rehearsed = len(opened)
    assert 48 < rehearsed < 2 * 48
    train(recipe(**nodes, images={"store": "mapped"}))
    assert len(opened) - rehearsed < 16, "but for the few that are decoded to see whether they can be"


@pytest.mark.parametrize("store", ["memory", "mapped"])
def test_a_flat_folder_that_is_decoded_once(recipe, train, digits, tmp_path, store):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (digits / "train").glob("*/*.png"):
        Image.open(path).resize((8 + len(path.name) % 3, 9)).save(flat / f"{path.parent.name}-{path.name}")
    nodes = {"max_epochs": 1, "sampler": GPS, "prior": PIXELS, "data": {"train_path": str(flat), "no_labels": True}}
    is_same(train(recipe(**nodes, images={"store": store})), train(recipe(**nodes)))


@pytest.mark.parametrize(
    ("typed", "images"),
    [
        (["+images=memory"], ImagesConfig(store="memory")),
        (["+images=mapped", "images.scale=own"], ImagesConfig(store="mapped", scale="own")),
        (["+images=own", "images.store=memory"], ImagesConfig(store="memory", scale="own")),
        (
            ["+images=memory", "images.scale=fixed", "images.low=0", "images.high=9"],
            ImagesConfig(store="memory", scale="fixed", low=0, high=9),
        ),
        (["+images=fixed", "images.low=0", "images.high=9"], ImagesConfig(scale="fixed", low=0, high=9)),
    ],
)
def test_groups_of_images_as_they_are_typed(typed, images):
    assert parse_images(composed(*typed)["images"]) == images


def test_the_store_is_no_part_of_a_runs_name(recipe):
    names = []
    for images in ({}, {"store": "memory"}, {"scale": "own"}, {"scale": "own", "store": "mapped"}):
        with solo_gps.activate(cfg := recipe(sampler=GPS, images=images)) as run:
            run.record_in(cfg)
        names.append(cfg.name)
    assert names[0] == names[1] != names[2] == names[3]
    assert cfg.images.store == "mapped"
