"""The papers' data sets, read from files of the true layout, fetched from archives, and trained on by name."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from named_data import HELD_OUT, TRAIN, WRITERS
from omegaconf import OmegaConf
from PIL import Image
from torchvision.datasets import PCAM
from torchvision.datasets import utils as torchvision_utils
from torchvision.datasets import voc as torchvision_voc
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resize, to_tensor

from solo_gps import plugins
from solo_gps.commands import cli
from solo_gps.datasets import SETS, tiny_imagenet
from solo_gps.errors import ConfigError, DataError, UnknownNameError
from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.images import host_images
from solo_gps.hosts.named import check_named, class_count, held_out_set, named_dataset, open_named
from solo_gps.interfaces import StoredImages

NAMES = list(WRITERS)


@pytest.fixture
def no_network(monkeypatch):
    """Whoever reaches for the network gets what a machine without one gives."""
    asked = []

    def unreachable(url, *args, **kwargs):
        asked.append(url)
        raise OSError("no route to host")

    for name in ("_urlretrieve", "_get_redirect_url"):
        monkeypatch.setattr(torchvision_utils, name, unreachable)
    monkeypatch.setattr(torchvision_utils, "download_file_from_google_drive", unreachable)
    monkeypatch.setattr("torchvision.datasets.pcam.download_file_from_google_drive", unreachable)
    return asked


def data_node(name, root, **keys):
    return {"dataset": name, "train_path": str(root), "format": "image_folder", "no_labels": False, "fraction": -1, **keys}


@pytest.mark.parametrize("name", NAMES)
def test_files_of_the_true_layout_are_read(name, tmp_path, no_network):
    written = WRITERS[name](tmp_path)
    assert class_count(SETS[name], str(tmp_path)) == written.classes
    for train, wanted in ((True, written.train), (False, written.held_out)):
        contents = open_named(name, str(tmp_path), train=train)
        source = pickle.loads(pickle.dumps(contents.source))  # as a worker gets it
        assert [label for _, label in contents.samples] == [label for _, label in wanted]
        for (where, _), (pixels, _) in zip(contents.samples, wanted, strict=True):
            image = source.image(where)
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), pixels)
            assert os.path.isfile(source.file(where))
        names = [source.name(where) for where, _ in contents.samples]
        assert len(set(names)) == len(names) == (TRAIN if train else HELD_OUT)
        assert len({source.stored(where) for where, _ in contents.samples}) == len(names)
        assert not any(str(tmp_path) in known for known in names)
    assert no_network == []


def test_medmnists_facts_are_those_of_its_package():
    import medmnist

    of_medmnist = {name: found for name, found in SETS.items() if "mnist" in name}
    flat = {flag: info for flag, info in medmnist.INFO.items() if "3d" not in flag}
    assert {name.partition("_")[0] for name in of_medmnist} == set(flat)
    for name, found in of_medmnist.items():
        info, side = flat[name.partition("_")[0]], name.partition("_")[2] or "28"
        assert found.size == int(side)
        assert found.classes == (1 if "multi-label" in info["task"] else len(info["label"]))
        assert found.trained_on == f"train, {info['n_samples']['train']:,}"
        assert found.held_out == f"test, {info['n_samples']['test']:,}"
        assert side == "28" or f"url_{side}" in info


@pytest.mark.parametrize("name", NAMES)
def test_raw_images_are_known_again_by_their_files(name, tmp_path):
    written = WRITERS[name](tmp_path)
    images = host_images(detect_host().build_train_set(data_node(name, tmp_path), None))
    assert isinstance(images, StoredImages)
    assert len(images) == TRAIN
    assert images.place == os.path.realpath(tmp_path)
    known = all(label < 0 for _, label in written.train)
    assert images.labels is None if known else images.labels.tolist() == [label for _, label in written.train]
    for index, (pixels, label) in enumerate(written.train):
        image, target = images.item(index)
        assert np.array_equal(np.asarray(image), pixels)
        assert target == label
    before, content = images.stamps(), list(images.content())
    assert before.shape == (TRAIN, 4)
    os.utime(written.files[0], ns=(1, 1))
    changed = (images.stamps() != before).any(axis=1)
    assert changed.any()
    assert changed.all() == (name in ("pcam",) or "mnist" in name), "one file, or one for each image"
    assert list(images.content()) == content


@pytest.mark.parametrize(("name", "of_list"), [("fgvc_aircraft", 5), ("tiny_imagenet", 5), ("voc2007", 1), ("voc2012", 1)])
def test_a_file_that_a_list_has_and_the_disk_has_not_is_named(name, of_list, tmp_path, no_network):
    gone = WRITERS[name](tmp_path).files[of_list]
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name}: no such file, though a list in .* has it, and 0 others"):
        open_named(name, str(tmp_path), train=True)
    open_named(name, str(tmp_path), train=False)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "chestmnist"])
def test_a_set_that_is_nowhere_is_one_line_with_what_to_put_there(name, tmp_path, no_network):
    with pytest.raises(DataError, match=rf"data\.train_path='.*nowhere': {name} is not there \(.*cannot be fetched: ") as said:
        open_named(name, str(tmp_path / "nowhere"), train=True)
    assert str(said.value).endswith(f"put there by hand: {SETS[name].layout}.")
    assert "\n" not in str(said.value)
    assert bool(no_network) == (name != "hotel_id"), "Kaggle wants an account"


def test_a_damaged_medmnist_is_one_line(tmp_path, no_network):
    (file,) = WRITERS["pathmnist"](tmp_path).files
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"pathmnist\.npz: is not whole .*Remove it"):
        open_named("pathmnist", str(tmp_path), train=True)


def test_images_and_classes_of_pcam_must_be_as_many(tmp_path, no_network):
    images, _ = WRITERS["pcam"](tmp_path).files
    import h5py

    with h5py.File(images, "a") as file:
        shorter = file["x"][:-1]
        del file["x"]
        file["x"] = shorter
    with pytest.raises(DataError, match=rf"images of \({TRAIN - 1}, 96, 96, 3\) uint8, with \({TRAIN}, 1, 1, 1\) uint8 labels"):
        open_named("pcam", str(tmp_path), train=True)


def test_an_object_that_voc_does_not_have_is_named(tmp_path):
    photo = WRITERS["voc2007"](tmp_path).files[0]
    annotation = photo.parents[1] / "Annotations" / f"{photo.stem}.xml"
    annotation.write_text(annotation.read_text().replace("dog", "wolf"))
    with pytest.raises(DataError, match=rf"{photo.stem}\.xml: is no annotation of VOC's .*an object 'wolf', which is none"):
        open_named("voc2007", str(tmp_path), train=True)


def test_hotels_of_which_none_was_trained_on_are_for_retrieval(tmp_path):
    WRITERS["hotel_id"](tmp_path)
    for hotel in ("11131", "53586"):
        shutil.rmtree(tmp_path / "query" / hotel)
    with pytest.raises(DataError, match=r"data\.val_path=null, and judge the checkpoint by retrieval"):
        open_named("hotel_id", str(tmp_path), train=False)
    open_named("hotel_id", str(tmp_path), train=True)


# ---- fetched: each archive lies there whole, as after a download that was cut off before it was unpacked ----


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def pack_aircraft(source, root, monkeypatch):
    with tarfile.open(root / "fgvc-aircraft-2013b.tar.gz", "w:gz") as archive:
        archive.add(source / "fgvc-aircraft-2013b", "fgvc-aircraft-2013b")


def pack_tiny(source, root, monkeypatch):
    with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
        for file in sorted(source.rglob("*")):
            archive.write(file, file.relative_to(source))
    monkeypatch.setattr(tiny_imagenet, "MD5", md5(root / "tiny-imagenet-200.zip"))


def pack_voc(source, root, monkeypatch):
    for key in ("2007", "2007-test"):
        known = torchvision_voc.DATASET_YEAR_DICT[key]
        with tarfile.open(root / known["filename"], "w") as archive:
            archive.add(source / "VOCdevkit", "VOCdevkit")
        monkeypatch.setitem(known, "md5", md5(root / known["filename"]))


def pack_medmnist(source, root, monkeypatch):
    import medmnist

    shutil.copy(source / "pathmnist.npz", root)
    monkeypatch.setitem(medmnist.INFO["pathmnist"], "MD5", md5(root / "pathmnist.npz"))


@pytest.mark.parametrize(
    ("name", "pack"),
    [("fgvc_aircraft", pack_aircraft), ("tiny_imagenet", pack_tiny), ("voc2007", pack_voc), ("pathmnist", pack_medmnist)],
)
def test_an_archive_that_is_there_is_unpacked_and_not_fetched_again(name, pack, tmp_path, monkeypatch, no_network):
    written = WRITERS[name](tmp_path / "packed")
    (tmp_path / "root").mkdir()
    pack(tmp_path / "packed", tmp_path / "root", monkeypatch)
    for train, wanted in ((True, written.train), (False, written.held_out)):
        contents = open_named(name, str(tmp_path / "root"), train=train)
        assert [label for _, label in contents.samples] == [label for _, label in wanted]
        assert np.array_equal(np.asarray(contents.source.image(contents.samples[-1][0])), wanted[-1][0])
    assert no_network == []


def test_pcam_is_fetched_and_unpacked_by_torchvision(tmp_path, monkeypatch):
    written = WRITERS["pcam"](tmp_path / "there")
    fetched = []

    def google(file_id, folder, filename, md5):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / filename).write_bytes(gzip.compress((tmp_path / "there" / "pcam" / filename[:-3]).read_bytes()))
        fetched.append((file_id, md5))

    monkeypatch.setattr("torchvision.datasets.pcam.download_file_from_google_drive", google)
    contents = open_named("pcam", str(tmp_path / "root"), train=True)
    assert np.array_equal(np.asarray(contents.source.image(3)), written.train[3][0])
    assert fetched == [(file_id, known) for _, file_id, known in PCAM._FILES["train"].values()]


def test_an_archive_with_another_sum_is_not_unpacked(tmp_path, no_network):
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(b"half of it")
    with pytest.raises(DataError, match="cannot be fetched"):
        open_named("tiny_imagenet", str(tmp_path), train=True)
    assert not (tmp_path / "tiny-imagenet-200").exists()


# ---- by name ----


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"format": "dali"}, ConfigError, r"data\.format='dali': data\.dataset=pathmnist is read in one way alone"),
        ({"no_labels": True}, ConfigError, r"data\.no_labels=True"),
        ({"train_path": None}, DataError, r"wanted the folder of pathmnist, into which it is fetched: pathmnist\.npz"),
    ],
)
def test_keys_that_say_how_files_are_read_are_refused(keys, error, message):
    with pytest.raises(error, match=message):
        check_named(data_node("pathmnist", "root", **keys))


def test_solo_learns_own_sets_stay_its_own():
    assert all(named_dataset(name) is None for name in ("custom", "cifar10", "imagenet", "nobodys", None))
    assert set(plugins.registered("register_named_datasets")) == set(SETS)


@pytest.mark.host
def test_a_misspelt_name_is_one_line_with_the_closest(recipe):
    cfg = recipe(sampler={"gps": {}}, data={"dataset": "pathmist", "train_path": "nowhere"})
    with pytest.raises(UnknownNameError, match=r"unknown data\.dataset 'pathmist'.*Did you mean 'pathmnist'\?"), activate(cfg):
        pass


@pytest.mark.host
@pytest.mark.parametrize(("name", "sampler"), [*((name, {"gps": {"k": 3}}) for name in NAMES), ("voc2007", None), ("pcam", None)])
def test_a_named_set_trains_and_validates(name, sampler, tmp_path, recipe, train, monkeypatch):
    # A crop of scale 1 may still lack a row of pixels, by rounding; each of these is the whole image.
    whole_image = staticmethod(lambda image, scale, ratio: (0, 0, image.height, image.width))
    monkeypatch.setattr(RandomResizedCrop, "get_params", whole_image)
    written = WRITERS[name](tmp_path)
    held_out = None if name == "chestmnist" else str(tmp_path)
    crop = {"rrc": {"enabled": True, "crop_min_scale": 1.0, "crop_max_scale": 1.0}, "crop_size": 32, "num_crops": 2}
    off = {kind: {"prob": 0.0} for kind in ("color_jitter", "grayscale", "gaussian_blur", "solarization", "equalization")}
    cfg = recipe(
        sampler=sampler,
        **({"prior": {"name": "pixels"}} if sampler else {}),
        data={"dataset": name, "train_path": str(tmp_path), "val_path": held_out},
        augmentations=[{**crop, **off, "horizontal_flip": {"prob": 0.0}}],
        max_epochs=1,
    )
    run = train(cfg)
    assert len(run.batches) == TRAIN // 8
    assert run.model.classifier.out_features == written.classes
    items = torch.cat([items for items, _, _ in run.batches]).tolist()
    assert sorted(items) == list(range(TRAIN))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SETS[name].mean, SETS[name].std))
    for (images, crops, targets), _ in zip(run.batches, range(2), strict=False):
        for image, first, target in zip(images.tolist(), crops[0], targets.tolist(), strict=True):
            pixels, label = written.train[image]
            assert target == label
            whole = to_tensor(resize(Image.fromarray(pixels), [32, 32], InterpolationMode.BICUBIC))
            assert torch.allclose(first * std + mean, whole, atol=1e-5)
    logged = run.model.trainer.callback_metrics
    assert ("val_acc1" in logged) == (held_out is not None)


@pytest.mark.host
@pytest.mark.parametrize("name", NAMES)
def test_held_out_images_have_the_sets_size_and_normalisation(name, tmp_path):
    written = WRITERS[name](tmp_path)
    dataset = held_out_set(data_node(name, tmp_path, val_path=str(tmp_path)))
    image, target = dataset[0]
    pixels, label = written.held_out[0]
    assert image.shape == (3, SETS[name].size, SETS[name].size)
    assert target == label
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SETS[name].mean, SETS[name].std))
    corner = torch.from_numpy(pixels[0, 0] / 255).view(3, 1, 1).float()
    assert torch.allclose(image[:, :1, :1] * std + mean, corner, atol=0.03)
    assert held_out_set(data_node(name, tmp_path, val_path=None)) is None


@pytest.mark.host
def test_a_share_of_a_named_set_has_as_many_of_each_class(tmp_path):
    WRITERS["fgvc_aircraft"](tmp_path)
    dataset = detect_host().build_train_set(data_node("fgvc_aircraft", tmp_path, fraction=0.5), None)
    assert np.bincount([label for _, label in dataset.samples]).tolist() == [3, 3, 3, 3]
    index, image, label = dataset[5]
    assert (index, label) == (5, dataset.samples[5][1])
    assert image.size == (64, 48)


@pytest.mark.host
def test_what_was_made_known_is_forgotten_and_the_recipe_has_mean_and_deviation(tmp_path, recipe):
    WRITERS["pathmnist"](tmp_path)
    host = detect_host()
    module = host.loader_module
    before = module.prepare_datasets
    cfg = recipe(data={"dataset": "pathmnist", "train_path": str(tmp_path)})
    cfg.augmentations[0].std = [0.25, 0.25, 0.25]
    with activate(cfg):
        assert (module.prepare_datasets is before) == (host.generation == "1.0.2")
        assert host.complete(OmegaConf.create(OmegaConf.to_container(cfg))).data.num_classes == 9
    assert module.prepare_datasets is before
    assert list(cfg.augmentations[0].mean) == [0.5, 0.5, 0.5]
    assert list(cfg.augmentations[0].std) == [0.25, 0.25, 0.25], "the recipe's own word stands"
    if host.generation == "1.0.6":
        from solo.args import pretrain as arguments

        assert "pathmnist" not in [*arguments._SUPPORTED_DATASETS, *arguments._N_CLASSES_PER_DATASET]


@pytest.mark.host
def test_commands_take_a_named_set(tmp_path, own_cache, capsys):
    WRITERS["bloodmnist"](tmp_path)
    named = [str(tmp_path), "--dataset", "bloodmnist"]
    assert cli.main(["cache", "build", *named, "--prior", "pixels", "image_size=8"]) == 0
    (built,) = own_cache.glob("*/embeddings.npy")
    assert np.load(built).shape == (TRAIN, 8 * 8 * 3)
    capsys.readouterr()
    assert cli.main(["data", "order", *named]) == 0
    assert capsys.readouterr().out.split() == [f"{number:08d}" for number in range(TRAIN)]
    assert cli.main(["data", "check", *named]) == 1
    assert "its own reader checks its files" in capsys.readouterr().err
    assert cli.main(["data", "order", str(tmp_path), "--dataset", "bloodmist"]) == 1
    assert "Did you mean 'bloodmnist'?" in capsys.readouterr().err
