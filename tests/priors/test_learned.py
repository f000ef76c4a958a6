"""Priors learned from the target set, against slow references."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from solo_gps.embeddings import embed, resolve_prior
from solo_gps.errors import DataError
from solo_gps.priors.parts.principal import evenly_spaced, principal_components
from solo_gps.priors.patches import WHITENING_FLOOR, _kmeans
from solo_gps.runtime.progress import Progress, duration

CPU = torch.device("cpu")


def fitted(images: Any, **prior: Any) -> Any:
    encoder = resolve_prior(prior, images)
    encoder.load(CPU)
    encoder.fit(images)
    return encoder


def pixels_of(encoder: Any, images: Any, count: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(encoder.transform()(images.image(index)).copy()) for index in range(count)])


def test_pca_equals_scikit_learn(digit_images: Any) -> None:
    array = embed(digit_images, {"name": "pca", "image_size": 8, "dimensions": 10}).array
    pixels = np.repeat(digit_images.pixels[:, None] / 255, 3, axis=1).reshape(len(digit_images), -1)
    wanted = PCA(10, svd_solver="full").fit_transform(pixels)
    np.testing.assert_allclose(np.abs(array), np.abs(wanted), atol=2e-4)


def test_whitened_pca_has_equal_variances(digit_images: Any) -> None:
    array = embed(digit_images, {"name": "pca", "image_size": 8, "dimensions": 10, "whiten": 1.0}).array
    np.testing.assert_allclose(array.var(axis=0), 1, rtol=1e-3)


def test_principal_components_do_not_depend_on_the_batches() -> None:
    rows = torch.randn(100, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8) + 50
    whole = principal_components([rows], 3)
    parts = principal_components(rows.split(9), 3)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(whole.components @ whole.components.T, torch.eye(3), atol=1e-5, rtol=0)


def test_no_more_components_than_the_rows_span() -> None:
    line = torch.arange(5.0)[:, None] * torch.tensor([[3.0, 4.0]])
    found = principal_components([line], 2)
    assert found.components.shape == (1, 2)
    torch.testing.assert_close(found.components[0], torch.tensor([0.6, 0.8]))
    assert found.variances.tolist() == pytest.approx([50.0])


def test_patches_equal_a_slow_reference(digit_images: Any) -> None:
    keys = {
        "image_size": 10,
        "patch_size": 4,
        "stride": 3,
        "centroids": 5,
        "regions": 2,
        "dimensions": 6,
        "whiten": 0.5,
    }
    encoder = fitted(digit_images, name="patches", **keys)
    batch = pixels_of(encoder, digit_images, 3)
    got = encoder.embed(batch).numpy()

    state = {name: tensor.numpy().astype(np.float64) for name, tensor in encoder.state().items()}
    matrix = state["filters"].reshape(len(state["filters"]), -1)
    inner = 3 * 4 * 4
    whitening = matrix[:inner]
    centroids = np.linalg.solve(whitening.T, matrix[inner:].T).T  # the filters are centroids @ whitening
    mean = -np.linalg.solve(matrix[:inner], state["bias"][:inner])
    wanted = []
    for image in batch.numpy() / 255:
        maps = np.zeros((3, 3, 5))
        for row in range(3):
            for column in range(3):
                patch = image[:, 3 * row : 3 * row + 4, 3 * column : 3 * column + 4].reshape(-1)
                distances = np.linalg.norm(whitening @ (patch - mean) - centroids, axis=1)
                maps[row, column] = np.maximum(distances.mean() - distances, 0)
        pooled = [maps[top : top + 2, left : left + 2].mean((0, 1)) for top in (0, 1) for left in (0, 1)]
        features = np.sqrt(np.stack(pooled, axis=1).reshape(-1))
        wanted.append(state["projection"] @ (features - state["mean"]))
    np.testing.assert_allclose(got, np.array(wanted), atol=2e-3 * np.abs(wanted).max())


def test_patches_are_whitened(digit_images: Any) -> None:
    encoder = fitted(digit_images, name="patches", image_size=12, patch_size=3)
    patches = encoder._sample(pixels_of(encoder, digit_images, 120), torch.Generator().manual_seed(0))
    inner = 3 * 3 * 3
    whitening, bias = encoder.state()["filters"][:inner].flatten(1), encoder.state()["bias"][:inner]
    rows = patches @ whitening.T + bias
    variances = torch.linalg.eigvalsh(torch.cov(patches.T, correction=0))
    got = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0))
    torch.testing.assert_close(got, variances / (variances + WHITENING_FLOOR), atol=1e-3, rtol=0)


def test_kmeans_finds_separate_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = (groups[torch.arange(300) % 3] + 0.1 * torch.randn(300, 2, generator=generator))[torch.randperm(300)]
    found = min((_kmeans(rows, 3, torch.Generator().manual_seed(seed)) for seed in range(5)), key=lambda c: _inertia(rows, c))
    assert torch.cdist(groups, found).min(1).values.max() < 0.1


def _inertia(rows: torch.Tensor, centroids: torch.Tensor) -> float:
    return float(torch.cdist(rows, centroids).min(1).values.square().sum())


def test_evenly_spaced() -> None:
    assert evenly_spaced(3, 5) == [0, 1, 2]
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]


@pytest.mark.parametrize("name", ["vae", "autoencoder"])
def test_training_lowers_the_held_out_loss_and_seeds_matter(
    digit_images: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"image_size": 8, "width": 8, "dimensions": 8, "train_batch_size": 32, "learning_rate": 3e-3}
    untrained = resolve_prior({"name": name, **keys})
    untrained.load(CPU)
    before = untrained._evaluate(digit_images, list(range(19, 120, 20)))
    trained = fitted(digit_images, name=name, epochs=20, **keys)
    assert trained._evaluate(digit_images, list(range(19, 120, 20))) < 0.7 * before
    again, other = (fitted(digit_images, name=name, epochs=1, seed=seed, **keys) for seed in (0, 1))
    pixels = pixels_of(again, digit_images, 4)
    assert not torch.equal(again.embed(pixels), other.embed(pixels))


def test_training_stops_early(digit_images: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, "solo_gps.embeddings")
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    encoder = resolve_prior({"name": "vae", "image_size": 8, "width": 4, "epochs": 50, "patience": 2})
    encoder.load(CPU)
    losses = iter([5.0, 3.0, 4.0, 3.5, 1.0])
    monkeypatch.setattr(type(encoder), "_evaluate", lambda self, images, held_out: next(losses))
    encoder.fit(digit_images)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "prior vae: trained on 114 images in 0.0 s, 4 of at most 50 epochs; more made it no better on images held out"),
        ("DEBUG", "prior vae: lowest loss on held-out images 3"),
    ]


def test_a_diverged_training_is_an_error(digit_images: Any) -> None:
    with pytest.raises(DataError, match=r"prior.vae: the loss is .* in epoch 0\. Lower prior.learning_rate"):
        fitted(digit_images, name="vae", image_size=8, width=4, learning_rate=1e30)


def test_progress_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "solo_gps.embeddings")
    clock = iter([0.0, 10.0, 40.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Progress("embedding", 1000, done=200) as progress:
        progress.update(100)  # after 10 s: too soon for a line
        progress.update(300)  # after 40 s
    assert [record.message for record in caplog.records] == ["embedding: 600 of 1,000 images, 10.0 images/s, 40.0 s left"]


def test_silent_progress_says_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "solo_gps.embeddings")
    monkeypatch.setattr("solo_gps.runtime.progress.LOG_EVERY_SECONDS", -1.0)
    with Progress("embedding", 10, enabled=False) as progress:
        progress.update(5)
    assert not caplog.records


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (3725, "1 h 02 min"), (float("inf"), "unknown time")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("augmentation", ["flip", "crop", "simclr"])
def test_augmented_embedding_is_the_mean_over_seeded_draws(digit_images: Any, augmentation: str, tmp_path: Path) -> None:
    prior = {"name": "pixels", "image_size": 8, "augmentation": augmentation, "draws": 3, "seed": 5}
    array = embed(digit_images, {**prior, "batch_size": 50}).array
    from solo_gps.priors.parts.preprocess import Augmented, SquareResize

    draw = Augmented(SquareResize(8), augmentation, 3, 5)
    wanted = np.stack([draw(digit_images.image(index), index).reshape(3, -1).mean(0) / 255 for index in (0, 60, 119)])
    np.testing.assert_allclose(array[[0, 60, 119]], wanted, atol=1e-6)
    assert len({draw(digit_images.image(7), 7)[k].tobytes() for k in range(3)}) > 1 or augmentation == "flip"
    two = embed(digit_images, {**prior, "num_workers": 2, "cache_dir": str(tmp_path / "other")}).array
    np.testing.assert_array_equal(two, array)


def test_flipped_draws_are_the_image_or_its_mirror(digit_images: Any) -> None:
    from solo_gps.priors.parts.preprocess import Augmented, SquareResize

    draws = Augmented(SquareResize(8), "flip", 20, 0)(digit_images.image(1), 1)
    own = SquareResize(8)(digit_images.image(1))
    kinds = [np.array_equal(draw, own) - np.array_equal(draw, own[:, :, ::-1]) for draw in draws]
    assert set(kinds) == {1, -1}
