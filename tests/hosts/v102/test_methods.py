"""solo-learn 1.0.2 itself trains by recipes in 1.0.6's form: real methods, real images, real Lightning."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits

from solo_gps.errors import ConfigError, DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip(
        "solo.utils.pretrain_dataloader", reason="these tests train solo-learn 1.0.2; another generation is installed"
    )
    import pytorch_lightning as pl

    from solo_gps.hosts.v102.adapter import Solo102
    from solo_gps.hosts.v102.data import stratified

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]

BATCH = 8
NET = {"proj_hidden_dim": 32, "proj_output_dim": 8}
METHODS = {
    "barlow_twins": NET,
    "byol": {**NET, "pred_hidden_dim": 16},
    "deepclusterv2": {**NET, "num_prototypes": [4, 4]},
    "dino": {**NET, "num_prototypes": 16, "clip_grad": 3.0, "freeze_last_layer": 0},
    "mocov2plus": {**NET, "temperature": 0.2, "queue_size": 16},
    "nnbyol": {**NET, "pred_hidden_dim": 16, "queue_size": 16},
    "nnclr": {**NET, "pred_hidden_dim": 16, "temperature": 0.2, "queue_size": 16},
    "nnsiam": {**NET, "pred_hidden_dim": 16, "queue_size": 16},
    "ressl": {**NET, "temperature_q": 0.1, "temperature_k": 0.04, "queue_size": 16},
    "simclr": {**NET, "temperature": 0.2},
    "simsiam": {**NET, "pred_hidden_dim": 16},
    "swav": {**NET, "temperature": 0.1, "queue_size": 16, "num_prototypes": 12, "epoch_queue_starts": 0},
    "vicreg": NET,
    "wmse": {"proj_hidden_dim": 32, "proj_output_dim": 4, "whitening_size": 8},
}
WITH_EMA = ("byol", "dino", "mocov2plus", "nnbyol", "ressl")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Handwritten digits as class folders: train 5 x 5 images, val 5 x 2; flat: the training images without classes."""
    root = tmp_path_factory.mktemp("digits")
    images, targets = load_digits(return_X_y=True)
    for label in range(5):
        for number, row in enumerate(np.flatnonzero(targets == label)[:7]):
            picture = Image.fromarray((images[row].reshape(8, 8) * 15.9).astype(np.uint8)).convert("RGB").resize((32, 32))
            for folder in ("train", "flat") if number < 5 else ("val",):
                path = root / folder / ("" if folder == "flat" else f"digit{label}")
                path.mkdir(parents=True, exist_ok=True)
                picture.save(path / f"{label}_{number}.png")
    return root


@pytest.fixture(scope="module")
def host():
    return Solo102()


def pipeline(**keys):
    crops = {
        "crop_size": 32,
        "num_crops": 2,
        "horizontal_flip": {"prob": 0.5},
        "color_jitter": {"prob": 0.5, "brightness": 0.4},
    }
    return {**crops, **keys}


def recipe(folder: Path, method: str, **changes):
    cfg = OmegaConf.create(
        {
            "method": method,
            "backbone": {"name": "resnet18"},
            "method_kwargs": METHODS[method],
            "data": {"dataset": "custom", "train_path": str(folder / "train"), "num_workers": 0},
            "augmentations": [pipeline()],
            "optimizer": {"name": "sgd", "batch_size": BATCH, "lr": 1.0, "classifier_lr": 0.1, "weight_decay": 1e-4},
            "scheduler": {"name": "warmup_cosine", "warmup_epochs": 0},
            "max_epochs": 1,
            "devices": "1",
            "accelerator": "cpu",
            "strategy": "auto",
            "precision": 32,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    )
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    return cfg


class Recorder(pl.Callback):
    def __init__(self):
        self.losses, self.rates = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def train(host, cfg, method=None):
    pl.seed_everything(0)
    recorder = Recorder()
    with host.switched_on():
        cfg = host.complete(cfg)
        model = host.build_method(cfg, method or host.methods[cfg.method])
        start = {name: value.detach().clone() for name, value in model.state_dict().items()}
        trainer = host.lightning.Trainer(**host.trainer_kwargs(cfg), callbacks=[recorder, *host.callbacks(cfg)], logger=False)
        trainer.fit(model, host.build_train_loader(cfg), host.build_val_loader(cfg), ckpt_path=host.checkpoint_to_resume(cfg))
    return model, start, recorder, trainer


def moved(model, start, prefix):
    return any(not torch.equal(value, start[name]) for name, value in model.named_parameters() if name.startswith(prefix))


def all_finite(model):
    return all(torch.isfinite(value).all() for value in model.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "deepclusterv2"])
def test_every_method_trains_three_steps(host, digits, method):
    model, start, recorder, trainer = train(host, recipe(digits, method))
    assert trainer.global_step == 3
    assert len(recorder.losses) == 3
    assert np.isfinite(recorder.losses).all()
    assert moved(model, start, host.backbone_name)
    assert moved(model, start, "classifier")
    assert all_finite(model)
    if method in WITH_EMA:
        assert moved(model, start, host.momentum_backbone_name)


def test_the_registry_has_no_other_method(host):
    assert set(host.methods) - {"base", "linear"} == set(METHODS)


def test_deepclusterv2_trains_though_its_first_epoch_reports_no_loss(host, digits):
    model, start, recorder, trainer = train(host, recipe(digits, "deepclusterv2", max_epochs=2))
    assert trainer.global_step == 6
    assert np.isnan(recorder.losses[:3]).all()  # upstream: no clusters yet
    assert np.isfinite(recorder.losses[3:]).all()
    assert moved(model, start, host.backbone_name)
    assert all_finite(model)


def test_swav_keeps_its_prototypes_on_the_sphere(host, digits):
    model, *_ = train(host, recipe(digits, "swav", method_kwargs__freeze_prototypes_epochs=0))
    assert model.prototypes.weight_g.flatten().tolist() == [1.0] * 12
    assert torch.allclose(model.prototypes.weight.norm(dim=1), torch.ones(12), atol=1e-6)


def test_lars_with_knn_evaluation_and_momentum_classifier(host, digits):
    kwargs = {"clip_lr": True, "eta": 0.02, "exclude_bias_n_norm": True}
    changes = {"optimizer__name": "lars", "optimizer__kwargs": kwargs, "data__val_path": str(digits / "val")}
    cfg = recipe(digits, "byol", knn_eval__enabled=True, knn_eval__k=3, momentum__classifier=True, **changes)
    model, start, recorder, trainer = train(host, cfg)
    assert np.isfinite(recorder.losses).all()
    assert moved(model, start, "momentum_classifier")
    metrics = trainer.callback_metrics
    # 10 validation images: every accuracy is a multiple of ten.
    for name in ("val_knn_acc1", "val_acc1", "momentum_val_acc1"):
        assert float(metrics[name]) % 10 == pytest.approx(0, abs=1e-4)
        assert 0 <= float(metrics[name]) <= 100
    assert 0 < float(metrics["val_knn_acc5"]) <= 100


def test_cosine_knn_is_honoured(host, digits):
    cfg = recipe(digits, "simclr", knn_eval__enabled=True, data__val_path=str(digits / "val"))
    cfg.knn_eval.distance_func = "cosine"
    with host.switched_on():
        model = host.build_method(host.complete(cfg), host.methods["simclr"])
    assert model.knn.distance_fx == "cosine"


@pytest.mark.parametrize("method", ["byol", "simclr", "wmse"])
def test_multicrop(host, digits, method):
    cfg = recipe(digits, method, augmentations=[pipeline(), pipeline(crop_size=16, num_crops=3)])
    loader = host.build_train_loader(host.complete(cfg))
    _, crops, _ = next(iter(loader))
    assert [tuple(crop.shape) for crop in crops] == [(BATCH, 3, 32, 32)] * 2 + [(BATCH, 3, 16, 16)] * 3
    model, start, recorder, _ = train(host, cfg)
    assert np.isfinite(recorder.losses).all()
    assert moved(model, start, "encoder")


def test_whitening_trains_in_mixed_bfloat16(host, digits):
    model, start, recorder, trainer = train(host, recipe(digits, "wmse", precision="bf16-mixed"))
    assert trainer.precision == "bf16"
    assert np.isfinite(recorder.losses).all()
    assert moved(model, start, "encoder")
    assert all_finite(model)


def test_gradient_accumulation_steps_once_for_two_batches(host, digits):
    model, _, recorder, trainer = train(host, recipe(digits, "simclr", accumulate_grad_batches=2, max_epochs=2))
    assert len(recorder.losses) == 6
    assert trainer.global_step == 4  # two an epoch: batches 1-2, and the third alone
    assert model.lr == pytest.approx(1.0 * BATCH / 256 * 2)


def test_rate_warms_up_and_falls_by_step_as_in_1_0_6(host, digits):
    keys = {"warmup_epochs": 1, "warmup_start_lr": 0.002, "min_lr": 0.001, "name": "warmup_cosine"}
    _, _, recorder, _ = train(host, recipe(digits, "simclr", max_epochs=2, scheduler=keys))
    base = 1.0 * BATCH / 256
    expected = [0.002, (0.002 + base) / 2, base, base]
    expected += [0.001 + (base - 0.001) * (1 + math.cos(math.pi * step / 3)) / 2 for step in (1, 2)]
    assert [rates[0] for rates in recorder.rates] == pytest.approx(expected)


def test_rate_can_move_by_epoch(host, digits):
    keys = {"warmup_epochs": 1, "warmup_start_lr": 0.002, "name": "warmup_cosine", "interval": "epoch"}
    _, _, recorder, _ = train(host, recipe(digits, "simclr", max_epochs=2, scheduler=keys))
    assert [rates[0] for rates in recorder.rates] == pytest.approx([0.002] * 3 + [BATCH / 256] * 3)


def test_rate_of_a_predictor_stays(host, digits):
    _, _, recorder, _ = train(host, recipe(digits, "simsiam", max_epochs=2))
    predictor = [rates[-1] for rates in recorder.rates]
    assert predictor == pytest.approx([BATCH / 256] * 6)
    assert recorder.rates[-1][0] < BATCH / 256 / 2


@pytest.mark.parametrize("changes", [{"max_steps": 2}, {"limit_train_batches": 2}, {"accumulate_grad_batches": 2}])
def test_momentum_coefficient_ends_where_training_ends(host, digits, changes):
    """Two steps of a cosine from 0.9 to 1, as on 1.0.6: 1.0.2 alone would plan for the three batches of the set."""
    seen = []
    cfg = recipe(digits, "byol", momentum__base_tau=0.9, **changes)

    class Byol(host.methods["byol"]):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(self.momentum_updater.cur_tau)

    model, _, _, trainer = train(host, cfg, Byol)
    assert trainer.global_step == 2
    assert seen[0] == 0.9
    assert seen[-1] == pytest.approx(0.95)
    assert model.momentum_updater.cur_tau == pytest.approx(1.0)


def test_decay_by_steps_and_no_schedule(host, digits):
    decay = {"name": "step", "lr_decay_steps": [1]}
    _, _, recorder, _ = train(host, recipe(digits, "simclr", max_epochs=2, scheduler=decay))
    assert [rates[0] for rates in recorder.rates] == pytest.approx([BATCH / 256] * 3 + [BATCH / 2560] * 3)
    _, _, recorder, _ = train(host, recipe(digits, "simclr", scheduler={"name": "none"}))
    assert [rates[0] for rates in recorder.rates] == pytest.approx([BATCH / 256] * 3)


def test_biases_and_norms_can_go_without_weight_decay(host, digits):
    cfg = recipe(digits, "simclr", optimizer__exclude_bias_n_norm_wd=True, scheduler={"name": "none"})
    with host.switched_on():
        cfg = host.complete(cfg)
        optimizer = host.build_method(cfg, host.methods["simclr"]).configure_optimizers()
    for group in optimizer.param_groups:
        dimensions = {parameter.ndim > 1 for parameter in group["params"]}
        assert len(dimensions) == 1
        assert group["weight_decay"] == (1e-4 if dimensions.pop() and group.get("name") != "classifier" else 0)
    names = [group["name"] for group in optimizer.param_groups if "name" in group]
    assert len(names) == len(set(names)) == 4


def test_a_subclass_of_a_method_is_built(host, digits):
    class Wrapped(host.methods["simclr"]):
        pass

    with host.switched_on():
        model = host.build_method(host.complete(recipe(digits, "simclr")), Wrapped)
    assert isinstance(model, Wrapped)
    assert type(model).__name__ == "Wrapped"


def test_pipelines_stand_where_1_0_6_has_them(host, digits):
    cfg = host.complete(recipe(digits, "simclr", augmentations=[pipeline(num_crops=1), pipeline(num_crops=1)]))
    dataset = host.build_train_loader(cfg).dataset
    assert [step.num_crops for step in dataset.transform.transforms] == [1, 1]
    crop = dataset.transform.transforms[1].transform(Image.new("RGB", (40, 40)))
    assert crop.shape == (3, 32, 32)


def test_wrapped_functions_of_the_loader_module_are_seen(host, digits, monkeypatch):
    seen = []

    class Counted(torch.utils.data.DataLoader):
        def __init__(self, *args, **kwargs):
            seen.append("loader")
            super().__init__(*args, **kwargs)

    original = host.loader_module.prepare_datasets
    monkeypatch.setattr(host.loader_module, "DataLoader", Counted)
    monkeypatch.setattr(host.loader_module, "prepare_datasets", lambda *a, **k: seen.append("datasets") or original(*a, **k))
    assert isinstance(host.build_train_loader(host.complete(recipe(digits, "simclr"))), Counted)
    assert seen == ["datasets", "loader"]


def test_fraction_keeps_the_same_share_of_every_class(host, digits):
    cfg = host.complete(recipe(digits, "simclr", data__fraction=0.4))
    dataset = host.build_train_loader(cfg).dataset
    assert len(dataset) == 10
    assert np.bincount([label for _, label in dataset.samples]).tolist() == [2] * 5
    assert dataset.targets == [label for _, label in dataset.samples]
    assert dataset.samples == host.build_train_loader(cfg).dataset.samples


def test_stratified_by_hand():
    kept = stratified(np.array([0, 0, 0, 0, 1, 1, 2]), 0.5)
    assert kept[-2] in (4, 5)
    assert kept[-1] == 6
    assert len(kept) == 4
    assert kept.tolist() == sorted(kept)


def test_images_without_labels(host, digits):
    cfg = recipe(digits, "simclr", data__train_path=str(digits / "flat"), data__no_labels=True, data__fraction=0.4)
    cfg = host.complete(cfg)
    loader = host.build_train_loader(cfg)
    assert len(loader.dataset) == 10
    _, _, targets = next(iter(loader))
    assert targets.tolist() == [-1] * BATCH
    assert host.build_val_loader(cfg) is None


def test_training_without_labels_moves_the_network_though_the_classifier_reports_no_loss(host, digits):
    cfg = recipe(digits, "byol", data__train_path=str(digits / "flat"), data__no_labels=True)
    model, start, recorder, _ = train(host, cfg)
    assert np.isnan(recorder.losses).all()  # upstream, both generations: the mean over no labelled image
    assert moved(model, start, "encoder")
    assert all_finite(model)


def test_validation_images_are_those_of_1_0_6(host, digits):
    cfg = host.complete(recipe(digits, "simclr", data__val_path=str(digits / "val")))
    images, targets = next(iter(host.build_val_loader(cfg)))
    assert images.shape == (BATCH, 3, 224, 224)
    assert targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert host.build_val_loader(host.complete(recipe(digits, "simclr"))) is None


def test_checkpoints_are_written_and_found_again_by_equal_recipes_alone(host, digits, tmp_path):
    keys = {
        "checkpoint__enabled": True,
        "checkpoint__dir": str(tmp_path),
        "auto_resume__enabled": True,
        "max_epochs": 2,
    }
    cfg = recipe(digits, "simclr", limit_train_batches=1, **keys)
    assert host.checkpoint_to_resume(host.complete(cfg)) is None
    train(host, cfg)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert checkpoint.parent.parent == tmp_path / "simclr"
    assert json.loads((checkpoint.parent / "args.json").read_text())["method"] == "simclr"
    assert host.checkpoint_to_resume(host.complete(cfg)) == str(checkpoint)
    guided = OmegaConf.merge(cfg, {"solo_gps": {"keys": "what a guided run writes into its recipe"}})
    assert host.checkpoint_to_resume(host.complete(guided)) is None
    other = OmegaConf.merge(cfg, {"optimizer": {"lr": 2.0}})
    assert host.checkpoint_to_resume(host.complete(other)) is None


def test_training_resumes_from_a_checkpoint(host, digits, tmp_path):
    """simsiam with LARS: its predictor's constant learning rate makes stock checkpoints of it impossible."""
    keys = {"optimizer__name": "lars", "limit_train_batches": 2, "max_epochs": 2}
    whole = recipe(digits, "simsiam", **keys)
    _, _, uninterrupted, _ = train(host, whole)
    saving = {"checkpoint__enabled": True, "checkpoint__dir": str(tmp_path), "checkpoint__keep_prev": True}
    model, *_ = train(host, recipe(digits, "simsiam", **keys, **saving))
    first, last = sorted(tmp_path.rglob("*.ckpt"))
    saved = torch.load(last, weights_only=False)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    _, _, recorder, trainer = train(host, recipe(digits, "simsiam", **keys, resume_from_checkpoint=str(first)))
    assert trainer.global_step == 4
    assert np.array(recorder.rates) == pytest.approx(np.array(uninterrupted.rates[2:]))


def test_checkpoints_that_cannot_be_resumed_are_refused(host, digits, tmp_path):
    cfg = recipe(digits, "simclr", resume_from_checkpoint=str(tmp_path / "gone.ckpt"))
    with pytest.raises(ConfigError, match=r"resume_from_checkpoint.*no such file"):
        host.checkpoint_to_resume(host.complete(cfg))
    (tmp_path / "x.ckpt").touch()
    cfg = recipe(digits, "swav", resume_from_checkpoint=str(tmp_path / "x.ckpt"))
    with pytest.raises(ConfigError, match="cannot resume swav"):
        host.checkpoint_to_resume(host.complete(cfg))


def prepare(host, cfg):
    cfg = host.complete(cfg)
    return host.build_train_loader(cfg), host.build_val_loader(cfg)


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("no such folder", {"data__train_path": "gone"}),
        ("is empty", {"data__train_path": "empty"}),
        ("data.train_path.*class folder 'a' .* holds no image", {"data__train_path": "no_images"}),
        ("'digit0' is a folder", {"data__train_path": "one_class", "data__no_labels": True}),
        ("25 images, but optimizer.batch_size=64: not one whole batch", {"optimizer__batch_size": 64}),
        ("data.val_path.*no such folder", {"data__val_path": "gone"}),
        ("other class folders.*digit1, digit2", {"data__val_path": "one_class"}),
    ],
)
def test_data_errors_come_before_training(host, digits, broken, match, changes):
    changes = {key: str(broken / value) if key.endswith("path") else value for key, value in changes.items()}
    with pytest.raises(DataError, match=match):
        prepare(host, recipe(digits, "simclr", **changes))


@pytest.fixture
def broken(tmp_path, digits):
    for folder in ("empty", "no_images/a", "one_class/digit0"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "no_images" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "one_class" / "digit0" / "x.png").write_bytes((digits / "train" / "digit0" / "0_0.png").read_bytes())
    return tmp_path
