"""Files of the true layout that somebody has changed, cut short or copied in part: read as they mean, or refused in one line."""

from __future__ import annotations

import logging
import shutil
import tarfile
from pathlib import Path
from threading import Thread
from urllib.error import URLError

import h5py
import numpy as np
import pytest
from filelock import FileLock
from named_data import HELD_OUT, TRAIN, WRITERS, medmnist
from PIL import Image
from torchvision.datasets import utils as torchvision_utils

from solo_gps.errors import ConfigError, DataError, HostError, UnreadableImageError
from solo_gps.hosts.named import LOCK, check_named, held_out_set, open_named
from solo_gps.hosts.named_set import NamedSet


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision_utils, "_urlretrieve", unreachable)
    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", unreachable)


AIRCRAFT, TINY, VOC = "fgvc-aircraft-2013b/data", "tiny-imagenet-200", "VOCdevkit/VOC2007"
XML = f"{VOC}/Annotations/000001.xml"


def text(file, change):
    def apply(root):
        for path in sorted(root.glob(file)):
            path.write_bytes(change(path.read_bytes()))

    return apply


def swap(file, old, new):
    return text(file, lambda content: content.replace(old, new))


def add(file, line):
    return text(file, lambda content: content + line)


def npz(**changes):
    def apply(root):
        arrays = dict(np.load(root / "pathmnist.npz"))
        np.savez(root / "pathmnist.npz", **(arrays | {name: change(arrays[name]) for name, change in changes.items()}))

    return apply


def h5(part, change):
    def apply(root):
        file = root / "pcam" / f"camelyonpatch_level_2_split_train_{part}.h5"
        with h5py.File(file) as opened:
            values = opened[part][:]
        with h5py.File(file, "w") as opened:
            for key, changed in change(values).items():
                opened[key] = changed

    return apply


def other_set(root):
    medmnist(root / "other", "tissuemnist", 8, grey=True)
    shutil.copy(root / "other" / "tissuemnist.npz", root / "pathmnist.npz")


def cut_archive(root):
    with tarfile.open(root / "fgvc-aircraft-2013b.tar.gz", "w:gz") as archive:
        archive.add(root / "fgvc-aircraft-2013b", "fgvc-aircraft-2013b")
    shutil.rmtree(root / "fgvc-aircraft-2013b")
    text("fgvc-aircraft-2013b.tar.gz", lambda content: content[: len(content) // 2])(root)


def moved_to_windows(content):
    return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")


def lines_twice(content):
    return content + content.splitlines(keepends=True)[0]


AS_MEANT = [
    ("fgvc_aircraft", text(f"{AIRCRAFT}/*.txt", lambda content: content.replace(b"\n", b"\r\n"))),
    ("tiny_imagenet", text(f"{TINY}/**/*.txt", moved_to_windows)),
    ("tiny_imagenet", text(f"{TINY}/**/*.txt", lambda content: content + b"\n \n")),
    ("tiny_imagenet", text(f"{TINY}/wnids.txt", lines_twice)),
    ("voc2007", text(f"{VOC}/**/*.xml", moved_to_windows)),
    ("voc2007", swap(f"{VOC}/Annotations/*.xml", b"<difficult>1</difficult>", b"<difficult> 1\n</difficult>")),
    ("hotel_id", lambda root: [path.rename(path.with_suffix(".JPG")) for path in sorted(root.glob("*/*/*.jpg"))]),
]


@pytest.mark.parametrize(("name", "change"), AS_MEANT)
def test_what_editors_and_other_systems_change_is_read_as_it_was(name, change, tmp_path):
    written = WRITERS[name](tmp_path)
    change(tmp_path)
    for train, wanted in ((True, written.train), (False, written.held_out)):
        contents = open_named(name, str(tmp_path), train=train)
        assert [label for _, label in contents.samples] == [label for _, label in wanted]
        assert np.array_equal(np.asarray(contents.source.image(contents.samples[-1][0])), wanted[-1][0])


REFUSED = [
    ("fgvc_aircraft", text(f"{AIRCRAFT}/*.txt", moved_to_windows), r"not fgvc_aircraft as it is published.*'707-320'"),
    ("fgvc_aircraft", swap(f"{AIRCRAFT}/variants.txt", b"A380\n", b""), r"as it is published, or not whole \(KeyError: 'A380'"),
    (
        "fgvc_aircraft",
        add(f"{AIRCRAFT}/images_variant_trainval.txt", b"\n"),
        r"as it is published.*Wanted fgvc-aircraft",
    ),
    (
        "fgvc_aircraft",
        text(f"{AIRCRAFT}/images_variant_trainval.txt", lines_twice),
        r"\d\.jpg: a list in .* has it twice",
    ),
    ("fgvc_aircraft", swap(f"{AIRCRAFT}/variants.txt", b"A380", b"\xe9"), r"as it is published.*UnicodeDecodeError"),
    ("fgvc_aircraft", cut_archive, r"not whole \(EOFError: .*remove it, an archive too"),
    ("tiny_imagenet", text(f"{TINY}/train/n02124075/*.txt", lambda content: b""), r"n02124075_boxes\.txt: lists no image"),
    ("voc2007", text(XML, lambda content: content[:60]), r"000001\.xml: is no annotation of VOC's \(ParseError"),
    ("voc2007", swap(XML, b"<xmax>20</xmax>", b""), r"000001\.xml: is no annotation of VOC's \(KeyError: 'xmax'\)"),
    ("voc2007", swap(XML, b"<xmax>20<", b"<xmax>0<"), r"000001\.xml: .*an object from 1, 1 to 0, 30"),
    ("voc2007", swap(XML, b"<xmin>1<", b"<xmin>0<"), r"000001\.xml: .*an object from 0, 1 to 20, 30"),
    ("voc2007", swap(XML, b"<xmin>1<", b"<xmin>nan<"), r"000001\.xml: .*NaN"),
    ("pcam", h5("x", lambda values: {"images": values}), r"train_x\.h5: is not whole \(KeyError.*Remove it"),
    ("pcam", h5("x", lambda values: {"x": values / np.float32(255)}), r"train_x\.h5: has images of \(24, 96, 96, 3\) float32"),
    ("pcam", h5("x", lambda values: {"x": values.transpose(0, 3, 1, 2)}), r"\(24, 3, 96, 96\) uint8.*wanted \(N, 96, 96, 3\)"),
    ("pcam", h5("y", lambda values: {"y": values * 2}), r"image 1 \(00000001\) is of class 2, but there are 2, from 0"),
    ("pcam", h5("y", lambda values: {"y": values / np.nan}), r"\(24, 1, 1, 1\) float64 labels"),
    ("pcam", text("pcam/*train_x.h5", lambda content: content[:5000]), r"train_x\.h5: is not whole \(OSError.*Remove it"),
    ("pathmnist", npz(train_labels=lambda labels: labels + 9), r"image 0 \(00000000\) is of class 9, but there are 9, from 0"),
    (
        "pathmnist",
        npz(train_labels=lambda labels: labels[1:]),
        r"\(23, 1\) uint8 labels; wanted .* with 1 whole numbers",
    ),
    ("pathmnist", npz(train_labels=lambda labels: np.eye(9, dtype="u1")[labels[:, 0]]), r"\(24, 9\) uint8 labels"),
    ("pathmnist", npz(train_images=lambda images: images.repeat(2, axis=1).repeat(2, axis=2)), r"\(24, 56, 56, 3\) uint8"),
    ("pathmnist", npz(train_images=lambda images: images / 255), r"\(24, 28, 28, 3\) float64"),
    ("pathmnist", other_set, r"\(24, 28, 28\) uint8.*wanted \(N, 28, 28, 3\).*another set or size under this name"),
    (
        "pathmnist",
        text("pathmnist.npz", lambda content: b"version https://git-lfs"),
        r"is not whole \(BadZipFile: no \.npz archive\)",
    ),
    ("hotel_id", lambda root: (root / "train" / "9").mkdir(), r"train: Found no valid file for the classes 9\..*fill or remove"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_what_would_train_on_something_else_is_one_line_at_the_start(name, change, message, tmp_path):
    WRITERS[name](tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=message) as said:
        open_named(name, str(tmp_path), train=True)
    assert "\n" not in str(said.value)
    assert "allow_pickle" not in str(said.value)


@pytest.mark.parametrize(
    ("name", "change", "index", "reason"),
    [
        ("fgvc_aircraft", lambda file: file.write_bytes(file.read_bytes()[:300]), 0, "OSError"),
        ("tiny_imagenet", lambda file: (file.unlink(), file.mkdir()), 0, "IsADirectoryError"),
        ("voc2007", lambda file: Image.new("RGB", (20, 64)).save(file), 1, "the photo 20 x 64 pixels"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_in_a_plain_run_too(name, change, index, reason, tmp_path):
    file = WRITERS[name](tmp_path).files[0]
    change(file)
    items = NamedSet(open_named(name, str(tmp_path), train=True), str(tmp_path))
    with pytest.raises(UnreadableImageError, match=rf"{file.name} cannot be read: .*{reason}.*Mend or remove it"):
        items[index]


OFF = ("color_jitter", "grayscale", "gaussian_blur", "solarization", "equalization", "horizontal_flip")
SHORTER_SIDE_ALONE = {"rrc": {"enabled": False}, "crop_size": 32, "num_crops": 2, **{kind: {"prob": 0.0} for kind in OFF}}


@pytest.mark.host
def test_photos_of_several_shapes_that_are_not_cropped_are_refused_before_the_prior(tmp_path, recipe, train, own_cache):
    WRITERS["voc2007"](tmp_path)
    node = {"dataset": "voc2007", "train_path": str(tmp_path), "val_path": None}
    nodes = {"sampler": {"gps": {"k": 3}}, "prior": {"name": "pixels"}, "max_steps": 1}
    with pytest.raises(DataError, match=r"rrc\.enabled=False scales the shorter side alone to 32 .*\(32 x 36 and 32 x 48\)"):
        train(recipe(**nodes, data=node, augmentations=[SHORTER_SIDE_ALONE]))
    assert not own_cache.exists() or not list(own_cache.glob("*/embeddings.npy"))
    WRITERS["fgvc_aircraft"](tmp_path)  # all of one shape: a batch of 32 x 42 pixels is solo-learn's own
    run = train(recipe(**nodes, data={**node, "dataset": "fgvc_aircraft"}, augmentations=[SHORTER_SIDE_ALONE]))
    assert run.batches[0][1][0].shape[2:] == (32, 42)


@pytest.mark.host
def test_a_share_that_cannot_have_every_class_is_one_line(tmp_path):
    from solo_gps.hosts.detect import detect_host

    host = detect_host()
    WRITERS["pathmnist"](tmp_path)
    node = {"dataset": "pathmnist", "train_path": str(tmp_path), "format": "image_folder", "no_labels": False, "fraction": 0.1}
    if host.generation == "1.0.2":  # takes one of each class
        assert len(host.build_train_set(node, None)) == 9
        return
    with pytest.raises(DataError, match=r"data\.fraction=0\.1: The train_size = 2 .*classes = 9\. Raise it"):
        host.build_train_set(node, None)


@pytest.mark.host
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "stl10"])
@pytest.mark.parametrize("sampler", [{"gps": {}}, None])
def test_solo_learns_own_set_that_cannot_be_fetched_is_one_line(dataset, sampler, tmp_path, recipe, train, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", unreachable)
    data = {"dataset": dataset, "train_path": str(tmp_path), "val_path": str(tmp_path)}
    with pytest.raises(HostError, match=r"cannot be fetched \(URLError: .*no route to host.*below data\.train_path"):
        train(recipe(sampler=sampler, data=data))


def test_a_number_of_images_that_was_not_published_is_said(tmp_path, caplog):
    WRITERS["pathmnist"](tmp_path)
    with caplog.at_level(logging.WARNING):
        open_named("pathmnist", str(tmp_path), train=True)
        open_named("pathmnist", str(tmp_path), train=False)
    assert [record.getMessage().partition("pathmnist has ")[2] for record in caplog.records] == [
        f"{TRAIN} images there; published are 89,996",
        f"{HELD_OUT} images there; published are 7,180",
    ]


def test_other_classes_than_the_sets_are_refused(tmp_path):
    for name in ("pathmnist", "hotel_id"):
        WRITERS[name](tmp_path / name)
    with pytest.raises(ConfigError, match=r"data\.num_classes=10: pathmnist has 9\. Leave"):
        check_named({"dataset": "pathmnist", "train_path": str(tmp_path / "pathmnist"), "num_classes": 10})
    check_named({"dataset": "pathmnist", "train_path": str(tmp_path / "pathmnist"), "num_classes": 9})
    shutil.copytree(tmp_path / "hotel_id", tmp_path / "others")
    shutil.rmtree(tmp_path / "others" / "train" / "2")
    node = {"dataset": "hotel_id", "train_path": str(tmp_path / "hotel_id"), "val_path": str(tmp_path / "others")}
    with pytest.raises(DataError, match=r"data\.val_path='.*others': hotel_id has 3 classes there, and 4 below"):
        check_named(node)
    check_named({**node, "val_path": node["train_path"]})
    WRITERS["chestmnist"](tmp_path / "chest")
    with pytest.raises(ConfigError, match="chestmnist has no classes to validate by"):
        check_named({"dataset": "chestmnist", "train_path": str(tmp_path / "chest"), "val_path": str(tmp_path / "chest")})
    assert len(held_out_set({**node, "val_path": node["train_path"]})) == HELD_OUT


def test_whoever_comes_while_another_process_unpacks_waits_for_it(tmp_path):
    """The folder looks whole to torchvision while half of it is missing, and a short list would be taken for all of it."""
    written = WRITERS["fgvc_aircraft"](tmp_path)
    listed = tmp_path / AIRCRAFT / "images_variant_trainval.txt"
    whole, found = listed.read_text(), []
    listed.write_text("".join(whole.splitlines(keepends=True)[:5]))
    with FileLock(tmp_path / LOCK):
        second = Thread(target=lambda: found.extend(open_named("fgvc_aircraft", str(tmp_path), train=True).samples))
        second.start()
        second.join(timeout=0.5)
        assert second.is_alive()
        assert found == []
        listed.write_text(whole)
    second.join(timeout=300)
    assert len(found) == len(written.train)


def test_a_lock_that_may_not_be_taken_stops_nobody(tmp_path, monkeypatch):
    """A folder that all read and one writes."""
    written = WRITERS["pathmnist"](tmp_path)
    (tmp_path / LOCK).touch()

    def refused(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(FileLock, "acquire", refused)
    assert len(open_named("pathmnist", str(tmp_path), train=True).samples) == len(written.train)
    assert Path(tmp_path, LOCK).exists()
