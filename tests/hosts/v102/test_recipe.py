"""Recipes of 1.0.6 completed and translated for 1.0.2; needs no solo-learn."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from solo_gps.errors import ConfigError, DataError, UnknownNameError
from solo_gps.hosts.v102.augment import parse_pipelines, validation_transform
from solo_gps.hosts.v102.methods import METHOD_KWARGS, REQUIRED
from solo_gps.hosts.v102.recipe import complete_recipe, method_arguments
from solo_gps.hosts.v102.schedule import split_by_weight_decay

SIMCLR = {"proj_hidden_dim": 64, "proj_output_dim": 16, "temperature": 0.2}


def recipe(*changes: dict, **top):
    base = {
        "method": "simclr",
        "backbone": {"name": "resnet18"},
        "method_kwargs": SIMCLR,
        "data": {"dataset": "cifar10", "train_path": "./datasets"},
        "augmentations": [{"crop_size": 32, "num_crops": 2}],
        "optimizer": {"name": "sgd", "batch_size": 64, "lr": 0.4, "classifier_lr": 0.1, "weight_decay": 1e-4},
        "scheduler": {"name": "warmup_cosine"},
        "max_epochs": 100,
        "devices": [0],
        "accelerator": "gpu",
    }
    return OmegaConf.merge(base, *changes, top)


def test_a_plain_recipe_becomes_exactly_these_arguments():
    arguments = method_arguments(complete_recipe(recipe()))
    assert arguments == {
        "encoder": "resnet18",
        "backbone_args": {"cifar": True},
        "num_classes": 10,
        "max_epochs": 100,
        "batch_size": 64,
        "optimizer": "sgd",
        "lars": False,
        "lr": 0.1,
        "weight_decay": 1e-4,
        "classifier_lr": 0.1,
        "eta_lars": 1e-3,
        "grad_clip_lars": False,
        "exclude_bias_n_norm": False,
        "accumulate_grad_batches": 1,
        "extra_optimizer_args": {"momentum": 0.9},
        "scheduler": "warmup_cosine",
        "min_lr": 0.0,
        "warmup_start_lr": 3e-5,
        "warmup_epochs": 10.0,
        "lr_decay_steps": None,
        "num_large_crops": 2,
        "num_small_crops": 0,
        "knn_eval": False,
        "knn_k": 20,
        **SIMCLR,
    }


def test_lars_and_momentum_are_translated():
    cfg = recipe(
        {
            "method": "byol",
            "method_kwargs": {"pred_hidden_dim": 8},
            "momentum": {"base_tau": 0.9, "final_tau": 0.99, "classifier": True},
            "optimizer": {"name": "lars", "kwargs": {"eta": 0.02, "clip_lr": True, "exclude_bias_n_norm": True}},
        }
    )
    arguments = method_arguments(complete_recipe(cfg))
    assert arguments["optimizer"] == "sgd"
    assert arguments["lars"] is True
    assert (arguments["eta_lars"], arguments["grad_clip_lars"], arguments["exclude_bias_n_norm"]) == (0.02, True, True)
    assert arguments["extra_optimizer_args"] == {"momentum": 0.9}
    assert (arguments["base_tau_momentum"], arguments["final_tau_momentum"]) == (0.9, 0.99)
    assert arguments["momentum_classifier"] is True


def test_completing_does_not_change_the_users_recipe_and_keeps_foreign_sections():
    cfg = recipe(sampler={"gps": {"k": 5}}, prior={"encoder": "pixels"})
    before = OmegaConf.to_yaml(cfg)
    completed = complete_recipe(cfg)
    assert OmegaConf.to_yaml(cfg) == before
    assert completed.sampler == {"gps": {"k": 5}}
    assert completed.prior == {"encoder": "pixels"}


@pytest.mark.parametrize(
    ("devices", "nodes", "val_path", "lr", "classifier_lr"),
    [
        ([0], 1, None, 0.1, 0.1),
        ([0, 1], 1, "./datasets", 0.2, 0.05),
        ("0,1", 2, "./datasets", 0.4, 0.1),
        (4, 1, None, 0.4, 0.1),
    ],
)
def test_rates_are_scaled_by_all_images_of_a_step(devices, nodes, val_path, lr, classifier_lr):
    cfg = complete_recipe(recipe({"data": {"val_path": val_path}}, devices=devices, num_nodes=nodes))
    assert cfg.optimizer.lr == pytest.approx(lr)
    assert cfg.optimizer.classifier_lr == pytest.approx(classifier_lr)


def test_crops_are_counted_by_the_size_of_the_first_pipeline():
    crops = [{"crop_size": 32, "num_crops": 1}, {"crop_size": 32, "num_crops": 1}, {"crop_size": 18, "num_crops": 6}]
    data = complete_recipe(recipe(augmentations=crops)).data
    assert (data.num_large_crops, data.num_small_crops) == (2, 6)


def test_classes_are_counted(tmp_path):
    for name in ("cat", "dog", "fox"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    cfg = complete_recipe(recipe({"data": {"dataset": "custom", "train_path": str(tmp_path)}}))
    assert cfg.data.num_classes == 3
    assert method_arguments(cfg)["backbone_args"] == {"cifar": False}
    with pytest.raises(DataError, match="no such folder"):
        complete_recipe(recipe({"data": {"dataset": "custom", "train_path": str(tmp_path / "gone")}}))


@pytest.mark.parametrize("method", METHOD_KWARGS)
def test_every_method_has_its_defaults_and_asks_for_the_rest(method):
    needed = [key for key, default in METHOD_KWARGS[method].items() if default is REQUIRED]
    given = dict.fromkeys(needed, 16)
    cfg = recipe({"optimizer": {"batch_size": 256}}, method=method)
    cfg.method_kwargs = given
    arguments = method_arguments(complete_recipe(cfg))
    for key, default in METHOD_KWARGS[method].items():
        assert arguments[key] == (16 if default is REQUIRED else default)
    for key in needed:
        cfg.method_kwargs = {name: value for name, value in given.items() if name != key}
        with pytest.raises(ConfigError, match=f"method_kwargs.{key} is missing"):
            complete_recipe(cfg)


def test_the_word_none_is_none():
    cfg = complete_recipe(recipe({"wandb": {"entity": "None"}, "data": {"val_path": "None"}}, strategy="None"))
    assert cfg.wandb.entity is None
    assert cfg.data.val_path is None
    assert cfg.strategy is None


def test_keys_of_another_method_are_left_out_with_a_warning(caplog):
    cfg = recipe({"method_kwargs": {"base_tau_momentum": 0.99, "queue_size": 3}})
    assert "queue_size" not in method_arguments(complete_recipe(cfg))
    assert "method_kwargs.queue_size is not used by simclr" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "simclrr"}, r"unknown method 'simclrr'.*Did you mean 'simclr'"),
        ({"method": "linear"}, "unknown method 'linear'"),
        ({"method": "mae"}, r"'mae' is not part of solo-learn 1.0.2.*1\.0\.6"),
        ({"method": "supcon"}, r"1\.0\.6"),
        ({"backbone": {"name": "convnext_tiny"}}, r"convnext_tiny.*1\.0\.6"),
        ({"backbone": {"name": "resnet19"}}, "Did you mean 'resnet18'"),
        ({"backbone": {"nam": "resnet18"}}, r"backbone\.nam: no such key.*Did you mean 'name'"),
        ({"data": {"dataset": "cifar"}}, "Did you mean 'cifar"),
        ({"data": {"format": "h5"}}, r"data\.format='h5'.*1\.0\.6"),
        ({"data": {"format": "dali"}}, r"1\.0\.6"),
        ({"data": {"fraction": 1.5}}, r"fraction=1\.5"),
        ({"data": {"num_workers": "many"}}, r"data\.num_workers"),
        ({"optimizer": {"name": "sdg"}}, "Did you mean 'sgd'"),
        ({"optimizer": {"weigth_decay": 1}}, "Did you mean 'weight_decay'"),
        ({"optimizer": {"lr": "high"}}, r"optimizer\.lr"),
        ({"optimizer": {"batch_size": 0}}, "batch_size=0"),
        ({"optimizer": {"kwargs": {"momentun": 0.9}}}, r"optimizer\.kwargs\.momentun.*Did you mean 'momentum'"),
        ({"optimizer": {"kwargs": {"eta": 0.9}}}, r"optimizer\.kwargs\.eta: sgd takes no such key"),
        ({"scheduler": {"name": "cosine"}}, "unknown scheduler"),
        ({"scheduler": {"interval": "batch"}}, "interval='batch'"),
        ({"scheduler": {"name": "step"}}, "lr_decay_steps is missing"),
        ({"momentum": {"base_tau": 1.5}}, r"base_tau"),
        ({"knn_eval": {"enabled": True}}, r"knn_eval.*data\.val_path"),
        ({"knn_eval": {"distance_func": "manhattan"}}, "manhattan"),
        ({"method_kwargs": {"temprature": 1}}, r"method_kwargs\.temprature.*Did you mean 'temperature'"),
        ({"max_epochs": None}, "max_epochs=None"),
        ({"max_epochs": "ten"}, "max_epochs='ten'"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0"),
        ({"auto_umap": {"enabled": True}}, r"auto_umap.*1\.0\.6"),
        ({"devices": "none"}, "devices="),
        ({"augmentations": []}, "augmentations: wanted a list"),
        ({"augmentations": [{"crop_size": 32, "num_crops": 3}]}, "3 large crops"),
        ({"augmentations": [{"crop_size": 32}]}, r"augmentations\[0\].*num_crops"),
        (
            {"augmentations": [{"crop_size": 32, "num_crops": 2, "rcc": {}}]},
            r"augmentations\[0\]\.rcc.*Did you mean 'rrc'",
        ),
        ({"augmentations": [{"crop_size": 32, "num_crops": 2, "grayscale": {"prob": 2}}]}, r"grayscale.*prob=2"),
        ({"augmentations": [{"crop_size": 32, "num_crops": 2, "mean": [0.5]}]}, "3 channels"),
    ],
)
def test_one_clear_error(change, message):
    with pytest.raises(ConfigError, match=message):
        complete_recipe(recipe(change))


def test_an_absent_section_names_its_missing_key():
    cfg = recipe()
    del cfg.optimizer
    with pytest.raises(ConfigError, match=r"optimizer.*missing"):
        complete_recipe(cfg)


def test_misspelt_method_is_an_unknown_name():
    with pytest.raises(UnknownNameError):
        complete_recipe(recipe(method="bylo"))


@pytest.mark.parametrize(
    ("method", "kwargs", "message"),
    [
        (
            "nnclr",
            {"pred_hidden_dim": 8, "queue_size": 100},
            "queue_size=100 must be a multiple of batch x devices = 128",
        ),
        ("wmse", {"whitening_size": 48}, "whitening_size=48 must divide optimizer.batch_size=64"),
        ("dino", {"num_prototypes": 8, "warmup_teacher_temperature_epochs": 200}, "more than max_epochs=100"),
    ],
)
def test_sizes_that_would_fail_in_training(method, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        complete_recipe(recipe({"method_kwargs": kwargs}, method=method, devices=[0, 1]))


@pytest.mark.parametrize("method", ["swav", "vicreg", "dino"])
def test_multicrop_beyond_1_0_2(method):
    needed = {key: 16 for key, default in METHOD_KWARGS[method].items() if default is REQUIRED}
    crops = [{"crop_size": 32, "num_crops": 2}, {"crop_size": 18, "num_crops": 6}]
    with pytest.raises(ConfigError, match=r"6 small crops.*1\.0\.6"):
        complete_recipe(recipe({"method_kwargs": needed}, method=method, augmentations=crops))


def test_only_wmse_takes_more_large_crops():
    four = [{"crop_size": 32, "num_crops": 4}]
    cfg = recipe({"method_kwargs": {"whitening_size": 64}}, method="wmse", augmentations=four)
    assert complete_recipe(cfg).data.num_large_crops == 4


class TestAugmentations:
    def steps(self, host, dataset="custom", **keys):
        from solo_gps.hosts.v102.augment import build_transform

        node = OmegaConf.create([{"crop_size": 8, "num_crops": 2, **keys}])
        built = build_transform(dataset, parse_pipelines(node), host)
        assert built.transforms[0].num_crops == 2
        return built.transforms[0].transform

    @pytest.fixture
    def host(self):
        return pytest.importorskip(
            "solo.utils.pretrain_dataloader", reason="crop pipelines are solo-learn 1.0.2's; another is installed"
        )

    def names(self, transform):
        return [type(step).__name__ for step in transform.transforms]

    def test_plain_pipeline_is_crop_tensor_normalise(self, host):
        assert self.names(self.steps(host)) == ["RandomResizedCrop", "ToTensor", "Normalize"]

    def test_order_is_that_of_1_0_6(self, host):
        on = {"prob": 0.5}
        groups = ("horizontal_flip", "equalization", "solarization", "gaussian_blur", "grayscale", "color_jitter")
        names = self.names(self.steps(host, **dict.fromkeys(groups, on)))
        assert names == [
            *("RandomResizedCrop", "RandomApply", "RandomGrayscale", "RandomApply", "RandomSolarize", "RandomEqualize"),
            *("RandomHorizontalFlip", "ToTensor", "Normalize"),
        ]

    def test_flip_alone_by_hand(self, host):
        """Weak augmentation: a 8 x 8 image, resized to itself and always mirrored."""
        image = Image.new("RGB", (8, 8))
        image.putpixel((0, 3), (255, 255, 255))
        keys = {"rrc": {"enabled": False}, "horizontal_flip": {"prob": 1.0}, "mean": [0, 0, 0], "std": [0.5, 0.5, 0.5]}
        crop = self.steps(host, **keys)(image)
        assert crop.shape == (3, 8, 8)
        assert crop[:, 3, 7].tolist() == [2.0, 2.0, 2.0]
        assert crop.sum() == 6

    def test_without_crop_the_shorter_side_is_resized(self, host):
        assert self.steps(host, rrc={"enabled": False})(Image.new("RGB", (20, 40))).shape == (3, 16, 8)

    def test_solarize_and_equalize_by_hand(self, host):
        image = Image.new("RGB", (8, 8), (200, 100, 50))
        keys = {"rrc": {"enabled": False}, "mean": [0, 0, 0], "std": [1, 1, 1]}
        solarized = self.steps(host, **keys, solarization={"prob": 1.0})(image)
        assert (solarized[:, 0, 0] * 255).round().tolist() == [55, 100, 50]
        halves = Image.new("RGB", (32, 32), (200, 200, 200))
        halves.paste((100, 100, 100), (0, 0, 16, 32))
        equalized = self.steps(host, **keys, crop_size=32, equalization={"prob": 1.0})(halves)
        assert equalized[0, 0].tolist() == [0.0] * 16 + [1.0] * 16

    def test_channels_of_known_sets_win_over_the_recipe(self, host):
        normalise = self.steps(host, dataset="cifar100", mean=[0, 0, 0]).transforms[-1]
        assert normalise.mean == (0.5071, 0.4865, 0.4409)
        assert normalise.std == (0.2673, 0.2564, 0.2762)
        assert self.steps(host).transforms[-1].std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("dataset", "side"), [("cifar10", 48), ("stl10", 96), ("imagenet", 224), ("custom", 224)])
def test_validation_images(dataset, side):
    assert validation_transform(dataset)(Image.new("RGB", (48, 48))).shape == (3, side, side)


def test_groups_are_split_by_weight_decay():
    layer = torch.nn.Linear(2, 3)
    groups = [{"name": "net", "params": layer.parameters(), "lr": 1}, {"params": [layer.bias], "weight_decay": 0.1}]
    split = split_by_weight_decay(groups)
    assert [(group.get("name"), len(group["params"]), group.get("weight_decay")) for group in split] == [
        ("net", 1, None),
        ("net_no_decay", 1, 0),
        (None, 1, 0),
    ]
