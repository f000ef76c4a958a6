"""Names that are not UTF-8, with spaces and line breaks; links that lead nowhere or back; what is no file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from image_sets import digits_pixels
from PIL import Image

from solo_gps.commands.cli import main
from solo_gps.embeddings import embed, verify
from solo_gps.errors import DataError
from solo_gps.hosts.detect import detect_host
from solo_gps.hosts.images import host_images
from solo_gps.neighbours import find

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")]
ODD = [os.fsdecode(name) for name in (b"a \xff\n", b"im %d\n\xff\xe9 \xe2\x80\xae'\"$.png", b"ca che\xff\n", b"roo t\xff\n")]
OF_CLASS, IMAGE, CACHE, ROOT = ODD
PRIOR = {"name": "pca", "image_size": 8, "num_workers": 0}
GPS = {"gps": {"k": 3}}


def write(folder: Path, *, flat: bool, names: str = "%d.png", of_class: str = "a") -> Path:
    for number, pixels in enumerate(digits_pixels(24)):
        file = folder / ("." if flat else (of_class, "b")[number % 2]) / (names % number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            Image.fromarray(pixels).save(opened, format="PNG")
    return folder


def data_of(folder: Path, flat: bool) -> dict[str, object]:
    data = {"dataset": "custom", "format": "image_folder", "no_labels": flat, "fraction": -1.0}
    return {**data, "train_path": str(folder)}


@pytest.mark.host
@pytest.mark.parametrize("flat", [True, False])
def test_f5_a_run_is_the_same_whatever_the_names_are(flat, recipe, train, tmp_path, monkeypatch, drawn):
    seen = []
    for folder, cache, names, of_class in ((ROOT, CACHE, IMAGE, OF_CLASS), ("root", "cache", "im %d.png", "a")):
        monkeypatch.setenv("SOLO_GPS_CACHE", str(tmp_path / cache))
        write(tmp_path / folder, flat=flat, names=names, of_class=of_class)
        cfg = recipe(max_steps=2, sampler=GPS, prior=PRIOR)
        cfg.data.train_path, cfg.data.no_labels = str(tmp_path / folder), flat
        images = host_images(detect_host().build_train_set(data_of(tmp_path / folder, flat), None))
        number = [int(name.rpartition("im ")[2].split("\n")[0].split(".")[0]) for name in images.names]
        train(cfg)
        seen.append(sorted((number[row], number[positive]) for row, positive in enumerate(drawn.pop(0))))
    assert seen[0] == seen[1]


def test_f5_commands_take_and_print_such_names(tmp_path, capfdbinary):
    folder, cache = write(tmp_path / ROOT, flat=False, names=IMAGE, of_class=OF_CLASS), str(tmp_path / CACHE)
    assert main(["cache", "--cache-dir", cache, "build", str(folder), "--prior", "pca", "image_size=8", "--k", "3"]) == 0
    printed = Path(os.fsdecode(capfdbinary.readouterr().out.removesuffix(b"\n")))
    assert printed.parent == tmp_path / CACHE
    for command in ("verify", "show", "remove"):
        assert main(["cache", "--cache-dir", cache, command, printed.name]) == 0
    assert main(["data", "check", str(folder)]) == 0
    plain = write(tmp_path / "root \udcff", flat=True, names="im %d\udcff.png")
    capfdbinary.readouterr()
    assert main(["data", "order", str(plain), "--flat"]) == 0
    assert sorted(capfdbinary.readouterr().out.splitlines()) == sorted(os.listdir(os.fsencode(plain)))
    assert main(["data", "order", str(folder)]) == 1
    assert b"a name with a line break cannot stand in a list of lines. Rename the file" in capfdbinary.readouterr().err
    assert main(["data", "check", str(folder / "nowhere\udcff")]) == 1
    assert rb"nowhere\udcff" in capfdbinary.readouterr().err


@pytest.mark.host
@pytest.mark.parametrize("program", ["main", "pretrain"])
def test_f5_programs_train_from_a_folder_of_such_names(program, programs, tmp_path):
    write(tmp_path / ROOT, flat=False, names=IMAGE, of_class=OF_CLASS)
    programs.recipe(
        programs.text.replace(str(programs.images), "${oc.env:IMAGES}").replace("hydra:", "hydra:\n  verbose: solo_gps")
    )
    environ = programs.environ
    programs.environ = lambda watch: environ(watch, IMAGES=str(tmp_path / ROOT), SOLO_GPS_CACHE=str(tmp_path / CACHE))
    steps, printed = programs.run(program, "+sampler=gps", "+prior=pca", "sampler.gps.k=3", "prior.image_size=8", "max_steps=1")
    assert len(steps.all) == 1
    assert "UnicodeEncodeError" not in printed
    assert len(list((tmp_path / CACHE).glob("*/neighbours-*.json"))) == 1


def test_f5_weights_under_such_a_name(digit_images, tmp_path):
    import torch
    from safetensors.torch import save
    from torchvision.models import resnet18

    file = tmp_path / f"{OF_CLASS}.safetensors"
    file.write_bytes(save({name: value.contiguous() for name, value in resnet18().state_dict().items()}))
    prior = {"name": "torchvision", "model": "resnet18", "image_size": 32, "num_workers": 0}
    one = embed(digit_images, {**prior, "checkpoint": str(file)})
    torch.save(resnet18().state_dict(), tmp_path / f"{OF_CLASS}.pth")
    other = embed(digit_images, {**prior, "checkpoint": str(tmp_path / f"{OF_CLASS}.pth")})
    assert one.fingerprint != other.fingerprint
    assert verify(one.fingerprint) == []
    assert find(one, None, k=2).indices.shape == (120, 2)


LINKS = {
    "nothing": ("a/gone.png", "nowhere.png", r"a/gone.png: cannot be read: No such file or directory. Mend or remove it"),
    "itself": ("a/loop.png", "loop.png", r"a/loop.png: cannot be read: Too many levels of symbolic links. Mend or remove it"),
    "own folder": ("a/self", ".", r"'a/self' is a link to a folder above it, .* Remove it"),
    "the root": ("a/up", "..", r"'a/up' is a link to a folder above it, .* Remove it"),
    "a class that is a loop": ("c", "c", r"'c' cannot be looked at: Too many levels of symbolic links. Remove it"),
    "a class that is nothing": ("c", "nowhere", None),
    "a class that is another": ("c", "b", None),
    "a folder beside": ("a/of b", "../b", None),
}


@pytest.mark.host
@pytest.mark.parametrize("kind", sorted(LINKS))
def test_f5_links_that_lead_nowhere_or_back_are_named(kind, recipe, train, tmp_path):
    folder = write(tmp_path / "root", flat=False)
    link, target, error = LINKS[kind]
    (folder / link).symlink_to(target)
    cfg = recipe(max_steps=1, sampler=GPS, prior=PRIOR)
    cfg.data.train_path = str(folder)
    if error is not None:
        with pytest.raises(DataError, match=error):
            train(cfg)
        (folder / link).unlink()
    train(cfg)


def test_f5_two_links_back_to_their_folder_do_not_keep_a_run_or_a_check_waiting(tmp_path, capsys):
    """Following both, torchvision would come by 2 to the 40th folders."""
    folder = write(tmp_path / "root", flat=False)
    for name in ("one", "two"):
        (folder / "a" / name).symlink_to(".")
    with pytest.raises(DataError, match=r"is a link to a folder above it"):
        check(folder, flat=False)
    assert main(["data", "check", str(folder)]) == 1
    assert "link to a folder above it" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gone.png", "loop.png"])
def test_f5_links_of_a_flat_folder_too(name, tmp_path, capsys):
    folder = write(tmp_path / "root", flat=True)
    (folder / name).symlink_to("loop.png" if name == "loop.png" else "nowhere")
    with pytest.raises(DataError, match=rf"'{name}' is a link to nothing, but data.no_labels=True takes every .* Remove it"):
        check(folder, flat=True)
    assert main(["data", "check", str(folder), "--flat"]) == 1
    assert name in capsys.readouterr().out


def test_f5_a_pipe_under_an_images_name_is_no_reason_to_wait(tmp_path):
    folder = write(tmp_path / "root", flat=False)
    os.mkfifo(folder / "a" / "pipe.png")
    images = host_images(detect_host().build_train_set(data_of(folder, False), None))
    with pytest.raises(DataError, match=r"a/pipe.png: is no regular file, but has an image's name. Remove it"):
        embed(images, PRIOR)
    (folder / "a" / "pipe.png").unlink()
    (folder / "a" / "folder.png").mkdir()
    images = host_images(detect_host().build_train_set(data_of(folder, False), None))
    np.testing.assert_array_equal(embed(images, PRIOR).array.shape[0], 24)


def check(folder: Path, *, flat: bool) -> None:
    from omegaconf import OmegaConf

    from solo_gps.hosts.data_folder import check_data_folder

    check_data_folder(OmegaConf.create({"data": data_of(folder, flat)}))
