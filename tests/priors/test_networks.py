"""Frozen networks: embeddings equal the bare network's, layers, weights files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torchvision import transforms

from solo_gps.embeddings import embed, resolve_prior
from solo_gps.errors import ConfigError, DataError, UnknownNameError
from solo_gps.priors.parts.weights import best_prefix, read_state

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def bare(network: torch.nn.Module, transform: Any, images: Any) -> np.ndarray:
    """The plain forward loop: float images, contiguous memory."""
    batch = torch.stack([transform(images.image(index)) for index in range(len(images))])
    with torch.no_grad():
        return network.eval()(batch).numpy()


def worst(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_model_with_a_local_checkpoint_equals_the_bare_network(folder_images: Any, tmp_path: Path, model: str) -> None:
    torch.manual_seed(2)
    network = timm.create_model(model, num_classes=0)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    own = create_transform(**resolve_data_config({}, model=network), is_training=False)
    wanted = bare(network, own, folder_images)
    got = embed(folder_images, {"name": "timm", "model": model, "checkpoint": str(tmp_path / "weights.safetensors")})
    assert worst(got.array, wanted) < 1e-5


def test_torchvision_network_equals_the_bare_network(folder_images: Any, tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    network.fc = torch.nn.Identity()
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    wanted = bare(network, preset, folder_images)
    prior = {"name": "torchvision", "model": "resnet18", "checkpoint": str(tmp_path / "weights.pth")}
    assert worst(embed(folder_images, prior).array, wanted) < 1e-5


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "convnext_tiny", "swin_t"])
def test_torchvision_classifiers_are_cut(name: str) -> None:
    encoder = resolve_prior({"name": "torchvision", "model": name, "weights": None})
    encoder.load(torch.device("cpu"))
    with torch.inference_mode():
        rows = encoder.embed(torch.zeros((1, 3, 224, 224), dtype=torch.uint8))
    assert rows.shape == (1, {"mobilenet_v2": 1280, "densenet121": 1024}.get(name, 768))


def files_of(network: torch.nn.Module, folder: Path) -> dict[str, Path]:
    """The same weights as a plain state dict, safetensors, and wrapped as training programs do."""
    state = network.state_dict()
    wrapped = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    wrapped |= {"module.projector.0.weight": torch.zeros(3, 3)}
    torch.save(state, folder / "plain.pth")
    save_file(state, folder / "plain.safetensors")
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}}, folder / "wrapped.ckpt")
    return {path.name: path for path in folder.iterdir()}


def test_every_kind_of_file_gives_the_same_embeddings_and_one_cache(
    folder_images: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "solo_gps.embeddings")
    (tmp_path / "weights").mkdir()
    torch.manual_seed(3)
    files = files_of(torchvision.models.resnet18(), tmp_path / "weights")
    results = [
        embed(folder_images, {"name": "checkpoint", "path": str(path), "image_size": 32, "layers": ["layer2"]})
        for path in files.values()
    ]
    assert len({result.fingerprint for result in results}) == 1
    assert "prefix 'module.backbone.' stripped" in caplog.text


def test_small_stem_is_found_by_the_weights(folder_images: Any, tmp_path: Path) -> None:
    torch.manual_seed(4)
    network = torchvision.models.resnet18()
    network.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    network.maxpool = torch.nn.Identity()
    network.fc = torch.nn.Identity()
    torch.save({"state_dict": {f"encoder.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "a.ckpt")
    transform = transforms.Compose(
        [transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    wanted = bare(network, transform, folder_images)
    got = embed(folder_images, {"name": "checkpoint", "path": str(tmp_path / "a.ckpt"), "image_size": 32})
    assert worst(got.array, wanted) < 1e-5


def test_layers_are_averaged_over_positions_and_concatenated(folder_images: Any) -> None:
    prior = {"name": "random", "image_size": 32, "layers": ["layer1", "output", "layer3.1.conv2"]}
    encoder = resolve_prior(prior)
    encoder.load(torch.device("cpu"))
    pixels = torch.stack([torch.from_numpy(encoder.transform()(folder_images.image(index)).copy()) for index in range(4)])
    torch.default_generator.manual_seed(0)
    net = torchvision.models.resnet18().eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        stem = net.maxpool(net.relu(net.bn1(net.conv1((pixels / 255 - mean) / std))))
        one = net.layer1(stem)
        before = net.layer3[0](net.layer2(one))
        inner = net.layer3[1].conv2(net.layer3[1].relu(net.layer3[1].bn1(net.layer3[1].conv1(before))))
        last = net.layer4(net.layer3(net.layer2(one)))
        wanted = torch.cat([layer.mean((2, 3)) for layer in (one, last, inner)], dim=1)
        got = encoder.embed(pixels)
    assert got.shape == (4, 64 + 512 + 256)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_unknown_layer_is_named() -> None:
    encoder = resolve_prior({"name": "random", "layers": ["layr1"]})
    with pytest.raises(UnknownNameError, match=r"unknown layer 'layr1'.*Did you mean 'layer1'"):
        encoder.load(torch.device("cpu"))


class Payload:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_pickled_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "extra": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(DataError, match="not read for safety"):
        read_state(str(tmp_path / "evil.ckpt"), where="prior.path")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "does not fit the architecture: 21 of 122|Missing"),
        ({"epoch": 3}, "holds no state dict; found: epoch"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(tmp_path: Path, content: Any, text: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    encoder = resolve_prior({"name": "checkpoint", "path": str(tmp_path / "a.pth")})
    with pytest.raises(DataError, match=text):
        encoder.load(torch.device("cpu"))


def test_damaged_files_and_wrong_shapes_are_errors(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "a.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 50)
    for name in ("cut.pth", "cut.safetensors"):
        with pytest.raises(DataError, match="damaged"):
            read_state(str(tmp_path / name), where="prior.path")
    encoder = resolve_prior({"name": "checkpoint", "path": str(tmp_path / "a.pth"), "stem": "small"})
    with pytest.raises(DataError, match=r"Wrong shape: conv1.weight \(64, 3, 7, 7\) in place of \(64, 3, 3, 3\)"):
        encoder.load(torch.device("cpu"))


def test_best_prefix_prefers_the_online_network() -> None:
    names = ["momentum_encoder.a", "momentum_encoder.b", "encoder.a", "encoder.b", "projector.0.a"]
    assert best_prefix(dict.fromkeys(names), {"a": 0, "b": 0}) == "encoder."
    assert best_prefix({"a": 0, "x.a": 0}, {"a": 0}) == ""


def test_wrong_constructor_arguments_are_named() -> None:
    encoder = resolve_prior({"name": "random", "kwargs": {"depht": 3}})
    with pytest.raises(ConfigError, match=r"prior.kwargs: torchvision's resnet18 cannot be built with {'depht': 3}"):
        encoder.load(torch.device("cpu"))


def test_image_size_of_a_vit_is_built_in(folder_images: Any) -> None:
    encoder = resolve_prior({"name": "timm", "model": "vit_tiny_patch16_224", "pretrained": False, "image_size": 48})
    encoder.load(torch.device("cpu"))
    array = encoder.transform()(folder_images.image(0))
    assert array.shape == (3, 48, 48)
    with torch.inference_mode():
        assert encoder.embed(torch.from_numpy(array)[None]).shape == (1, 192)


def test_no_download_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    encoder = resolve_prior({"name": "timm"})
    with pytest.raises(DataError, match=r"could not be made: no route to host.*prior=patches"):
        encoder.load(torch.device("cpu"))


def test_a_grey_image_of_any_mode_is_read(tmp_path: Path) -> None:
    encoder = resolve_prior({"name": "pixels", "image_size": 2})
    array = encoder.transform()(Image.new("L", (5, 9), 7))
    np.testing.assert_array_equal(array, np.full((3, 2, 2), 7, np.uint8))
