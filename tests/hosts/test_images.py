"""Raw images, labels and contents of every dataset class that solo-learn builds."""

from __future__ import annotations

import io
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, STL10, ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

import solo_gps
from solo_gps.commands import cli
from solo_gps.embeddings import embed
from solo_gps.errors import DataError
from solo_gps.hosts.data_folder import EXTENSIONS, check_can_read, check_data_folder
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.h5 import wrong_with_h5
from solo_gps.hosts.images import host_images

pytestmark = pytest.mark.host
HOST = detect_host()


def indexed(cls):
    return HOST.loader_module.dataset_with_index(cls)


def in_memory(cls, data, **labels):
    """A torchvision set as it is once loaded; nothing is downloaded."""
    dataset = indexed(cls).__new__(indexed(cls))
    vars(dataset).update(data=data, transform=lambda image: pytest.fail("transformed"), target_transform=None, **labels)
    return dataset


def pixels(images):
    return [np.asarray(images.image(index)) for index in range(len(images))]


def test_cifar():
    data = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images = host_images(in_memory(CIFAR10, data, targets=[2, 0, 1]))
    assert images.labels.tolist() == [2, 0, 1]
    assert np.array_equal(pixels(images), data)
    assert list(images.content()) == [b"|u1(32, 32, 3)" + image.tobytes() for image in data]


def test_arrays_are_read_as_torchvision_reads_them_and_code_of_ones_own_is_not_gone_round():
    class Own(CIFAR10):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image.rotate(90), -target

    Own.__qualname__ = "CIFAR10"
    draw = np.random.default_rng(0)
    whole = draw.integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    for cls in (CIFAR10, Own):
        for data in (whole, whole[::2], whole.transpose(0, 2, 1, 3)):
            dataset = in_memory(cls, data, targets=[2, 0, 1, 3])
            dataset.transform = None
            images = host_images(dataset)
            for index, (_, image, target) in enumerate(dataset[place] for place in range(len(data))):
                assert images.item(index)[0] == image
                assert images.item(index)[1] == target
            dataset.target_transform = lambda target: target + 5
            assert host_images(dataset).item(1)[1] == dataset[1][2]


def test_stl10_with_unlabelled_images():
    data = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    images = host_images(in_memory(STL10, data, labels=np.array([4, -1, -1])))
    assert images.labels.tolist() == [4, -1, -1]
    assert np.array_equal(pixels(images), data.transpose(0, 2, 3, 1))


def test_image_folder(digits):
    dataset = indexed(ImageFolder)(str(digits / "train"), lambda image: pytest.fail("transformed"))
    images = host_images(dataset)
    plain = ImageFolder(digits / "train")
    assert images.labels.tolist() == plain.targets
    assert all(np.array_equal(a, np.asarray(b)) for a, (b, _) in zip(pixels(images), plain, strict=True))
    first = digits / "train" / "0" / "000.png"
    assert images.names[0] == "0/000.png"
    assert next(images.content()) == images.stored(0) == first.read_bytes()
    assert images.stamps()[0].tolist() == [
        first.stat().st_size,
        first.stat().st_mtime_ns,
        first.stat().st_ctime_ns,
        first.stat().st_ino,
    ]
    assert dataset.transform is not None


def test_contents_do_not_name_the_place(digits, tmp_path):
    import shutil

    shutil.copytree(digits / "train", tmp_path / "moved")
    here, there = (host_images(ImageFolder(folder)) for folder in (digits / "train", tmp_path / "moved"))
    assert list(here.content()) == list(there.content())


def test_flat_folder_without_labels(digits):
    dataset = indexed(HOST.loader_module.CustomDatasetWithoutLabels)(digits / "train" / "0", None)
    images = host_images(dataset)
    assert images.labels is None
    for index, name in enumerate(dataset.images):
        assert np.array_equal(np.asarray(images.image(index)), np.asarray(Image.open(digits / "train" / "0" / name)))


@pytest.mark.skipif(HOST.generation != "1.0.6", reason="H5 came with solo-learn 1.0.6")
def test_h5(digits, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    from solo.data.h5_dataset import H5Dataset

    monkeypatch.setenv("HOME", str(tmp_path))  # solo-learn writes a list of the file there
    plain = ImageFolder(digits / "train")
    with h5py.File(tmp_path / "digits.h5", "w") as file:
        for path, label in plain.samples:
            group = file.require_group(plain.classes[label])
            with open(path, "rb") as image:
                group[path.rsplit("/", 1)[1]] = np.frombuffer(image.read(), dtype=np.uint8)
    images = host_images(indexed(H5Dataset)("imagenet", str(tmp_path / "digits.h5"), None))
    assert images.labels.tolist() == plain.targets
    assert all(np.array_equal(a, np.asarray(b)) for a, (b, _) in zip(pixels(images), plain, strict=True))
    assert len(set(images.content())) == len(plain)


def test_b1_a_flat_folder_is_known_by_its_bytes(digits, tmp_path, cache_dir):
    cls = indexed(HOST.loader_module.CustomDatasetWithoutLabels)
    prints = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        for index in range(4):
            Image.new("L", (4, 4), 10 * value + index).save(folder / f"{index}.bmp")
        prints.append(embed(host_images(cls(folder, None)), {"name": "pixels"}).fingerprint)
    (tmp_path / "2").rename(tmp_path / "moved")
    moved = host_images(cls(tmp_path / "moved", None))
    if moved.names == host_images(cls(tmp_path / "1", None)).names:  # the file system's order is its own
        prints.append(embed(moved, {"name": "pixels"}).fingerprint)
        assert prints[1] == prints[2]
    assert prints[0] != prints[1]


@pytest.mark.skipif(HOST.generation != "1.0.6", reason="H5 came with solo-learn 1.0.6")
def test_b1_an_h5_file_is_known_by_its_bytes(tmp_path, monkeypatch, cache_dir):
    h5py = pytest.importorskip("h5py")
    from solo.data.h5_dataset import H5Dataset

    monkeypatch.setenv("HOME", str(tmp_path))
    prints = []
    for value in (1, 2, 2):
        place = tmp_path / f"place {len(prints)}"
        place.mkdir()
        with h5py.File(place / "same.h5", "w") as file:
            for index in range(4):
                buffer = io.BytesIO()
                Image.new("L", (4, 4), 10 * value + index).save(buffer, "BMP")
                file.require_group("n01")[f"{index}.bmp"] = np.frombuffer(buffer.getvalue(), np.uint8)
        images = host_images(indexed(H5Dataset)("imagenet", str(place / "same.h5"), None))
        assert images.names == [f"n01/{index}.bmp" for index in range(4)]
        prints.append(embed(images, {"name": "pixels"}).fingerprint)
    assert prints[0] != prints[1] == prints[2]


def test_b1_an_h5_file_of_links_is_known_by_the_files_behind_them(h5, tmp_path, cache_dir, monkeypatch):
    import h5py

    monkeypatch.setattr("solo_gps.embeddings.digests.SETTLED_NS", -(2 << 40))
    with h5py.File(h5) as source:
        names = [f"{group}/{name}" for group in source for name in source[group]]
        for turn in (1, -1):
            for part in "ab":
                with h5py.File(tmp_path / f"{part}{turn}.h5", "w") as file:
                    for name, other in list(zip(names, names[::turn], strict=True))["ab".index(part) :: 2]:
                        file[f"{part}/{name.replace('/', '')}"] = source[other][()]
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["a"], file["b"] = (h5py.ExternalLink(f"{part}.h5", f"/{part}") for part in "ab")
    arrays = []
    for turn in (1, -1):
        for part in "ab":
            os.replace(tmp_path / f"{part}{turn}.h5", tmp_path / f"{part}.h5")
        images = h5_images(tmp_path / "master.h5")
        arrays.append(embed(images, {"name": "pixels"}).array)
        for index in (0, len(images) - 1):
            np.testing.assert_array_equal(arrays[-1][index], embed(Just(images.image(index)), {"name": "pixels"}).array[0])
    assert not np.array_equal(*arrays)


def test_b1_an_h5_file_that_is_replaced_after_it_was_opened_is_an_error(h5, tmp_path, cache_dir, monkeypatch):
    import h5py

    monkeypatch.setattr("solo_gps.embeddings.digests.SETTLED_NS", -(2 << 40))
    images = h5_images(h5)
    images.image(0)
    with h5py.File(h5) as source, h5py.File(tmp_path / "new.h5", "w") as file:
        names = [f"{group}/{name}" for group in source for name in source[group]]
        for name, other in zip(names, names[::-1], strict=True):
            file[name] = source[other][()]
    os.replace(tmp_path / "new.h5", h5)
    with pytest.raises(DataError, match="was written or replaced since this run opened it"):
        embed(images, {"name": "pixels"})
    found, anew = (embed(h5_images(h5), {"name": "pixels", **where}).array for where in ({}, {"cache_dir": str(tmp_path / "c")}))
    np.testing.assert_array_equal(found, anew)


def test_b1_an_h5_image_whose_bytes_lie_elsewhere_is_refused(h5, tmp_path):
    import h5py

    with h5py.File(h5, "r+") as file:
        layout = h5py.VirtualLayout(shape=file["2/006.png"].shape, dtype=np.uint8)
        layout[:] = h5py.VirtualSource(file["2/006.png"])
        file.create_virtual_dataset("2/zz.png", layout)
    images = h5_images(h5)
    with pytest.raises(DataError, match=r"2/zz.png cannot be read:.*bytes lie in another file.*copy them into this one"):
        list(images.content())


@pytest.mark.parametrize("value", ["group", "hello", np.zeros((8, 8, 3), np.uint8)])
def test_f5_an_h5_entry_that_is_no_image_is_one_error(h5, value):
    import h5py

    with h5py.File(h5, "r+") as file:
        if isinstance(value, str) and value == "group":
            file["2"].create_group("zz.png")
        else:
            file["2"]["zz.png"] = value
    images = h5_images(h5)
    with pytest.raises(DataError, match=r"digits.h5: 2/zz.png cannot be read: "):
        images.image(images.names.index("2/zz.png"))


@pytest.mark.parametrize("name", ["a b.png", "a\nb.png", "a\rb.png", b"\xff.png"])
def test_f5_an_h5_name_that_solo_learns_list_cannot_hold_is_said_first(h5, name):
    import h5py

    with h5py.File(h5, "r+") as file:
        file["2"][name] = file["2/006.png"][()]
    for _ in range(2):
        (wrong,) = wrong_with_h5(str(h5))
        assert f"cannot hold the name {name!r}" in wrong
        (Path(h5).parent / "digits.txt").write_text("another set's\n")
        assert "cannot hold the name" in next(wrong_with_h5(str(h5)))
        (Path(h5).parent / "digits.txt").unlink()


@pytest.mark.parametrize("damage", ["labels", "twice"])
def test_c4_solo_learns_list_with_other_labels_or_twice_the_same(h5, damage):
    h5_images(h5)
    kept = Path(h5).parent / "digits.txt"
    lines = kept.read_text().splitlines()
    assert not list(wrong_with_h5(str(h5)))
    if damage == "labels":
        lines = [f"{line[:-1]}{(int(line[-1]) + 1) % 3}" for line in lines]
    else:
        lines[1] = lines[0]
    kept.write_text("\n".join(lines) + "\n")
    (wrong,) = wrong_with_h5(str(h5))
    assert "of an earlier one" in wrong
    assert f"Remove {kept}" in wrong


def h5_images(path):
    from solo.data.h5_dataset import H5Dataset

    return host_images(indexed(H5Dataset)("imagenet", str(path), None))


class Just:
    """One image in memory."""

    labels = None

    def __init__(self, image):
        self._image = image

    def __len__(self):
        return 1

    def image(self, index):
        return self._image

    def content(self):
        yield self._image.tobytes()


def test_an_empty_set_is_refused(tmp_path):
    dataset = in_memory(CIFAR10, np.empty((0, 32, 32, 3), np.uint8), targets=[])
    with pytest.raises(DataError, match="holds no image"):
        host_images(dataset)


def test_an_unknown_class_is_refused():
    class Odd:
        pass

    with pytest.raises(DataError, match=r"cannot read the raw images.*register_datasets"):
        host_images(Odd())


def test_a_fraction_of_the_data_is_guided_within_itself(recipe, train):
    cfg = recipe(max_epochs=1, sampler={"gps": {"k": 23}}, prior={"name": "pixels"})
    cfg.data.fraction = 0.5
    run = train(cfg)
    assert len(run.losses) == 3
    assert sorted(int(i) for items, _, _ in run.batches for i in items) == list(range(24))


H5 = {"dataset": "imagenet", "format": "h5", "val_path": None}


def test_c3_an_h5_image_that_cannot_be_read_is_named(h5, recipe, train):
    import h5py

    with h5py.File(h5, "r+") as file:
        del file["2"]["006.png"]
        file["2"]["006.png"] = np.frombuffer(b"no image", dtype=np.uint8)
    cfg = recipe(sampler={"gps": {"k": 3}}, prior={"name": "pixels"}, data={**H5, "train_path": str(h5)})
    with pytest.raises(DataError, match=r"digits.h5: 2/006.png cannot be read: UnidentifiedImageError"):
        train(cfg)


@pytest.mark.parametrize("store", ["memory", "mapped"])
def test_an_h5_file_that_is_decoded_once(h5, recipe, train, store):
    nodes = {"max_epochs": 1, "sampler": {"gps": {"k": 3}}, "prior": {"name": "pixels"}, "data": {**H5, "train_path": str(h5)}}
    expected, run = train(recipe(**nodes)), train(recipe(**nodes, images={"store": store}))
    assert run.losses == expected.losses
    for (_, crops, targets), (_, as_before, known) in zip(run.batches, expected.batches, strict=True):
        assert (targets == known).all()
        assert all((one == other).all() for one, other in zip(crops, as_before, strict=True))


def test_c4_solo_learns_list_of_another_h5_file_is_an_error_at_once(h5, recipe, train, tmp_path):
    cfg = recipe(max_steps=1, sampler={"gps": {"k": 3}}, prior={"name": "pixels"}, data={**H5, "train_path": str(h5)})
    (tmp_path / "digits.txt").write_text("2/other.png 0\n")
    with pytest.raises(DataError, match=r"digits.txt, in which solo-learn keeps.*another H5 file.*Remove"):
        check_data_folder(cfg)
    (tmp_path / "digits.txt").unlink()
    train(cfg)
    assert (tmp_path / "digits.txt").exists()
    check_data_folder(cfg)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**H5, "train_path": None}, "data.train_path: wanted an H5 file of training images, got nothing"),
        ({**H5, "train_path": "none.h5"}, "no such H5 file"),
        ({"train_path": None}, "wanted a folder of training images, got nothing"),
        ({"train_path": "hidden"}, r"class folder '.ipynb_checkpoints' is empty or holds no image"),
        ({"train_path": "notes"}, r"class folder 'b' is empty or holds no image"),
        ({"train_path": "csv", "no_labels": True}, r"'list.csv' is not an image file"),
        ({"train_path": "store", "no_labels": True}, r"'.DS_Store' is not an image file"),
        ({"train_path": "notes", "no_labels": True}, r"'[ab]' is a folder"),
        ({"train_path": "link", "no_labels": True}, r"'x.png' is a link to nothing"),
        ({"train_path": "nothing", "no_labels": True}, "it is empty"),
    ],
)
def test_c4_c5_what_solo_learn_stumbles_over_is_found_by_listing(data, message, digits, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = (digits / "train" / "0" / "000.png").read_bytes()
    for name in ("hidden/a/0.png", "notes/a/0.png", "csv/0.png", "store/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    for name in ("hidden/.ipynb_checkpoints", "notes/b", "nothing", "link"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("notes/b/readme.txt", "csv/list.csv", "store/.DS_Store"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "link" / "x.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=message):
        check_data_folder(recipe(data=data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"dataset": "cifar10"}, "not of the arrays of cifar10. Leave data.fraction out, or set data.dataset=custom"),
        ({"dataset": "cifar100"}, "not of the arrays of cifar100"),
        ({"dataset": "stl10"}, "not of the arrays of stl10"),
        ({**H5}, "not of an H5 file. Leave data.fraction out, or set data.format=image_folder"),
    ],
)
def test_a_fraction_that_solo_learn_cannot_take_is_one_line_before_any_work(data, message, h5, recipe, own_cache, tmp_path):
    cfg = recipe(sampler={"gps": {"k": 3}}, data={"train_path": str(h5), "val_path": None, **data, "fraction": 0.5})
    with pytest.raises(DataError, match=f"data.fraction=0.5: solo-learn 1.0.6 takes a share of image files alone, {message}"):
        solo_gps.activate(cfg).__enter__()
    assert not own_cache.exists()
    assert not (tmp_path / "digits.txt").exists(), "solo-learn has not begun to list the images"


def test_solo_learn_itself_still_fails_on_such_a_fraction(h5):
    """Where it does no more, `check_can_read` can go."""
    data = {"train_path": str(h5), "no_labels": False, "fraction": 0.5}
    with pytest.raises(AttributeError, match="samples"):
        HOST.build_train_set({**data, **H5}, None)
    with patch.object(CIFAR10, "__init__", lambda *args, **keys: None), pytest.raises(AttributeError, match="samples"):
        HOST.build_train_set({**data, "dataset": "cifar10", "format": "image_folder"}, None)


def test_a_command_says_it_too(h5, capsys):
    assert cli.main(["cache", "build", str(h5), "--fraction", "0.5"]) == 1
    assert "data.fraction=0.5: solo-learn 1.0.6 takes a share of image files alone, not of an H5 file" in capsys.readouterr().err


@pytest.mark.parametrize("data", [{"dataset": "imagenet"}, {"format": "h5"}, {"no_labels": True}, {"dataset": "cifar10"}])
def test_a_fraction_that_can_be_taken_is_not_refused(data):
    """Image files, also where solo-learn does not read data.format; and whatever it is on 1.0.2, where the adapter takes it."""
    check_can_read({"dataset": "custom", "fraction": 0.5, **data}, "1.0.2" if data == {"dataset": "cifar10"} else "1.0.6")
    check_can_read({**H5, "fraction": -1}, "1.0.6")


@pytest.mark.skipif(HOST.generation != "1.0.2", reason="1.0.6 reads them")
def test_an_h5_file_on_1_0_2_is_refused_as_such_not_for_want_of_h5py(recipe, tmp_path, capsys):
    file = tmp_path / "images.h5"
    file.write_bytes(b"not looked at")
    with pytest.raises(DataError, match=r"H5 files came with solo-learn 1\.0\.6"):
        solo_gps.activate(recipe(sampler={"gps": {"k": 3}}, data={**H5, "train_path": str(file)})).__enter__()
    assert cli.main(["cache", "build", str(file)]) == 1
    assert "H5 files came with solo-learn 1.0.6" in capsys.readouterr().err


def test_c5_what_solo_learn_reads_is_not_refused(digits, recipe, tmp_path):
    """Images without an image's name in a flat folder; strays beside and below class folders; links."""
    image = (digits / "train" / "0" / "000.png").read_bytes()
    for name in ("flat/no-ending", "flat/a.gif", "classes/a/deep/down/0.PNG", "classes/readme.txt", "classes/a/x.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    (tmp_path / "classes" / "b").symlink_to(digits / "train" / "1")
    for data in ({"train_path": str(tmp_path / "flat"), "no_labels": True}, {"train_path": str(tmp_path / "classes")}):
        check_data_folder(recipe(data=data))
        data = {"dataset": "custom", "format": "image_folder", "no_labels": False, "fraction": -1.0, **data}
        dataset = HOST.build_train_set(data, None)
        assert len([dataset[row] for row in range(len(dataset))]) == len(dataset) > 1


def test_a_name_is_an_images_where_torchvision_says_so():
    assert EXTENSIONS == IMG_EXTENSIONS


def test_images_of_8_bits_are_decoded_as_by_torchvision(tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        image = Image.fromarray(draw.integers(0, 256, (9, 7, 4), dtype=np.uint8)).convert("RGB").convert(mode)
        image.save(tmp_path / "a" / f"{mode}.{'jpg' if mode in ('CMYK', 'YCbCr') else 'png'}")
    plain = ImageFolder(tmp_path)
    assert all(np.array_equal(one, np.asarray(other)) for one, (other, _) in zip(pixels(host_images(plain)), plain, strict=True))


def test_a_loader_of_the_users_own_stays(digits):
    dataset = ImageFolder(digits / "train", loader=lambda path: Image.new("RGB", (1, 1), (1, 2, 3)))
    assert host_images(dataset).image(0).getpixel((0, 0)) == (1, 2, 3)
