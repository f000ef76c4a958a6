"""Which crops show the positive, by which pipeline, and in whose company: seen on the pixels and in real training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from processes import torchrun
from trainings import PLAIN_CROP

import solo_gps
from solo_gps.errors import ConfigError
from solo_gps.hosts.detect import detect_host
from solo_gps.interfaces import Pairs
from solo_gps.samplers.sepp.sampler import Sepp

pytestmark = pytest.mark.host
HOST = detect_host()
PIXELS = {"name": "pixels", "image_size": 8}
LARGE = {**PLAIN_CROP, "num_crops": 2}
SMALL = {**PLAIN_CROP, "crop_size": 16, "num_crops": 2}
PLAIN = {**PLAIN_CROP, "num_crops": 1}
FLIPPED = {**PLAIN, "horizontal_flip": {"prob": 1.0}}
MEAN, STD = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.228, 0.224, 0.225]))


def guided_set(cfg):
    with solo_gps.activate(cfg) as on:
        HOST.build_train_loader(HOST.complete(cfg))
    return on.dataset


def shown(crop, images):
    """Which image a crop shows, and whether it is mirrored: by the least difference of its pixels to every image's."""
    size = crop.shape[-1]
    pixels = (
        crop * torch.tensor([0.228, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    ).numpy()
    found = []
    for index in range(len(images)):
        image = images.image(index).resize((size, size), Image.Resampling.BICUBIC)
        array = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        found += [(np.abs(pixels - array).mean(), index, False), (np.abs(pixels - array[:, :, ::-1]).mean(), index, True)]
    return min(found)[1:]


@pytest.mark.parametrize(
    ("method", "large", "show", "guided"),
    [
        ("simclr", 2, "second", [1]),
        ("simclr", 3, "large", [1, 2]),
        ("simclr", 3, "second", [1]),
        ("byol", 2, "all", [1, 2, 3]),
        ("wmse", 3, "second", [1, 2]),
    ],
)
def test_the_crops_that_are_asked_for_show_the_positive(method, large, show, guided, recipe):
    if HOST.generation == "1.0.2" and large > 2 and method != "wmse":
        pytest.skip("1.0.2 takes two large crops")
    kinds = [{**LARGE, "num_crops": large}] + [SMALL] * (method != "wmse")
    dataset = guided_set(recipe(method, sampler={"gps": {"k": 3, "show": show}}, prior=PIXELS, augmentations=kinds))
    item = next(item for item in range(len(dataset)) if dataset.anchors[item] != dataset.positives[item])
    _, crops, _ = dataset[item]
    assert [crop.shape[-1] for crop in crops] == [32] * large + [16, 16] * (method != "wmse")
    of_positive = [shown(crop, dataset.images)[0] == int(dataset.positives[item]) for crop in crops]
    assert [number for number, mark in enumerate(of_positive) if mark] == guided
    assert shown(crops[0], dataset.images)[0] == int(dataset.anchors[item])


@pytest.mark.parametrize(("method", "large", "show"), [("simclr", 2, "all"), ("wmse", 3, "second")])
@pytest.mark.parametrize("keys", [{}, {"choose": "uniform", "keep_anchor": True, "augmentation": "none"}])
def test_several_positives_take_their_turns(method, large, show, keys, recipe):
    if HOST.generation == "1.0.2" and large > 2 and method != "wmse":
        pytest.skip("1.0.2 takes two large crops")
    kinds = [{**LARGE, "num_crops": large}] + [SMALL] * (method != "wmse")
    sampler = {"gps": {"k": 3, "positives": 2, "show": show, **keys}}
    cfg = recipe(method, sampler=sampler, prior=PIXELS, augmentations=kinds)
    with solo_gps.activate(cfg) as on:
        loader = HOST.build_train_loader(HOST.complete(cfg))
        dataset, labels = on.dataset, np.asarray(on.dataset.images.labels)
        positives, crops = dataset.pairs.in_turn, 3 + (method != "wmse")
        which = [0, 1, 2, 1][:crops]
        assert len(positives) == 2
        assert (positives[0] != positives[1]).all()
        for item in (0, 5, 17):
            images = [dataset.anchors[item], *(one[item] for one in positives)]
            assert [shown(crop, dataset.images)[0] for crop in dataset[item][1]] == [int(images[one]) for one in which]
        items, _, targets = next(iter(loader))
        anchors, seen = on.describe(items, items, targets, num_crops=crops)
        of_batch = [anchors, *(torch.from_numpy(one[items.numpy()]) for one in positives)]
        assert [images.tolist() for images in seen.images] == [of_batch[one].tolist() for one in which]
        assert [classes.tolist() for classes in seen.targets] == [labels[of_batch[one].numpy()].tolist() for one in which]


def test_several_positives_wait_for_the_first_refresh(recipe, train):
    """Until then items have none, and their crops show the anchor."""
    sampler = {"gps": {"k": 4, "positives": 2, "show": "all"}}
    refresh = {"of": "features", "start": 1, "every": 1}
    for first, share in (({**refresh, "start": 0}, 1), (refresh, 1)):
        run = train(recipe("simclr", sampler=sampler, prior=PIXELS, refresh=first, augmentations=[LARGE, SMALL], max_epochs=2))
        pairs, counts = run.model._run.dataset.pairs, run.model._run.receipt.counts
        assert pairs.more.shape == (48, 1)
        assert (pairs.more[:, 0] != pairs.positives).all()
        assert counts["guided"] == share * counts["items"] == 96


def test_a_sampler_that_drops_further_positives_ends_the_run(recipe, monkeypatch):
    def first_alone(self, pairs, epoch):
        return Pairs(anchors=pairs.anchors, positives=pairs.positives)

    monkeypatch.setattr(Sepp, "pairs", first_alone)
    nodes = {"sampler": {"gps": {"k": 4, "positives": 2, "show": "all"}, "sepp": {}}, "augmentations": [LARGE, SMALL]}
    with pytest.raises(ConfigError, match=r"sampler 'sepp' knows of one positive an item.*Put it before gps"):
        guided_set(recipe("simclr", prior=PIXELS, **nodes))


def test_no_anchor_trains_beside_any_of_its_positives(recipe, train):
    kinds = [LARGE, SMALL]
    sampler = {"gps": {"k": 4, "positives": 3, "show": "all", "choose": "uniform", "keep_apart": True}}
    run = train(recipe("simclr", sampler=sampler, prior=PIXELS, augmentations=kinds, max_epochs=1, batch_size=12))
    guided = run.model._run
    positives = guided.dataset.pairs.in_turn
    assert len(run.batches) == 4
    for items, _, _ in run.batches:
        anchors = set(items.tolist())
        assert not {int(one[anchor]) for one in positives for anchor in anchors if one[anchor] != anchor} & anchors
    assert guided.receipt.counts["guided"] == guided.receipt.counts["items"] == 48
    assert guided.receipt.counts["judged"] == 3 * 48


@pytest.mark.parametrize(
    ("augmentation", "second", "mirrored"),
    [(None, PLAIN, False), (None, FLIPPED, True), (0, PLAIN, True), (1, PLAIN, False), ("none", FLIPPED, False)],
)
def test_the_positives_view_has_a_pipeline_of_its_own(augmentation, second, mirrored, recipe):
    """The first crop is mirrored; an item without a positive is the host's own."""
    sampler = {"gps": {"radius": "q0.25", "augmentation": augmentation}}
    kinds = [FLIPPED, second]
    dataset = guided_set(recipe(sampler=sampler, prior=PIXELS, augmentations=kinds))
    guided = (dataset.anchors != dataset.positives).tolist()
    assert 0 < sum(guided) < len(guided)
    for item in (guided.index(True), guided.index(False)):
        _, crops, _ = dataset[item]
        assert shown(crops[0], dataset.images) == (int(dataset.anchors[item]), True)
        assert shown(crops[1], dataset.images) == (
            int(dataset.positives[item]),
            mirrored if guided[item] else second is FLIPPED,
        )


def test_images_that_are_no_squares_collate(recipe, tmp_path):
    for index in range(16):
        folder = tmp_path / "train" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(index).integers(0, 256, (20 + index, 40, 3), np.uint8)
        Image.fromarray(array).save(folder / f"{index}.png")
    cropped = {**PLAIN_CROP, "rrc": {"enabled": True, "crop_min_scale": 0.5, "crop_max_scale": 1.0}}
    sampler = {"gps": {"k": 2, "augmentation": "none"}}
    cfg = recipe(sampler=sampler, prior=PIXELS, augmentations=[cropped], data={"train_path": str(tmp_path / "train")})
    dataset = guided_set(cfg)
    assert {crop.shape for item in range(16) for crop in dataset[item][1]} == {(3, 32, 32)}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"show": "large"}, r"sampler.gps.show=large: the recipe has 2 large and 0 small crops.*Leave it out"),
        ({"show": "all"}, r"sampler.gps.show=all: the recipe has 2 large and 0 small"),
        (
            {"positives": 2},
            r"sampler.gps.positives=2: .* 2 large and 0 small crops, of which 1 shows a positive with show=second",
        ),
        ({"augmentation": 1}, r"sampler.gps.augmentation=1: the recipe has 1 augmentations"),
    ],
)
def test_what_the_recipe_has_no_crops_for_is_refused(keys, message, recipe, own_cache):
    with pytest.raises(ConfigError, match=message), solo_gps.activate(recipe(sampler={"gps": keys}, prior=PIXELS)):
        pass
    assert not own_cache.exists()


def test_a_pipeline_of_another_size_is_refused(recipe):
    cfg = recipe(sampler={"gps": {"augmentation": 1}}, prior=PIXELS, augmentations=[LARGE, SMALL])
    with pytest.raises(ConfigError, match=r"augmentation=1: makes crops of 16 pixels, for a crop of 32"), solo_gps.activate(cfg):
        pass


@pytest.mark.parametrize("workers", [0, 2])
def test_no_anchor_trains_beside_its_positives_own_item(workers, recipe, train, drawn):
    sampler = {"gps": {"k": 5, "choose": "uniform", "keep_apart": True}}
    run = train(recipe(sampler=sampler, prior=PIXELS, max_epochs=3, batch_size=12, data={"num_workers": workers}))
    met_without, epochs = 0, len(run.batches) // 4
    assert epochs == 3
    for epoch in range(epochs):
        positives, seen = drawn[epoch], []
        for items, _, _ in run.batches[4 * epoch : 4 * epoch + 4]:
            anchors = items.tolist()
            seen += anchors
            assert not {int(positives[anchor]) for anchor in anchors if positives[anchor] != anchor} & set(anchors)
        assert len(set(seen)) == len(seen) == 48
        for start in range(0, 48, 12):  # the images in order of their names, for comparison
            met_without += sum(int(positives[anchor]) in range(start, start + 12) for anchor in range(start, start + 12))
    assert met_without > 0


def test_two_ranks_keep_partners_apart_in_what_they_gather(recipe, tmp_path):
    cfg = recipe(sampler={"gps": {"k": 5, "choose": "uniform", "keep_apart": True}}, prior=PIXELS, max_epochs=3, batch_size=6)
    cfg.devices, cfg.strategy = 2, "ddp"
    OmegaConf.save(cfg, tmp_path / "recipe.yaml")
    program = Path(__file__).with_name("apart_two_ranks.py")
    done = torchrun(program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = np.stack([np.load(tmp_path / f"rank-{rank}.npy") for rank in (0, 1)])  # rank, step, anchors and positives, item
    assert ranks.shape == (2, 12, 2, 6)
    together = ranks.transpose(1, 2, 0, 3).reshape(12, 2, 12)
    for anchors, positives in together:
        assert not set(positives[positives != anchors].tolist()) & set(anchors.tolist())
    orders = [together[epoch : epoch + 4, 0].flatten().tolist() for epoch in (0, 4, 8)]
    assert all(sorted(order) == list(range(48)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
