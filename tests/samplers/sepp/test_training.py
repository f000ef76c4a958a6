"""Real training with semantic pairs, on whichever generation of solo-learn is installed."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as F

from solo_gps.errors import DataError, RefusedMethodError
from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host

pytestmark = pytest.mark.host
HOST = detect_host()
REFUSED = {"base", "linear", "mae"}
NAN_IN_FIRST_EPOCH = {"deepclusterv2"}  # upstream
IMAGES, PAIRS, NEAR = 48, 32, 4


class Known:
    """The digits' own pixels as prior, and the pairs that must be found, found here without solo-gps.

    The four most alike pairs are above the window, the next 32 in it: 80 items.
    """

    def __init__(self, digits, folder):
        self.folder = ImageFolder(digits / "train")
        raw = np.stack([np.asarray(image, dtype=np.float64)[..., 0].ravel() for image, _ in self.folder])
        self.labels = np.array(self.folder.targets)
        self.path = folder / "pixels.npy"
        np.save(self.path, raw.astype(np.float32))
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        cosines = sorted(((unit[i] @ unit[j], i, j) for i in range(IMAGES) for j in range(i + 1, IMAGES)), reverse=True)
        edge = [(cosines[n - 1][0] + cosines[n][0]) / 2 for n in (NEAR, NEAR + PAIRS)]
        self.keys = {"fraction": 1.0, "high": float(edge[0]), "low": float(edge[1])}
        self.pairs = sorted((i, j) for _, i, j in cosines[NEAR : NEAR + PAIRS])
        self.nearest = (unit @ unit.T - 2 * np.eye(IMAGES)).argmax(axis=1)

    def nodes(self, *, before=None, after=None, **keys):
        sampler = {**(before or {}), "sepp": {**self.keys, **keys}, **(after or {})}
        return {"sampler": sampler, "prior": {"name": "array", "path": str(self.path), "space": "cosine"}}

    def which(self, crop, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
        """The image that a crop shows, by its pixels."""
        seen = ((crop * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]) * 255).round().to(torch.uint8)
        (found,) = [number for number, image in enumerate(self.resized) if torch.equal(seen, image)]
        return found

    @property
    def resized(self):
        if not hasattr(self, "_resized"):
            images = (F.resize(image, 32, F.InterpolationMode.BICUBIC) for image, _ in self.folder)
            self._resized = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
        return self._resized

    def shown(self, batch):
        """(index given to the method, image of crop 0, image of crop 1, target) of each item, crops judged by their pixels."""
        items, (first, second), targets = batch
        return [
            (item, self.which(one), self.which(two), target)
            for item, one, two, target in zip(items.tolist(), first, second, targets.tolist(), strict=True)
        ]


@pytest.fixture(scope="module")
def known(digits, tmp_path_factory):
    return Known(digits, tmp_path_factory.mktemp("prior"))


@pytest.mark.parametrize("method", sorted(set(HOST.methods) - REFUSED))
def test_every_method_trains_three_steps_with_sepp(method, recipe, train, known):
    run = train(recipe(method, batch_size=16, max_steps=3, **known.nodes()))
    assert len(run.losses) == 3
    if method not in NAN_IN_FIRST_EPOCH:
        assert all(math.isfinite(loss) for loss in run.losses)
    assert all(torch.isfinite(v).all() for n, v in run.state().items() if v.is_floating_point() and "backbone" in n)
    shown = [item for batch in run.batches for item in known.shown(batch)]
    assert all(one == two or (one, two) in known.pairs for _, one, two, _ in shown)
    assert any(one != two for _, one, two, _ in shown)
    assert all(target == known.labels[one] for _, one, _, target in shown)
    if method == "supcon":
        assert all(known.labels[one] == known.labels[two] for _, one, two, _ in shown)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_of_an_epoch_is_seen_once_with_its_index_and_labels(workers, recipe, train, known):
    cfg = recipe("simclr", batch_size=8, max_epochs=2, **known.nodes())
    cfg.data.num_workers = workers
    run = train(cfg)
    assert len(run.batches) == 2 * (IMAGES + PAIRS) // 8
    for epoch in (0, 1):
        shown = [item for batch in run.batches[10 * epoch :][:10] for item in known.shown(batch)]
        assert sorted((one, two) for _, one, two, _ in shown) == sorted([(i, i) for i in range(IMAGES)] + known.pairs)
        assert all(index == one and target == known.labels[one] for index, one, _, target in shown)
    for step, batch in enumerate(run.batches):
        of_first, of_second = run.classifier_targets[2 * step : 2 * step + 2]
        assert of_first.tolist() == [known.labels[one] for _, one, _, _ in known.shown(batch)]
        assert of_second.tolist() == [known.labels[two] for _, _, two, _ in known.shown(batch)]


def test_deepclusterv2_gets_the_number_of_the_item_as_its_memory_slot(recipe, train, known):
    run = train(recipe("deepclusterv2", batch_size=16, max_epochs=2, **known.nodes()))
    expected = [(i, i) for i in range(IMAGES)] + known.pairs
    for epoch in (0, 1):
        shown = [item for batch in run.batches[5 * epoch :][:5] for item in known.shown(batch)]
        assert sorted(slot for slot, *_ in shown) == list(range(IMAGES + PAIRS))
        assert all((one, two) == expected[slot] for slot, one, two, _ in shown)
    assert run.model.assignments.shape[1] == IMAGES + PAIRS
    assert (run.model.assignments >= 0).all()
    assert sorted(run.model.local_memory_index.tolist()) == list(range(IMAGES + PAIRS))
    assert math.isfinite(run.losses[-1])


@pytest.mark.parametrize(("order", "budget"), [("gps first", False), ("sepp first", False), ("sepp first", True)])
def test_gps_guides_the_images_and_leaves_the_pairs_alone(order, budget, recipe, train, known):
    gps = {"gps": {"k": 1}}
    nodes = known.nodes(equal_budget=budget, **({"before": gps} if order == "gps first" else {"after": gps}))
    run = train(recipe("simclr", batch_size=16, max_epochs=5 if budget else 1, **nodes))
    shown = [(one, two) for batch in run.batches for _, one, two, _ in known.shown(batch)]
    pool = Counter([*((i, int(known.nearest[i])) for i in range(IMAGES)), *known.pairs])
    if budget:
        assert len(shown) == 5 * IMAGES == 3 * (IMAGES + PAIRS)  # five epochs are three passes
        assert Counter(shown) == Counter({pair: 3 * times for pair, times in pool.items()})
    else:
        assert Counter(shown) == pool


def test_an_equal_budget_takes_the_steps_of_stock(recipe, train, known):
    stock = train(recipe(batch_size=16, max_epochs=1), stock=True)
    budget = train(recipe(batch_size=16, max_epochs=1, **known.nodes(equal_budget=True)))
    assert len(budget.losses) == len(stock.losses) == 3


def test_replace_shows_partners_within_the_same_number_of_items(recipe, train, known):
    run = train(recipe(batch_size=16, max_epochs=2, **known.nodes(mode="replace", both=True)))
    assert len(run.losses) == 6
    both = {*known.pairs, *((j, i) for i, j in known.pairs)}
    paired = {i for i, _ in both}
    shown = [item for batch in run.batches for item in known.shown(batch)]
    assert Counter(index for index, *_ in shown) == Counter(list(range(IMAGES)) * 2)
    assert all(index == one for index, one, *_ in shown)
    assert all((one, two) in both if one in paired else one == two for _, one, two, _ in shown)


def test_pnn_acts_beside_sepp(recipe, train, known):
    run = train(recipe("nnclr", batch_size=16, max_epochs=1, **known.nodes(after={"pnn": {}})))
    shown = [item for batch in run.batches for item in known.shown(batch)]
    assert len(shown) == IMAGES + PAIRS
    assert all(index == one for index, one, *_ in shown)
    assert all(math.isfinite(loss) for loss in run.losses)


@pytest.mark.parametrize("typed", ["+sampler=sepp", "+sampler=[gps,sepp]", "+sampler=[sepp,pnn]"])
def test_every_key_can_be_typed(typed):
    from solo_gps.commands.recipes import compose_recipe
    from solo_gps.samplers.sepp.config import SeppConfig

    keys = [f"sampler.sepp.{key}={'null' if value is None else value}" for key, value in vars(SeppConfig()).items()]
    cfg = compose_recipe("simclr_digits", [typed, *keys])
    assert OmegaConf.to_container(cfg.sampler.sepp) == vars(SeppConfig())


def test_near_duplicates_are_drawn_and_their_place_is_logged(recipe, known, caplog, tmp_path):
    from PIL import Image

    cfg = recipe(**known.nodes(pictures=str(tmp_path / "pictures")))
    with caplog.at_level(logging.INFO, logger="solo_gps"), activate(cfg):
        HOST.build_train_loader(HOST.complete(cfg))
    (picture,) = (tmp_path / "pictures").iterdir()
    assert f"{NEAR} pairs above" in caplog.text
    assert str(picture) in caplog.text
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_no_pair_in_the_window_is_an_error_before_training(recipe, known):
    cfg = recipe(**known.nodes(low=0.9999, high=1.0))
    with pytest.raises(DataError, match=r"no pair of the 48 images drawn .* try sampler.sepp.low="), activate(cfg):
        HOST.build_train_loader(HOST.complete(cfg))


@pytest.mark.skipif(HOST.generation != "1.0.6", reason="data.fraction came with solo-learn 1.0.6")
def test_pairs_are_numbered_after_data_fraction(recipe, known):
    nodes = {**known.nodes(low=0.9, high=1.0), "prior": {"name": "pixels"}}
    cfg = recipe(**nodes)
    cfg.data.fraction = 0.5
    with activate(cfg) as activation:
        HOST.build_train_loader(HOST.complete(cfg))
        data = activation.dataset
    assert len(data.images) == 24
    added = data.anchors[24:].tolist(), data.positives[24:].tolist()
    assert len(added[0]) > 0
    assert max(max(part) for part in added) < 24
    items = [data[m] for m in range(24, len(data))]
    images = [np.asarray(data.images.image(i)) for i in range(24)]
    assert [target for *_, target in items] == [int(data.images.labels[i]) for i in added[0]]
    unit = [image.ravel() / np.linalg.norm(image.astype(np.float64)) for image in images]
    assert min(unit[i] @ unit[j] for i, j in zip(*added, strict=True)) > 0.8


def test_a_budget_on_deepclusterv2_and_mae_are_refused_before_any_work(recipe, known, own_cache):
    with (
        pytest.raises(RefusedMethodError, match="equal_budget"),
        activate(recipe("deepclusterv2", **known.nodes(equal_budget=True))),
    ):
        pass
    if "mae" in HOST.methods:
        with (
            pytest.raises(RefusedMethodError, match="'sepp' cannot act on method 'mae'"),
            activate(recipe("mae", **known.nodes())),
        ):
            pass
    assert not own_cache.exists()


RANKS = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from omegaconf import OmegaConf
from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host
from solo_gps.commands.pretrain import pretrain

cfg, out = OmegaConf.load(sys.argv[1]), sys.argv[2]
host, seen = detect_host(), []
original = host.methods[cfg.method]

class Recorded(original):
    def training_step(self, batch, batch_idx):
        seen.append([self.current_epoch, batch[0].tolist(), [[c.double().sum().item() for c in crop] for crop in batch[1]]])
        return super().training_step(batch, batch_idx)

host.methods[cfg.method] = Recorded
with activate(cfg):
    run = pretrain(cfg)
with open(f"{out}/{run.trainer.global_rank}-of-{run.trainer.world_size}.json", "w") as file:
    json.dump(seen, file)
"""


def test_two_ranks_see_every_item_of_an_epoch_once(recipe, known, tmp_path):
    cfg = recipe("simclr", batch_size=8, max_epochs=2, devices=2, strategy="ddp", **known.nodes())
    OmegaConf.save(cfg, tmp_path / "recipe.yaml")
    (tmp_path / "ranks.py").write_text(RANKS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    done = subprocess.run(
        [sys.executable, "ranks.py", "recipe.yaml", "."],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}-of-2.json").read_text()) for rank in (0, 1)]
    sums = {}
    for number, image in enumerate(known.resized):
        normal = F.normalize(image.float() / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        sums[number] = normal.double().sum().item()

    def which(total):
        (found,) = [number for number, value in sums.items() if abs(value - total) < 1e-3]
        return found

    for epoch in (0, 1):
        shown = []
        for seen in ranks:
            batches = [batch for batch in seen if batch[0] == epoch]
            assert len(batches) == (IMAGES + PAIRS) // 16
            for _, indices, (first, second) in batches:
                shown += [(i, which(one), which(two)) for i, one, two in zip(indices, first, second, strict=True)]
        assert all(index == one for index, one, _ in shown)
        assert sorted((one, two) for _, one, two in shown) == sorted([(i, i) for i in range(IMAGES)] + known.pairs)
