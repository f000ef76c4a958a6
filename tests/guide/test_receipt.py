"""The receipt says what the network was shown; the record stands wherever the host keeps its recipe."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.datasets import ImageFolder

import solo_gps
from solo_gps import __version__
from solo_gps.errors import HostError
from solo_gps.guide.check import read_recipe
from solo_gps.guide.record import run_suffix
from solo_gps.hosts.detect import detect_host

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]  # the hosts warn of today's libraries
HOST = detect_host()
PIXELS = {"name": "pixels", "image_size": 8}


@pytest.fixture
def kept(recipe, tmp_path):
    """A maker of recipes whose runs leave a checkpoint in `trained`."""

    def make(method="simclr", **nodes):
        checkpoint = {"enabled": True, "dir": str(tmp_path / "trained"), "frequency": 1, "keep_prev": True}
        return recipe(method, checkpoint=checkpoint, **{"prior": PIXELS, **nodes})

    return make


def receipts(folder):
    return [json.loads(file.read_text()) for file in sorted(folder.rglob("solo_gps_receipt.json"))]


def by_hand(batches, drawn, labels):
    """Items, share guided and purity of positives, from what the network was given and the pairs that were announced."""
    steps_per_epoch = len(batches) // len(drawn)
    anchors = [batch[0].numpy() for batch in batches]
    positives = [np.array(drawn[step // steps_per_epoch])[items] for step, items in enumerate(anchors)]
    anchors, positives = np.concatenate(anchors), np.concatenate(positives)
    guided = anchors != positives
    return len(anchors), guided.mean(), (labels[anchors] == labels[positives])[guided].mean()


def test_the_receipt_counts_what_the_network_was_shown(kept, train, drawn, digits, tmp_path):
    run = train(kept(sampler={"gps": {"radius": 4.0, "choose": "uniform", "min_share": 0}}, max_epochs=3))
    items, share, purity = by_hand(run.batches, drawn, np.array(ImageFolder(digits / "train").targets))
    assert 0.1 < share < 0.95, "some balls are empty, or the test says nothing"
    (receipt,) = receipts(tmp_path / "trained")
    assert receipt["items_seen"] == items == 3 * 48
    assert receipt["share_guided"] == pytest.approx(share)
    assert receipt["purity_of_positives_used"] == pytest.approx(purity)
    assert receipt["steps"] == 18
    assert receipt["ended"] == "finished"
    assert receipt["solo_learn"] == HOST.generation
    assert receipt["prior"] == {**receipt["prior"], **PIXELS, "space": "euclidean"}
    assert 0 < receipt["purity_of_all_neighbours"]["gps"] <= 1


def test_a_resumed_runs_receipt_counts_both_parts(kept, train, tmp_path):
    train(kept(sampler={"gps": {"k": 3}}, max_epochs=3))
    (whole,) = receipts(tmp_path / "trained")
    (first, *_), last = sorted((tmp_path / "trained").rglob("*.ckpt")), tmp_path / "again"
    cfg = kept(sampler={"gps": {"k": 3}}, max_epochs=3, resume_from_checkpoint=str(first))
    cfg.checkpoint.dir = str(last)
    train(cfg)
    (resumed,) = receipts(last)
    assert {**resumed, "run": None} == {**whole, "run": None}


@pytest.mark.parametrize(
    ("before", "seed"), [({}, 7), ({"gps": {"k": 5}}, 7), ({"gps": {"k": 3}}, 8)], ids=["plain", "another k", "another seed"]
)
def test_a_run_resumed_from_another_kind_speaks_of_its_own_part_alone(before, seed, kept, train, tmp_path, caplog):
    train(kept(sampler=before, max_epochs=3, seed=seed))
    checkpoint, *_ = sorted((tmp_path / "trained").rglob("*.ckpt"))
    cfg = kept(sampler={"gps": {"k": 3}}, max_epochs=3, resume_from_checkpoint=str(checkpoint))
    cfg.checkpoint.dir = str(tmp_path / "again")
    with caplog.at_level("WARNING", "solo_gps"):
        train(cfg)
    said = "guided by other samplers" if before else "plain"
    assert any(f"a checkpoint whose 6 steps were {said}" in line for line in caplog.messages)
    (receipt,) = receipts(tmp_path / "again")
    assert (receipt["items_seen"], receipt["steps"], receipt["steps_before"]) == (96, 12, 6)
    second = sorted((tmp_path / "again").rglob("*.ckpt"))[0]
    cfg = kept(sampler={"gps": {"k": 3}}, max_epochs=3, resume_from_checkpoint=str(second))
    cfg.checkpoint.dir = str(tmp_path / "once more")
    train(cfg)
    (again,) = receipts(tmp_path / "once more")
    assert {**again, "run": None} == {**receipt, "run": None}, "resumed once more, from its own part"


def test_a_refreshed_runs_receipt_names_the_table_that_it_speaks_of(kept, train, tmp_path, caplog):
    with caplog.at_level("INFO", "solo_gps"):
        train(kept(sampler={"gps": {"k": 3}}, refresh={"every": 1}, max_epochs=2))
    (receipt,) = receipts(tmp_path / "trained")
    checkpoint = torch.load(next((tmp_path / "trained").rglob("*.ckpt")), weights_only=True)["solo_gps"]
    assert receipt["refreshed_epoch"] == 1
    assert receipt["tables"]["gps"] != checkpoint["record"]["tables"]["gps"], "the prior's table was another"
    assert any("found in the network's own features before epoch 1" in line for line in caplog.messages)


def test_a_second_training_of_a_program_has_a_receipt_of_its_own(recipe, tmp_path):
    cfg = recipe(sampler={"gps": {"k": 3}}, prior=PIXELS, max_epochs=1)
    with solo_gps.activate(cfg) as activation:
        cfg = HOST.complete(cfg)
        loader = HOST.build_train_loader(cfg)
        for _ in range(2):
            model = HOST.build_method(cfg, HOST.methods["simclr"])
            HOST.lightning.Trainer(**{**HOST.trainer_kwargs(cfg), "callbacks": [], "logger": False}).fit(model, loader)
            assert activation.receipt.counts["items"] == 48


def test_the_record_stands_wherever_the_host_keeps_its_recipe(kept, train, own_cache, tmp_path):
    run = train(kept(sampler={"gps": {"k": 3}}, prior=None))
    (arguments,) = (json.loads(file.read_text()) for file in (tmp_path / "trained").rglob("args.json"))
    (cache,) = (folder.name for folder in own_cache.iterdir() if len(folder.name) == 32)
    assert arguments["name"] == "simclr-test-gps_k=3"
    assert arguments["prior"]["name"] == "patches", "the default prior, by name"
    assert arguments["prior"]["centroids"] == 128, "and with its defaults"
    assert arguments["sampler"]["gps"]["choose"] == "furthest"
    assert arguments["solo_gps"]["embeddings"] == cache
    assert arguments["solo_gps"]["version"] == __version__
    assert len(arguments["solo_gps"]["tables"]["gps"]) == 64
    checkpoint = torch.load(next((tmp_path / "trained").rglob("*.ckpt")), weights_only=True)
    for record in (checkpoint["solo_gps"]["record"], checkpoint["hyper_parameters"]["solo_gps"], run.model.hparams["solo_gps"]):
        assert record["prior"] == arguments["prior"]
        assert record["embeddings"] == cache
    (hparams,) = (tmp_path / "trained").rglob("hparams.yaml")
    assert OmegaConf.load(hparams).solo_gps.embeddings == cache, "and the loggers have it"


def test_a_plain_run_leaves_no_word_of_ours(kept, train, tmp_path):
    train(kept(sampler={}))
    assert receipts(tmp_path / "trained") == []
    (arguments,) = (json.loads(file.read_text()) for file in (tmp_path / "trained").rglob("args.json"))
    assert arguments["name"] == "simclr-test"
    assert "solo_gps" not in arguments
    checkpoint = torch.load(next((tmp_path / "trained").rglob("*.ckpt")), weights_only=True)
    assert "solo_gps" not in checkpoint


ANOTHER_RUN = (
    {"seed": 8},
    {"method_kwargs": {"temperature": 0.5}},
    {"optimizer": {"classifier_lr": 0.7}},
    {"scheduler": {"name": "step", "lr_decay_steps": [1]}},
    {"data": {"fraction": 0.9}},
)
"""All that solo-learn's own AutoResumer takes for the same run."""
AUTO_RESUME = {"enabled": True, "max_hours": 1}


def resumed_by(cfg):
    """The checkpoint that a run of this recipe would go on from."""
    with solo_gps.activate(cfg) as activation:
        cfg = HOST.complete(cfg)
        activation.record_in(cfg)
        HOST.build_method(cfg, HOST.methods[cfg.method])
        HOST.build_train_loader(cfg)
        return HOST.checkpoint_to_resume(cfg)


def test_a_baseline_resumes_itself_and_no_other_seed_or_temperature(kept, train):
    train(kept(sampler={}, max_epochs=2))

    def found(**changed):
        return resumed_by(kept(sampler={}, max_epochs=2, auto_resume=AUTO_RESUME, **changed))

    assert found() is not None
    for other in ANOTHER_RUN:
        assert found(**other) is None, other


def test_a_finished_run_says_so_and_what_it_says_to_do_trains_on(kept, train, tmp_path, caplog):
    def run(**nodes):
        cfg = kept(sampler={"gps": {"k": 3}}, auto_resume=AUTO_RESUME, **nodes)
        cfg.checkpoint.keep_prev = False  # of several checkpoints 1.0.6 takes any
        return cfg

    steps = len(train(run(max_epochs=2)).losses)
    (checkpoint,) = (tmp_path / "trained").rglob("*.ckpt")
    with caplog.at_level("INFO", "solo_gps"):
        assert train(run(max_epochs=2)).losses == []
    assert "this run had finished" in caplog.text
    assert resumed_by(run(max_epochs=3)) is None, "other epochs are another run for solo-learn"
    assert len(train(run(max_epochs=3, resume_from_checkpoint=str(checkpoint))).losses) == steps // 2


def test_what_is_resumed_is_a_run_on_the_same_embeddings(kept, train, tmp_path):
    """The same recipe to the letter, and another array under the same name: another run."""
    file = tmp_path / "rows.npy"
    nodes = {"sampler": {"gps": {"k": 3}}, "prior": {"name": "array", "path": str(file)}, "max_epochs": 1}
    rows = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)
    np.save(file, rows)
    train(kept(**nodes))

    def found(**changed):
        return resumed_by(kept(**{**nodes, **changed}, auto_resume=AUTO_RESUME))

    assert found() is not None
    for harmless in ({"sampler": {"gps": {"k": 3, "on_bad_image": "skip", "min_share": 0.1}}}, {"images": {"store": "memory"}}):
        assert found(**harmless) is not None
    others = [{"sampler": {"gps": keys}} for keys in ({"k": 4}, {"k": 3, "choose": "uniform"}, {"k": 3, "mutual": True})]
    for other in (*others, {"images": {"scale": "own"}}, *ANOTHER_RUN[:-1]):
        assert found(**other) is None, other
    np.save(file, rows[::-1])
    assert found() is None


@pytest.mark.skipif(HOST.generation == "1.0.2", reason="on 1.0.2 pNN acts on the methods that find neighbours by themselves")
def test_pnn_alone_counts_items_and_brings_its_own_measures(kept, train, tmp_path):
    train(kept(sampler={"pnn": {"queue_size": 16}}, max_epochs=2))
    (receipt,) = receipts(tmp_path / "trained")
    assert receipt["items_seen"] == 96
    assert receipt["share_guided"] is None, "the dataset is plain"
    assert receipt["prior"] is None
    assert 0.5 < receipt["measures"]["pnn"]["found"] < 1, "the first step finds none"


def test_a_plain_method_is_refused_by_fit(recipe):
    cfg = recipe(sampler={"gps": {"k": 3}}, prior=PIXELS)
    plain = HOST.methods["simclr"]
    with solo_gps.activate(cfg):
        cfg = HOST.complete(cfg)
        model, loader = HOST.build_method(cfg, plain), HOST.build_train_loader(cfg)
        trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(cfg), "callbacks": [], "logger": False})
        with pytest.raises(HostError, match=r"a plain .* was about to be trained"):
            trainer.fit(model, loader)


NAMES = [
    ({"gps": {}}, None, None, "-gps"),
    ({"gps": {"k": 10}}, {"name": "patches"}, None, "-gps"),
    ({"gps": {"k": 20, "choose": "uniform"}}, None, None, "-gps_k=20_choose=uniform"),
    ({"gps": {"radius": 0.25}}, {"name": "pixels"}, None, "-gps_radius=0.25-pixels"),
    ({"gps": {}}, {"name": "pixels", "batch_size": 3, "num_workers": 1, "cache_dir": "/x"}, None, "-gps-pixels"),
    ({"gps": {}}, {"name": "patches", "space": "euclidean"}, None, "-gps-patches_space=euclidean"),
    ({"gps": {}, "pnn": {"alpha": 0.1}}, None, None, "-gps+pnn_alpha=0.1"),
    ({"gps": {}}, {"name": "timm", "model": "vit_tiny_patch16_224"}, None, "-gps-timm_model=vit_tiny_patch16_224"),
    ({"gps": {}}, None, {"every": 1}, "-gps-refresh_every=1"),
    ({"gps": {}}, None, {"of": "projections", "every": 1}, "-gps-refresh_of=projections_every=1"),
]


@pytest.mark.parametrize(("samplers", "prior", "refresh", "suffix"), NAMES)
def test_the_runs_name_tells_what_is_not_the_default(samplers, prior, refresh, suffix, recipe):
    method = "nnclr" if "pnn" in samplers else "simclr"
    assert run_suffix(read_recipe(recipe(method, sampler=samplers, prior=prior, refresh=refresh))) == suffix


def test_names_that_had_to_be_cut_still_differ(recipe):
    paths = ["/a/model.ckpt", "/b/model.ckpt", "/a/{x}.ckpt", "/a/" + 200 * "y" + ".ckpt"]
    names = [
        run_suffix(
            read_recipe(recipe(sampler={"gps": {}}, prior={"name": "checkpoint", "path": path, "architecture": "resnet18"}))
        )
        for path in paths
    ]
    assert len(set(names)) == len(paths)
    assert all("model.ckpt" in name for name in names[:2])
    for name in names:
        assert len(name) < 120
        assert not set("{}/ ") & set(name)
