"""Real training with guided positives, on whichever generation of solo-learn is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nearest_by_hand import kth_by_pixels
from omegaconf import OmegaConf
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as F

from solo_gps.errors import ConfigError
from solo_gps.hosts.detect import detect_host

pytestmark = pytest.mark.host
HOST = detect_host()
REFUSED = {"base", "linear", "mae"}
PIXELS = {"name": "pixels", "image_size": 8}
NAN_IN_FIRST_EPOCH = {"deepclusterv2"}  # upstream


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", sorted(set(HOST.methods) - REFUSED))
def test_every_method_trains_three_steps_with_gps(method, recipe, train):
    cfg = recipe(method, batch_size=16, max_steps=3, sampler={"gps": {"k": 3, "choose": "uniform"}}, prior=PIXELS)
    run = train(cfg)
    assert len(run.losses) == 3
    if method not in NAN_IN_FIRST_EPOCH:
        assert all(math.isfinite(loss) for loss in run.losses)
    assert all(torch.isfinite(v).all() for n, v in run.state().items() if v.is_floating_point() and "backbone" in n)
    items, crops, targets = run.batches[0]
    assert items.dtype == torch.int64
    assert items.shape == targets.shape == (16,)
    assert len(crops) == 2
    shown_twice = [torch.equal(a, b) for a, b in zip(*crops, strict=True)]
    assert not any(shown_twice)


def shown(crop, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """The pixels, 0 to 255, of a crop that was resized and normalised."""
    image = crop * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return (image * 255).round().to(torch.uint8)


@pytest.mark.parametrize("workers", [0, 2])
def test_view_two_is_the_tables_positive_from_the_pixels(workers, recipe, train, digits):
    cfg = recipe("simclr", max_epochs=2, sampler={"gps": {"k": 4, "choose": "furthest"}}, prior=PIXELS)
    cfg.data.num_workers = workers
    run = train(cfg)
    folder, positive = ImageFolder(digits / "train"), kth_by_pixels(digits / "train", 4)

    def resized(index):
        image = F.resize(folder[index][0], 32, F.InterpolationMode.BICUBIC)
        return torch.from_numpy(np.asarray(image)).permute(2, 0, 1)

    assert len(run.batches) == 2 * (len(folder) // 8)
    for items, (first, second), targets in run.batches:
        for item, one, two, target in zip(items.tolist(), first, second, targets.tolist(), strict=True):
            assert torch.equal(shown(one), resized(item))
            assert torch.equal(shown(two), resized(int(positive[item])))
            assert target == folder.targets[item]


def test_the_online_classifier_gets_the_label_of_the_image_that_each_crop_shows(recipe, train, digits):
    run = train(recipe("byol", max_steps=3, sampler={"gps": {"k": 20, "choose": "furthest"}}, prior=PIXELS))
    positive, labels = kth_by_pixels(digits / "train", 20), np.array(ImageFolder(digits / "train").targets)
    assert (labels != labels[positive]).any()
    for step, (items, _, targets) in enumerate(run.batches):
        of_first, of_second = run.classifier_targets[2 * step : 2 * step + 2]
        assert of_first.tolist() == targets.tolist() == labels[items].tolist()
        assert of_second.tolist() == labels[positive[items]].tolist()


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_switched_off_equals_stock_to_the_last_bit(method, recipe, train):
    stock = train(recipe(method, flip=0.5, max_epochs=2), stock=True)
    off = train(recipe(method, flip=0.5, max_epochs=2, sampler={}))
    assert len(stock.losses) == 12
    assert off.losses == stock.losses
    assert same(off.state(), stock.state())


@pytest.mark.parametrize("workers", [0, 2])
def test_anchors_as_positives_equal_stock_to_the_last_bit(workers, recipe, train, itself):
    """Switched on with nothing to guide: no random number is drawn, no image decoded otherwise than by the host."""
    plain, guided = recipe(flip=0.5, max_epochs=2), recipe(flip=0.5, max_epochs=2, prior=PIXELS)
    guided.sampler = {"itself": {"choose": "uniform"}}
    plain.data.num_workers = guided.data.num_workers = workers
    stock, unguided = train(plain, stock=True), train(guided)
    assert unguided.losses == stock.losses
    assert same(unguided.state(), stock.state())


def test_guided_losses_differ_from_stock(recipe, train):
    assert train(recipe(), stock=True).losses != train(recipe(sampler={"gps": {}}, prior=PIXELS)).losses


def test_the_same_seed_gives_the_same_run_and_a_number_of_workers_does_not_change_the_pairs(recipe, train):
    runs = []
    for workers in (0, 0, 2):
        cfg = recipe(max_epochs=2, sampler={"gps": {"k": 8, "choose": "uniform"}}, prior=PIXELS)
        cfg.data.num_workers = workers
        runs.append(train(cfg))
    assert runs[0].losses == runs[1].losses
    pair = [
        {
            (step // 6, int(item)): two
            for step, (items, (_, second), _) in enumerate(run.batches)
            for item, two in zip(items, second, strict=True)
        }
        for run in runs
    ]
    assert pair[0].keys() == pair[2].keys()
    assert all(torch.equal(pair[0][key], pair[2][key]) for key in pair[0])
    drawn_anew = [not torch.equal(pair[0][0, i], pair[0][1, i]) for i in range(48)]
    assert sum(drawn_anew) > 24


def test_multicrop_guides_the_second_large_crop_alone(recipe, train, digits):
    cfg = recipe("byol", max_steps=2, sampler={"gps": {"k": 1}}, prior=PIXELS)
    small = OmegaConf.merge(cfg.augmentations[0], {"crop_size": 18, "num_crops": 3})
    cfg.augmentations = [cfg.augmentations[0], small]
    run = train(cfg)
    items, crops, _ = run.batches[0]
    folder = ImageFolder(digits / "train")
    assert [tuple(crop.shape[-2:]) for crop in crops] == [(32, 32)] * 2 + [(18, 18)] * 3
    for row, item in enumerate(items.tolist()):
        image = F.resize(folder[item][0], 18, F.InterpolationMode.BICUBIC)
        anchor = torch.from_numpy(np.asarray(image)).permute(2, 0, 1)
        assert all(torch.equal(shown(crops[k][row]), anchor) for k in (2, 3, 4))
        assert not torch.equal(crops[0][row], crops[1][row])


def with_small_crops(cfg):
    cfg.augmentations = [cfg.augmentations[0], OmegaConf.merge(cfg.augmentations[0], {"crop_size": 18, "num_crops": 2})]
    return cfg


@pytest.mark.skipif(HOST.generation == "1.0.2", reason="its recipes refuse small crops for most methods (tests/hosts/v102)")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[] if method in ("simclr", "supcon", "swav") else pytest.mark.full)
        for method in sorted(set(HOST.methods) - REFUSED - {"all4one"})
    ],
)
def test_small_crops_train_in_every_method_that_takes_them(method, recipe, train):
    run = train(with_small_crops(recipe(method, max_steps=1, sampler={"gps": {"k": 3}}, prior=PIXELS)))
    _, (first, second, *small), _ = run.batches[0]
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(*small), "the same image, by a pipeline without chance"
    assert small[0].shape == (8, 3, 18, 18)


@pytest.mark.skipif("all4one" not in HOST.methods, reason="all4one came with solo-learn 1.0.6")
def test_small_crops_with_all4one_are_refused_before_any_work_because_solo_learn_stops_on_them(recipe, train, own_cache):
    with pytest.raises(
        ConfigError, match=r"augmentations: 2 small crops, which solo-learn's all4one cannot take.*Leave them out"
    ):
        train(with_small_crops(recipe("all4one", max_steps=1, sampler={"gps": {"k": 3}}, prior=PIXELS)))
    assert not own_cache.exists()
    with pytest.raises(ValueError, match="too many values to unpack"):
        train(with_small_crops(recipe("all4one", max_steps=1)), stock=True)


@pytest.mark.skipif("supcon" not in HOST.methods, reason="supcon came with solo-learn 1.0.3")
def test_supcon_pairs_images_of_one_label_only(recipe, train, digits):
    run = train(recipe("supcon", max_epochs=1, sampler={"gps": {"k": 20, "choose": "furthest"}}, prior=PIXELS))
    for targets in zip(run.classifier_targets[::2], run.classifier_targets[1::2], strict=True):
        assert targets[0].tolist() == targets[1].tolist()


def test_the_online_knn_bank_holds_the_label_of_the_image_that_each_crop_shows(recipe, train, digits, monkeypatch):
    from solo.utils.knn import WeightedKNNClassifier

    banks = []
    update = WeightedKNNClassifier.update

    def recorded(self, train_features=None, train_targets=None, test_features=None, test_targets=None):
        if train_targets is not None:
            banks.append(train_targets.tolist())
        return update(self, train_features, train_targets, test_features, test_targets)

    monkeypatch.setattr(WeightedKNNClassifier, "update", recorded)
    cfg = recipe(max_steps=2, sampler={"gps": {"k": 30}}, prior=PIXELS, knn_eval={"enabled": True, "k": 3})
    cfg.data.val_path = str(digits / "val")
    run = train(cfg)
    positive, labels = kth_by_pixels(digits / "train", 30), np.array(ImageFolder(digits / "train").targets)
    assert (labels != labels[positive]).any()
    wanted = [[*labels[items].tolist(), *labels[positive[items]].tolist()] for items, _, _ in run.batches]
    updates_a_step = len(banks) // len(wanted)  # torchmetrics below 0.12 updates twice a call
    assert banks == [bank for bank in wanted for _ in range(updates_a_step)]
