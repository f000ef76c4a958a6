"""Images that are decoded once show, to the bit, what is decoded each time; who shares them, and what is refused."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import write_odd_folder, write_truncated
from PIL import Image
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.datasets.folder import default_loader

from solo_gps.embeddings import build, embed, list_caches, remove, show, verify
from solo_gps.embeddings import decoded as module
from solo_gps.embeddings.decoded import keep_decoded
from solo_gps.errors import CacheError, ConfigError, DataError, MachineError, UnreadableImageError
from solo_gps.hosts.decode import ImagesConfig
from solo_gps.hosts.images import host_images

KINDS = pytest.mark.parametrize("kind", ["memory", "mapped"])
EIGHT_BITS = [(mode, "png") for mode in ("RGB", "L", "1", "P", "LA", "RGBA")] + [(mode, "jpg") for mode in ("RGB", "L", "CMYK")]
EIGHT_BITS += [("RGB", "bmp"), ("RGB", "webp"), ("RGBA", "webp"), ("RGB", "ppm"), ("RGB", "tiff"), ("CMYK", "tiff")]
DEEP = [("I;16", "png"), ("I;16", "tiff"), ("I", "tiff"), ("F", "tiff")]


def drawn(mode, height, width, seed):
    draw = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(draw.normal(size=(height, width)).astype(np.float32))
    if mode in ("I", "I;16"):
        return Image.fromarray(draw.integers(0, 5000, (height, width)).astype(np.uint16 if mode == "I;16" else np.int32))
    return Image.fromarray(draw.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(mode)


def write(folder, images):
    (folder / "a").mkdir(parents=True)
    for index, ((mode, ending), height, width, turned) in enumerate(images):
        exif = Image.Exif()
        if turned and ending in ("jpg", "png", "tiff", "webp"):
            exif[0x0112] = 6  # on its side: Pillow turns TIFF, and nothing else
        drawn(mode, height, width, index).save(folder / "a" / f"{index:02d}.{ending}", exif=exif)
    return folder


def pixels(images):
    return [np.asarray(images.image(index)) for index in range(len(images))]


def kept(folder, kind, *, skip=False, root=None, **keys):
    images = host_images(ImageFolder(folder), ImagesConfig(store=kind, **keys))
    keep_decoded(images, kind, root, skip=skip)
    return images


def same(images, others):
    return len(images) == len(others) and all(np.array_equal(one, other) for one, other in zip(images, others, strict=True))


IMAGES = st.lists(
    st.tuples(st.sampled_from(EIGHT_BITS + DEEP), st.integers(1, 40), st.integers(1, 40), st.booleans()), min_size=1, max_size=6
)


@settings(max_examples=40)
@given(IMAGES, st.sampled_from([{"scale": "own"}, {"scale": "fixed", "low": -1, "high": 4000}]))
def test_pixels_are_those_of_the_decoder_whatever_the_mode_format_and_size(images, keys):
    with tempfile.TemporaryDirectory() as name:
        folder = write(Path(name) / "train", images)
        plain = ImageFolder(folder)
        expected = pixels(host_images(plain, ImagesConfig(**keys)))
        for path, decoded, ((mode, ending), *_) in zip(plain.samples, expected, images, strict=True):
            if (mode, ending) in EIGHT_BITS:
                assert np.array_equal(decoded, np.asarray(default_loader(path[0])))
        for kind in ("memory", "mapped", "mapped"):
            others = kept(folder, kind, root=str(Path(name) / "cache"), **keys)
            assert others.kept.unreadable == []
            assert same(pixels(others), expected)
            assert [others.item(index)[1] for index in range(len(others))] == plain.targets


@pytest.fixture
def odd(tmp_path):
    """The odd files that solo-learn's folder lists and that are there, as some of them cannot be decoded."""
    folder = write_odd_folder(tmp_path / "odd")
    for path in ("dog/gone.png", "cat/loop", "old"):
        (folder / path).unlink()
    for path in ("empty", ".ipynb_checkpoints"):
        (folder / path).rmdir()
    return folder


def error_of(images, index):
    with pytest.raises(UnreadableImageError) as error:
        images.image(index)
    return str(error.value)


@KINDS
def test_odd_images_with_skip_are_those_of_the_decoder_or_the_same_error(kind, odd):
    images, plain = kept(odd, kind, skip=True, scale="own"), host_images(ImageFolder(odd), ImagesConfig(scale="own"))
    names = [plain.names[index] for index in images.kept.unreadable]
    assert names == ["cat/truncated.jpg", "dog/huge.png", "dog/page.jpg"]
    for index in range(len(plain)):
        if index not in images.kept.unreadable:
            assert np.array_equal(np.asarray(images.image(index)), np.asarray(plain.image(index)))
            continue
        assert error_of(images, index) == error_of(plain, index)
    assert (images.labels == plain.labels).all()


@KINDS
@pytest.mark.parametrize("many", [False, True], ids=["here", "in workers"])
def test_an_image_that_cannot_be_decoded_is_named_while_building(kind, many, digits, tmp_path, monkeypatch):
    if many:
        monkeypatch.setattr("solo_gps.priors.parts.loading.SMALL_SET", 1)
    shutil.copytree(digits / "train", tmp_path / "train")
    write_truncated(tmp_path / "train" / "2" / "006.jpg")
    with pytest.raises(UnreadableImageError, match=r"train/2/006.jpg cannot be read: OSError: .*truncated.*Mend or remove it.$"):
        kept(tmp_path / "train", kind)
    assert list_caches() == [], "nothing is left behind"
    bad = kept(tmp_path / "train", kind, skip=True).kept.unreadable
    assert len(bad) == 1
    with pytest.raises(UnreadableImageError, match=r"train/2/006.jpg cannot be read"):
        kept(tmp_path / "train", kind)  # found, as a run made it that skips
    (tmp_path / "train" / "2" / "006.jpg").unlink()
    assert kept(tmp_path / "train", kind).kept.unreadable == []


@KINDS
def test_a_file_that_is_gone_is_named(kind, digits, tmp_path):
    shutil.copytree(digits / "train", tmp_path / "train")
    (tmp_path / "train" / "2" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"train/2/gone.png: cannot be read: No such file"):
        kept(tmp_path / "train", kind)


@KINDS
def test_values_that_would_be_lost_are_refused_with_a_mend_for_this_group(kind, tmp_path):
    folder = write(tmp_path / "train", [(("I;16", "png"), 4, 5, False)])
    with pytest.raises(DataError, match=r"images\.scale=own .*images\.scale=type .*images\.scale=fixed images\.low="):
        kept(folder, kind)
    assert pixels(kept(folder, kind, scale="type"))[0].shape == (4, 5, 3)


def forbid(monkeypatch):
    monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("decoded again"))


def test_a_store_is_found_again_by_content_and_by_scale(digits, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "solo_gps")
    expected = pixels(kept(digits / "train", "mapped"))
    shutil.copytree(digits / "train", tmp_path / "moved")
    with monkeypatch.context() as patch:
        forbid(patch)
        assert same(pixels(kept(digits / "train", "mapped")), expected)
        assert same(pixels(kept(tmp_path / "moved", "mapped")), expected)
    assert [line.split(" decoded images")[0] for line in caplog.messages] == ["images: kept 48"] + 2 * ["images: found 48"]
    kept(digits / "train", "mapped", scale="own")
    Image.new("RGB", (8, 8)).save(tmp_path / "moved" / "0" / "000.png")
    assert not pixels(kept(tmp_path / "moved", "mapped"))[0].any()
    assert len(list_caches()) == 3
    monkeypatch.setattr(module.features, "version", lambda codec: "another")
    kept(digits / "train", "mapped")
    assert len(list_caches()) == 4, "another decoder may make other pixels"


def test_the_embeddings_of_a_prior_do_not_depend_on_the_store(digits):
    prior = {"name": "pixels", "image_size": 8}
    plain = embed(host_images(ImageFolder(digits / "train")), prior)
    assert embed(kept(digits / "train", "mapped"), prior).fingerprint == plain.fingerprint


def test_the_commands_of_the_cache_know_a_store(digits):
    images = kept(digits / "train", "mapped")
    (info,) = list_caches()
    assert (info.status, info.prior, info.images, info.dimensions) == ("whole", "decoded images", 48, None)
    assert show(info.fingerprint[:6])["kind"] == "decoded images"
    assert verify(info.fingerprint) == []
    (info.folder / "foreign").touch()
    assert "foreign does not belong" in verify(info.fingerprint)[0]
    (info.folder / "foreign").unlink()
    for name in ("pixels.npy", "places.npy", "manifest.json"):
        whole = (info.folder / name).read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1}:
            (info.folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert f"solo-gps cache remove {info.fingerprint}" in verify(info.fingerprint)[0]
            with pytest.raises(CacheError, match=f"solo-gps cache remove {info.fingerprint}"):
                kept(digits / "train", "mapped")
        (info.folder / name).write_bytes(whole)
    assert remove(info.fingerprint).size > 48 * 192
    assert list_caches() == []
    assert same(pixels(kept(digits / "train", "mapped")), pixels(images)), "who has it open still reads it"


def test_embeddings_and_a_store_are_not_taken_for_each_other(digits, own_cache):
    store = kept(digits / "train", "mapped")
    (folder,) = (info.folder for info in list_caches())
    made = embed(store, {"name": "pixels", "image_size": 8}).folder
    shutil.rmtree(folder)
    shutil.copytree(made, folder)
    with pytest.raises(CacheError, match="does not hold 48 decoded images"):
        kept(digits / "train", "mapped")


@pytest.mark.faults
def test_a_build_that_was_killed_is_begun_anew(digits, tmp_path):
    program = f"""
import os
from torchvision.datasets import ImageFolder
from solo_gps.embeddings import decoded
from solo_gps.hosts.images import host_images
decoded.store.write_manifest = lambda *_: os.kill(os.getpid(), 9)
decoded.keep_decoded(host_images(ImageFolder({str(digits / "train")!r})), "mapped")
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    (info,) = list_caches()
    assert info.status == "partial"
    images = kept(digits / "train", "mapped")
    assert same(pixels(images), pixels(host_images(ImageFolder(digits / "train"))))
    assert [found.status for found in list_caches()] == ["whole"]


@KINDS
def test_images_that_change_while_they_are_decoded_are_kept_under_no_name(kind, digits, tmp_path, monkeypatch):
    shutil.copytree(digits / "train", tmp_path / "train")
    decode = module._decode

    def change_first(*arguments):
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / "2" / "006.png")
        decode(*arguments)

    monkeypatch.setattr(module, "_decode", change_first)
    with pytest.raises(DataError, match="changed while they were decoded"):
        kept(tmp_path / "train", kind)
    assert list_caches() == []


@KINDS
@pytest.mark.parametrize("prior", ["pixels", "pca"])
@pytest.mark.parametrize("while_embedding", [False, True])
def test_images_that_change_after_they_were_decoded_give_no_row_to_the_new_ones(
    kind, prior, while_embedding, digits, tmp_path, monkeypatch
):
    shutil.copytree(digits / "train", tmp_path / "train")
    images, node = kept(tmp_path / "train", kind), {"name": prior, "image_size": 8}

    def change():
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / "2" / "006.png")

    if while_embedding:
        dimensions = build._dimensions
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(build, "_dimensions", lambda *given: (change(), dimensions(*given))[1])
            if prior == "pca":  # which was fitted on them before
                with pytest.raises(DataError, match="changed while a prior was made of them"):
                    embed(images, node)
            else:
                found = embed(images, node)
                assert found.fingerprint == embed(host_images(ImageFolder(digits / "train")), node).fingerprint
    else:
        change()
        with pytest.raises(DataError, match="changed while they were decoded, or since"):
            embed(images, node)
    array = embed(host_images(ImageFolder(tmp_path / "train")), node).array
    assert np.array_equal(
        array, embed(host_images(ImageFolder(tmp_path / "train")), {**node, "cache_dir": str(tmp_path / "c")}).array
    )


def test_a_store_in_a_folder_that_cannot_be_written_is_used_and_none_is_made_there(digits, own_cache, tmp_path, monkeypatch):
    expected = pixels(kept(digits / "train", "mapped"))

    def refused(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    assert same(pixels(kept(digits / "train", "mapped")), expected)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    for kind in ("memory", "mapped"):
        with pytest.raises(CacheError, match=r"cannot be made: .* Set prior\.cache_dir or SOLO_GPS_CACHE"):
            kept(digits / "train", kind, root=str(tmp_path / "file" / "cache"))


SHARER = """
import os, sys
from torchvision.datasets import ImageFolder
from solo_gps.embeddings import decoded
from solo_gps.hosts.images import host_images
if sys.argv[2] == "share":
    decoded._decode = lambda *_: sys.exit("decoded again")
images = host_images(ImageFolder(sys.argv[1]))
decoded.keep_decoded(images, "memory")
print(sum(sum(images.image(index).tobytes()) for index in range(len(images))), flush=True)
sys.stdin.readline()
if sys.argv[2] == "die":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere each process has memory of its own")
@pytest.mark.faults
def test_processes_share_memory_and_nothing_outlives_them(digits, own_cache, monkeypatch):
    def started(word):
        command = [sys.executable, "-c", SHARER, str(digits / "train"), word]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    total = sum(int(image.sum()) for image in pixels(host_images(ImageFolder(digits / "train"))))
    owner = started("die")
    assert int(owner.stdout.readline()) == total
    sharer = started("share")
    assert int(sharer.stdout.readline()) == total
    with monkeypatch.context() as patch:
        forbid(patch)
        images = kept(digits / "train", "memory")
    assert owner.communicate("\n")
    assert owner.wait() == -9
    assert sum(int(image.sum()) for image in pixels(images)) == total, "it stays for who has it open"
    assert sharer.communicate("\n")
    assert sharer.wait() == 0
    (record,) = own_cache.glob(".records/*.json")
    assert not os.path.exists(f"/proc/{json.loads(record.read_text())['pid']}/fd"), "nobody holds the memory for others"
    again = kept(digits / "train", "memory")
    assert json.loads(record.read_text())["pid"] == os.getpid(), "built anew"
    assert same(pixels(again), pixels(images))


@KINDS
@pytest.mark.faults
def test_the_budget_is_checked_before_anything_is_allocated(kind, digits, monkeypatch):
    size = 48 * 8 * 8 * 3
    monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("began"))
    if kind == "memory":
        monkeypatch.setattr("solo_gps.runtime.machine.free_memory", lambda: size)
        with pytest.raises(MachineError, match=r"images.store=memory with 48 decoded images: takes .*Set images.store=mapped"):
            kept(digits / "train", kind)
    else:
        usage = shutil.disk_usage("/")._replace(free=size - 1)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(CacheError, match=r"9.2 kB free, 48 decoded images need 9.2 kB. Free some, set prior.cache_dir"):
            kept(digits / "train", kind)
    assert list_caches() == []


def test_a_disk_that_fills_up_in_the_middle_is_one_error_and_nothing_is_left(digits, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "pwrite", full)
    with pytest.raises(CacheError, match=r"the decoded images: No space left on device\. Mend the disk"):
        kept(digits / "train", "mapped")
    assert list_caches() == []


@KINDS
def test_images_that_are_no_files_are_refused(kind):
    dataset = CIFAR10.__new__(CIFAR10)
    vars(dataset).update(data=np.zeros((3, 4, 4, 3), np.uint8), transform=None, target_transform=None, targets=[0, 1, 2])
    with pytest.raises(ConfigError, match=f"images.store={kind}: these images are no files to decode.*Leave it out"):
        keep_decoded(host_images(dataset), kind)


@KINDS
def test_code_of_ones_own_that_makes_the_images_is_not_gone_round(kind, digits):
    class Own(ImageFolder):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image.rotate(90), target

    Own.__qualname__ = "Own"
    for dataset in (Own(digits / "train"), ImageFolder(digits / "train", loader=lambda path: Image.new("RGB", (2, 2)))):
        images = host_images(dataset)
        assert np.array_equal(np.asarray(images.image(5)), np.asarray(dataset[5][0]))
        with pytest.raises(ConfigError, match="code of the program's own reads them"):
            keep_decoded(images, kind)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it is a file without a name")
def test_memory_is_given_back_with_the_last_that_shows_it(digits):
    def held():
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sum("solo-gps" in os.readlink(link) for link in links if os.path.lexists(link))

    gc.collect()
    before = held()
    images = kept(digits / "train", "memory")
    assert held() > before
    del images
    gc.collect()
    assert held() == before
