"""The contract that every encoder keeps: one class of tests, inherited by each encoder."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from config_keys import composed, defaults
from PIL import Image

from solo_gps.embeddings import resolve_prior
from solo_gps.plugins import registered
from solo_gps.priors.base import RUNTIME_KEYS, Encoder
from solo_gps.priors.config import ArrayConfig, JoinConfig

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def rows_of(encoder: Encoder, images: Any, indices: list[int]) -> torch.Tensor:
    transform = encoder.transform()
    batch = torch.stack([torch.from_numpy(transform(images.image(index)).copy()) for index in indices])
    with torch.inference_mode():
        return encoder.embed(batch)


class EncoderContract:
    """What the cache relies on."""

    prior: ClassVar[dict[str, Any]]

    def make(self, images: Any, **keys: Any) -> Encoder:
        encoder = resolve_prior({**self.prior, **keys}, images)
        encoder.load(CPU)
        return encoder

    @pytest.fixture
    def encoder(self, digit_images: Any) -> Encoder:
        encoder = self.make(digit_images)
        if encoder.trained:
            encoder.fit(digit_images)
        return encoder

    def test_registered_under_its_own_name(self, encoder: Encoder) -> None:
        assert encoder.config.name == self.prior["name"]
        assert registered("register_encoders")[self.prior["name"]] is type(encoder)

    def test_transform_gives_one_shape_of_bytes_and_can_be_pickled(self, encoder: Encoder) -> None:
        transform = encoder.transform()
        copied = pickle.loads(pickle.dumps(transform))
        shapes = set()
        for size in [(8, 8), (11, 7), (40, 90)]:
            image = Image.effect_noise(size, 50).convert("RGB")
            array = transform(image)
            shapes.add(array.shape)
            assert array.dtype == np.uint8
            np.testing.assert_array_equal(copied(image), array)
        assert len(shapes) == 1
        assert next(iter(shapes))[0] == 3

    def test_row_depends_on_its_own_image_only(self, encoder: Encoder, digit_images: Any) -> None:
        rows = rows_of(encoder, digit_images, [0, 1, 2, 3, 4])
        assert rows.shape[0] == 5
        assert rows.ndim == 2
        assert torch.isfinite(rows).all()
        alone = torch.cat([rows_of(encoder, digit_images, [index]) for index in range(5)])
        torch.testing.assert_close(alone, rows, rtol=1e-3, atol=1e-4 * float(rows.abs().max()))
        assert (rows[0] - rows[1]).abs().max() > 0

    def test_made_again_it_gives_the_same_rows(self, encoder: Encoder, digit_images: Any) -> None:
        again = self.make(digit_images)
        if encoder.trained:
            again.fit(digit_images)
        assert torch.equal(rows_of(again, digit_images, [0, 5]), rows_of(encoder, digit_images, [0, 5]))

    def test_state_holds_all_that_fit_learned(self, encoder: Encoder, digit_images: Any) -> None:
        if not encoder.trained:
            assert dict(encoder.state()) == {}
            return
        again = self.make(digit_images)
        again.load_state({name: tensor.clone() for name, tensor in encoder.state().items()})
        assert torch.equal(rows_of(again, digit_images, [0, 5]), rows_of(encoder, digit_images, [0, 5]))

    def test_identity_is_plain_and_free_of_runtime_keys(self, encoder: Encoder, digit_images: Any) -> None:
        identity = encoder.identity()
        assert json.loads(json.dumps(identity, allow_nan=False)) == identity
        assert not set(identity) & set(RUNTIME_KEYS)
        other = self.make(digit_images, batch_size=3, num_workers=2, device="cpu", cache_dir="/elsewhere", space="cosine")
        assert other.identity() == identity, "how the work is done, or fit, changed the identity"

    def test_precision_is_part_of_the_identity(self, encoder: Encoder, digit_images: Any) -> None:
        assert self.make(digit_images, precision="bf16").identity() != encoder.identity()

    def test_config_file_lists_every_key_with_its_default(self, encoder: Encoder) -> None:
        listed = composed(f"+prior={self.prior['name']}")["prior"]
        assert listed == defaults(type(encoder.config))


class TestPixels(EncoderContract):
    prior: ClassVar = {"name": "pixels"}


class TestPca(EncoderContract):
    prior: ClassVar = {"name": "pca", "image_size": 8}


class TestPatches(EncoderContract):
    prior: ClassVar = {"name": "patches", "image_size": 16, "centroids": 16}


class TestVae(EncoderContract):
    prior: ClassVar = {"name": "vae", "image_size": 8, "width": 4, "epochs": 2}


class TestAutoencoder(EncoderContract):
    prior: ClassVar = {"name": "autoencoder", "image_size": 8, "width": 4, "epochs": 2}


class TestTimm(EncoderContract):
    prior: ClassVar = {"name": "timm", "model": "test_vit", "pretrained": False}


class TestTorchvision(EncoderContract):
    prior: ClassVar = {"name": "torchvision", "model": "shufflenet_v2_x0_5", "weights": None, "image_size": 48}


class TestRandom(EncoderContract):
    prior: ClassVar = {"name": "random", "image_size": 32}


class TestCheckpoint(EncoderContract):
    prior: ClassVar = {"name": "checkpoint", "image_size": 32}

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision

        torch.manual_seed(1)
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
        monkeypatch.setitem(type(self).prior, "path", str(tmp_path / "weights.pth"))


def test_every_built_in_keeps_the_contract() -> None:
    tested = {cls.prior["name"] for cls in EncoderContract.__subclasses__()}
    from solo_gps.priors import register_encoders

    assert tested | {"array", "join"} == set(register_encoders()), "these have tests of their own: they read no image"


@pytest.mark.parametrize("config", [ArrayConfig, JoinConfig])
def test_config_file_of_a_prior_without_images_lists_every_key(config: Any) -> None:
    assert composed(f"+prior={defaults(config)['name']}")["prior"] == defaults(config)


def test_registering_imports_neither_torch_nor_numpy_nor_timm() -> None:
    code = (
        "import sys, solo_gps.priors; solo_gps.priors.register_encoders();"
        "assert not {'torch', 'numpy', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
