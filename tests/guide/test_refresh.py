"""The network being trained as the prior, in real training of both generations."""

from __future__ import annotations

import csv
import itertools
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from config_keys import composed
from image_sets import ArrayImages, digits_pixels
from nearest_by_hand import MEAN, STD, assert_agree, nearest_by_hand
from omegaconf import OmegaConf
from processes import torchrun
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose
from torchvision.transforms import functional as F

import solo_gps
from solo_gps.commands.pretrain import pretrain
from solo_gps.errors import CacheError, ConfigError, DataError
from solo_gps.hosts.detect import detect_host
from solo_gps.runtime.ranks import Ranks

pytestmark = pytest.mark.host
HOST = detect_host()
PIXELS = {"name": "pixels", "image_size": 8}
NEAREST = {"gps": {"k": 1}}


@pytest.fixture
def expected(monkeypatch, digits):
    """Method, space -> what the hand finds before the first step of each epoch, recorded while training."""

    def watch(method, of, space):
        found = {}
        original = HOST.methods[method]

        class Watched(original):
            def training_step(self, batch, batch_idx):
                if batch_idx == 0:
                    found[self.current_epoch] = nearest_by_hand(self, digits, of, space)
                return super().training_step(batch, batch_idx)

        monkeypatch.setitem(HOST.methods, method, Watched)
        return found

    return watch


@pytest.mark.parametrize(
    ("method", "of", "space", "workers"),
    [("simclr", "features", "cosine", 0), ("byol", "projections", "euclidean", 2), ("nnclr", "projections", "cosine", 0)],
)
def test_positives_are_neighbours_in_the_network_as_it_is(method, of, space, workers, recipe, train, digits, drawn, expected):
    found = expected(method, of, space)
    cfg = recipe(method, max_epochs=4, sampler=NEAREST, refresh={"of": of, "space": space, "every": 2, "start": 0})
    cfg.data.num_workers = workers
    run = train(cfg)
    assert sorted(drawn) == sorted(found) == [0, 1, 2, 3]
    assert_agree(drawn[0], found[0])
    assert_agree(drawn[2], found[2])
    assert (drawn[1] == drawn[0]).all()
    assert (drawn[3] == drawn[2]).all()
    assert (drawn[2] != drawn[0]).any()
    folder = ImageFolder(digits / "train")
    for step, (items, (_, second), _) in enumerate(run.batches):
        for item, two in zip(items.tolist(), second, strict=True):
            shown = (two * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
            image = F.resize(folder[int(drawn[step // 6][item])][0], 32, F.InterpolationMode.BICUBIC)
            assert torch.equal(shown.round().to(torch.uint8), F.pil_to_tensor(image))


def test_the_prior_guides_until_the_first_refresh(recipe, train, digits, drawn):
    train(recipe(max_epochs=3, sampler=NEAREST, prior=PIXELS, refresh={"every": 2}))
    raw = np.stack([np.asarray(image, dtype=np.float64).ravel() for image, _ in ImageFolder(digits / "train")])
    distance = ((raw[:, None] - raw[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (drawn[0] == distance.argmin(1)).all()
    assert (drawn[1] == drawn[0]).all()
    assert (drawn[2] != drawn[0]).any()


def test_the_network_alone_needs_no_prior(recipe, train, own_cache):
    train(recipe(max_epochs=1, sampler=NEAREST, refresh={"start": 0, "every": 1}))
    assert not [path for path in own_cache.iterdir() if path.name not in (".locks", ".records")]


@pytest.mark.parametrize(("method", "workers"), [("simclr", 0), ("byol", 2)])
def test_a_refresh_that_changes_no_pair_changes_nothing(method, workers, recipe, train, itself):
    """Random numbers, running statistics, modes and gradients are those of a run without solo-gps."""
    plain = recipe(method, flip=0.5, max_epochs=3)
    nodes = {"sampler": {"itself": {"choose": "uniform"}}, "refresh": {"start": 0, "every": 1, "num_workers": workers}}
    guided = recipe(method, flip=0.5, max_epochs=3, **nodes)
    plain.data.num_workers = guided.data.num_workers = workers
    stock, refreshed = train(plain, stock=True), train(guided)
    assert refreshed.losses == stock.losses
    before, after = stock.state(), refreshed.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_image_rehearses_all_before_anything_long(recipe, train, own_cache, monkeypatch):
    embedded = []
    monkeypatch.setattr("solo_gps.samplers.space.embed", lambda *_: embedded.append(1))
    nodes = {"sampler": NEAREST, "prior": PIXELS, "refresh": {"every": 1}, "max_epochs": 2}
    monkeypatch.setattr("solo_gps.runtime.scratch.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match=r"refresh: the embeddings of the network being trained need .* which has 1\.0 kB free"):
        train(recipe(**nodes))
    monkeypatch.setattr("tempfile.mkstemp", failing(OSError(30, "Read-only file system")))
    with pytest.raises(CacheError, match=r"cannot be written to .*Read-only file system\. Set SOLO_GPS_CACHE"):
        train(recipe(**nodes))
    with pytest.raises(DataError, match="k=48 neighbours of N=48 images"):
        train(recipe(**nodes | {"sampler": {"gps": {"k": 48}}, "refresh": {"start": 0}}))
    assert not embedded


@pytest.mark.parametrize(("space", "arrays"), [("cosine", 3), ("euclidean", 2)])
def test_the_room_that_several_ranks_need_is_rehearsed_too(space, arrays, recipe, monkeypatch):
    """One process writes the embeddings; ranks of one machine also share the points of the search."""
    cfg = recipe(sampler=NEAREST, refresh={"start": 0, "every": 1, "space": space})
    for devices, needed in ((1, 1), (2, arrays)):
        cfg.devices = devices
        with solo_gps.activate(cfg) as on:
            full = HOST.complete(cfg)
            model = HOST.build_method(full, HOST.methods[full.method])
            size = needed * 48 * model.features_dim * 4
            images = ArrayImages(digits_pixels(48))
            for free in (size - 1, size):
                monkeypatch.setattr("solo_gps.runtime.scratch.shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
                if free < size:
                    with pytest.raises(CacheError, match="refresh: the embeddings of the network being trained need"):
                        on.pairing.refresh.rehearse(images, Compose([]))
                else:
                    on.pairing.refresh.rehearse(images, Compose([]))


def test_a_refresh_that_leaves_no_positive_is_an_error(recipe, train):
    nodes = {"sampler": {"gps": {"radius": 1e-12}}, "refresh": {"start": 0, "every": 1}}
    with pytest.raises(DataError, match=r"the refresh before epoch 0: sampler\.gps\.radius=1e-12: no image .*radius=\S+ fits"):
        train(recipe(**nodes))


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_weights_of_another_type_see_pixels_of_that_type(precision, recipe, train, drawn):
    if HOST.generation == "1.0.2":
        pytest.skip("these precisions came with Lightning 2")
    cfg = recipe(max_epochs=2, sampler=NEAREST, refresh={"start": 0, "every": 1})
    cfg.precision = precision
    train(cfg)
    assert (drawn[0] != drawn[1]).any()


def test_embeddings_without_a_direction_name_the_refresh(recipe, train, monkeypatch):
    cfg = recipe(max_epochs=1, sampler=NEAREST, refresh={"start": 0, "every": 1})

    def embed(self, batch):
        return torch.arange(float(len(batch)))[:, None].repeat(1, 4)

    monkeypatch.setattr("solo_gps.embeddings.live.LiveNetwork.embed", embed)
    with pytest.raises(DataError, match=r"refresh before epoch 0: .* zero vector.*refresh\.space=euclidean needs no direction"):
        train(cfg)


def test_a_network_that_has_collapsed_is_named(recipe, train, monkeypatch):
    cfg = recipe(max_epochs=1, sampler=NEAREST, refresh={"start": 0, "every": 1})
    monkeypatch.setattr("solo_gps.embeddings.live.LiveNetwork.embed", lambda self, batch: torch.ones(len(batch), 4))
    text = (
        r"refresh before epoch 0: 48 of 48 images lie at one point.*The network being trained has collapsed\. Lower optimizer\.lr"
    )
    with pytest.raises(DataError, match=text):
        train(cfg)


def test_a_training_that_ends_before_its_first_refresh_says_so(recipe, train, caplog):
    cfg = recipe(max_epochs=3, sampler=NEAREST, prior=PIXELS, refresh={"every": 2})
    cfg.max_steps = 4
    train(cfg)
    assert "refresh: the training ended after" in caplog.text


def test_a_prior_that_is_never_used_is_named(recipe, train, caplog):
    train(recipe(max_epochs=1, sampler=NEAREST, prior=PIXELS, refresh={"start": 0}))
    assert "the prior is never used" in caplog.text


def test_each_refresh_is_logged_with_its_labels(recipe, tmp_path, monkeypatch, tables, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "solo_gps")
    cfg = recipe(
        max_epochs=4,
        sampler={"gps": {"k": 3}},
        prior=PIXELS,
        refresh={"every": 2, "start": 1},
        checkpoint={"enabled": True, "dir": "trained", "frequency": 9, "keep_prev": False},
    )
    with warnings.catch_warnings(), solo_gps.activate(cfg):
        warnings.simplefilter("ignore")
        pretrain(cfg)
    assert [name for name, _, _ in tables] == ["gps"] * 3
    (file,) = Path("trained").rglob("metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row.get("refresh_gps_purity")]
    assert [int(row["epoch"]) for row in rows] == [1, 3]
    lines = [re.sub(r"\d+\.\d", "1.0", line) for line in caplog.messages if line.startswith("refresh: ")]
    assert lines == [
        f"refresh: from epoch {epoch} on gps has its neighbours among the features of the network being trained, which took "
        "1.0 s; 1.0 % of them are the neighbours of before"
        for epoch in (1, 3)
    ]
    labels = tables[0][2]
    for row, (_, before, _), (_, after, _) in zip(rows, tables[:-1], tables[1:], strict=True):
        assert float(row["refresh_gps_purity"]) == pytest.approx((labels[after] == labels[:, None]).mean(), abs=1e-6)
        kept = np.mean([len(set(one) & set(other)) / 3 for one, other in zip(before, after, strict=True)])
        assert float(row["refresh_gps_kept"]) == pytest.approx(kept, abs=1e-6)
        assert float(row["refresh_gps_empty"]) == 0


def test_the_logged_purity_is_that_of_the_epochs_own_pairs(recipe, tmp_path, monkeypatch, drawn, digits):
    monkeypatch.chdir(tmp_path)
    cfg = recipe(
        max_epochs=3,
        sampler={"gps": {"k": 30, "choose": "uniform"}},
        prior=PIXELS,
        checkpoint={"enabled": True, "dir": "trained", "frequency": 9, "keep_prev": False},
    )
    with warnings.catch_warnings(), solo_gps.activate(cfg):
        warnings.simplefilter("ignore")
        pretrain(cfg)
    (file,) = Path("trained").rglob("metrics.csv")
    logged = {int(row["epoch"]): float(row["guided_purity"]) for row in csv.DictReader(file.open()) if row["guided_purity"]}
    labels = np.array(ImageFolder(digits / "train").targets)
    wanted = {epoch: (labels == labels[positives]).mean() for epoch, positives in drawn.items()}
    assert logged == pytest.approx(wanted, abs=1e-6)
    assert len(set(wanted.values())) == 3


def test_the_groups_name_every_key_with_its_default():
    from solo_gps.guide.refresh_config import OF, RefreshConfig

    folder = Path(__file__).parents[2] / "configs" / "refresh"
    assert {path.stem for path in folder.glob("*.yaml")} == set(OF)
    for of in OF:
        assert composed(f"+refresh={of}")["refresh"] == vars(RefreshConfig(of=of))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"refresh": "features"}, "did not find the config group 'refresh'"),
        ({"refresh": {"evry": 2}}, r"refresh\.evry: no such key.*Did you mean 'every'"),
        ({"refresh": {"every": 0}}, "every=0 must be at least 1"),
        ({"refresh": {"of": "feature"}}, "Did you mean 'features'"),
        ({"refresh": {"every": 2}}, r"first refresh would come at epoch 2, but max_epochs=2"),
        ({"refresh": {"every": 1}, "sampler": {"sepp": {}}}, "none of the samplers .sepp. looks for neighbours anew"),
        ({"refresh": {"every": 1}, "sampler": {"gps": {"radius": 1.0}}}, r"sampler\.gps\.radius is a distance of one space"),
        ({"refresh": {"every": 1, "of": "projections"}, "method": "dino"}, " has no projector"),
    ],
)
def test_bad_input_is_one_clear_error(nodes, message, recipe, train):
    cfg = OmegaConf.merge(recipe(sampler=NEAREST, prior=PIXELS), nodes)
    if nodes.get("method"):
        cfg = OmegaConf.merge(recipe("dino", sampler=NEAREST, prior=PIXELS), nodes)
    if "sepp" in cfg.sampler:
        del cfg.sampler["gps"]
    with pytest.raises(ConfigError, match=message):
        train(cfg)


def test_a_plain_run_of_a_sweep_over_samplers_is_never_refreshed(recipe):
    from solo_gps.guide.check import read_recipe

    assert read_recipe(recipe(sampler={}, refresh={"every": 1})).refresh is None


def test_a_diverged_network_is_one_clear_error(recipe, train):
    cfg = recipe(max_epochs=2, sampler=NEAREST, prior=PIXELS, refresh={"every": 1})
    cfg.optimizer.lr = 1e30
    with pytest.raises(DataError, match="not finite; the training has diverged"):
        train(cfg)


def test_workers_that_stay_see_the_refreshed_pairs(recipe, digits):
    """Workers that live from epoch to epoch read the pairs where they lie; what they had read ahead is thrown away."""
    from torch.utils.data import DataLoader

    cfg = recipe(max_epochs=4, batch_size=4, sampler=NEAREST, refresh={"start": 0, "every": 1})
    with warnings.catch_warnings(), solo_gps.activate(cfg) as on:
        warnings.simplefilter("ignore")
        full = HOST.complete(cfg)
        model = HOST.build_method(full, HOST.methods["simclr"])
        made = HOST.build_train_loader(full)
        staying = {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4}
        loader = type(made)(made.dataset, batch_size=4, shuffle=True, **staying)
        assert isinstance(loader, DataLoader)
        folder, tables = ImageFolder(digits / "train"), []
        for epoch in range(4):
            for step, (items, (_, second), _) in enumerate(loader):
                positives = on.dataset.positives.clone()
                for item, two in zip(items.tolist(), second, strict=True):
                    shown = (two * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
                    image = F.resize(folder[int(positives[item])][0], 32, F.InterpolationMode.BICUBIC)
                    assert torch.equal(shown.round().to(torch.uint8), F.pil_to_tensor(image))
                if step == 3 and epoch % 2 == 0:
                    break  # with batches of the old pairs still on their way
            tables.append(positives)
            with torch.no_grad():
                for parameter in getattr(model, HOST.backbone_name).parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(tables))


class OverNccl(Ranks):
    """Two ranks whose exchanges refuse tensors of the CPU, as NCCL does."""

    def gather(self, value):
        return [value] * self.world

    def gather_rows(self, rows):
        raise RuntimeError("No backend type associated with device type cpu")


def test_a_rehearsal_exchanges_no_tensor_of_the_cpu(recipe, monkeypatch):
    """A program that has initialised NCCL itself builds its network on the CPU; each rank rehearses for itself."""

    def ranks(distributed=True):
        return OverNccl(0, 2) if distributed else Ranks()

    def broadcast(*args, **kwargs):
        raise RuntimeError("No backend type associated with device type cpu")

    cfg = recipe(sampler={"gps": {"k": 3}}, refresh={"start": 0, "every": 1})
    with solo_gps.activate(cfg) as on:
        full = HOST.complete(cfg)
        model = HOST.build_method(full, HOST.methods[full.method])
        for place in ("solo_gps.guide.refresh", "solo_gps.embeddings.snapshot"):
            monkeypatch.setattr(f"{place}.training_ranks", ranks)
        monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
        images, pipeline = ArrayImages(digits_pixels(2)), Compose([])
        on.pairing.refresh.rehearse(images, pipeline)
        with pytest.raises(RuntimeError, match="No backend type"), on.pairing.refresh.embeddings(images, pipeline):
            pass
    assert model is not None


def test_two_ranks_refresh_to_one_table(recipe, tmp_path):
    cfg = recipe("byol", max_epochs=3, sampler={"gps": {"k": 3}}, refresh={"start": 0, "every": 1, "batch_size": 7})
    cfg.devices, cfg.strategy = 2, "ddp"
    cfg.data.num_workers = 1
    OmegaConf.save(cfg, tmp_path / "recipe.yaml")
    program = Path(__file__).with_name("refresh_two_ranks.py")
    done = torchrun(program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [np.load(tmp_path / f"rank-{rank}.npz") for rank in (0, 1)]
    for name in ("tables", "buffers_restored", "agrees", "points_in"):
        assert np.array_equal(ranks[0][name], ranks[1][name])
    assert ranks[0]["tables"].shape == (3, 48, 3)
    assert ranks[0]["buffers_restored"].all()
    assert ranks[0]["agrees"].all()
    if sys.platform.startswith("linux"):
        assert ranks[0]["points_in"].shape == (3, 2)
        assert ranks[0]["points_in"].all(), "each rank had points of its own"
    assert ranks[1]["buffers_differ"].any(), "the ranks' running statistics never differed: nothing was tested"
