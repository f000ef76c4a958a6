"""Small recipes, and trainings of them with the installed solo-learn, of which every step is recorded."""

from __future__ import annotations

import warnings

import torch
from omegaconf import DictConfig, OmegaConf

PLAIN_CROP = {
    "rrc": {"enabled": False, "crop_min_scale": 1.0, "crop_max_scale": 1.0},
    "color_jitter": {"prob": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "grayscale": {"prob": 0.0},
    "gaussian_blur": {"prob": 0.0},
    "solarization": {"prob": 0.0},
    "equalization": {"prob": 0.0},
    "horizontal_flip": {"prob": 0.0},
    "crop_size": 32,
    "num_crops": 2,
}
METHOD_KWARGS = {
    "all4one": {"pred_hidden_dim": 32, "temperature": 0.2, "queue_size": 16},
    "barlow_twins": {"lamb": 0.0051, "scale_loss": 0.024},
    "byol": {"pred_hidden_dim": 32},
    "deepclusterv2": {"num_prototypes": [4, 4, 4], "temperature": 0.1, "kmeans_iters": 2},
    "dino": {"num_prototypes": 16},
    "mocov2plus": {"temperature": 0.2, "queue_size": 16},
    "mocov3": {"pred_hidden_dim": 32, "temperature": 0.2},
    "nnbyol": {"pred_hidden_dim": 32, "queue_size": 16},
    "nnclr": {"pred_hidden_dim": 32, "temperature": 0.2, "queue_size": 16},
    "nnsiam": {"pred_hidden_dim": 32, "queue_size": 16},
    "ressl": {"temperature_q": 0.1, "temperature_k": 0.04, "queue_size": 16},
    "simclr": {"temperature": 0.2},
    "simsiam": {"pred_hidden_dim": 32},
    "supcon": {"temperature": 0.2},
    "swav": {"num_prototypes": 16, "queue_size": 0, "temperature": 0.1},
    "vibcreg": {"sim_loss_weight": 25.0, "var_loss_weight": 25.0, "cov_loss_weight": 200.0, "iternorm": False},
    "vicreg": {"sim_loss_weight": 25.0, "var_loss_weight": 25.0, "cov_loss_weight": 1.0},
    "wmse": {"whitening_size": 8, "whitening_iters": 1, "whitening_eps": 0.1},
}


def small_recipe(
    train_path: str, method: str = "simclr", *, flip: float = 0.0, crops: int = 2, batch_size: int = 8, **nodes: object
) -> DictConfig:
    """A recipe in the form of solo-learn 1.0.6 for small images and a CPU; ``nodes`` are merged over it."""
    crop = {**PLAIN_CROP, "horizontal_flip": {"prob": flip}, "num_crops": crops}
    small = {"proj_hidden_dim": 32, "proj_output_dim": 8}
    cfg = {
        "name": f"{method}-test",
        "method": method,
        "seed": 7,
        "backbone": {"name": "resnet18", "kwargs": {}},
        "method_kwargs": {**small, **METHOD_KWARGS.get(method, {})},
        "momentum": {"base_tau": 0.99, "final_tau": 1.0},
        "augmentations": [crop],
        "data": {
            "dataset": "custom",
            "train_path": train_path,
            "val_path": None,
            "format": "image_folder",
            "no_labels": False,
            "fraction": -1,
            "num_workers": 0,
        },
        "optimizer": {"name": "sgd", "batch_size": batch_size, "lr": 0.1, "classifier_lr": 0.1, "weight_decay": 1e-4},
        "scheduler": {"name": "warmup_cosine", "warmup_epochs": 1},
        "checkpoint": {"enabled": False, "dir": "trained_models", "frequency": 1, "keep_prev": False},
        "auto_resume": {"enabled": False},
        "wandb": {"enabled": False},
        "knn_eval": {"enabled": False},
        "max_epochs": 2,
        "max_steps": -1,
        "devices": "1",
        "accelerator": "cpu",
        "strategy": "auto",
        "precision": 32,
        "sync_batchnorm": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return OmegaConf.merge(OmegaConf.create(cfg), OmegaConf.create(nodes))  # type: ignore[return-value]


class Record:
    """What a method saw and returned, step by step, and the model that was trained."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]] = []
        self.losses: list[float] = []
        self.classifier_targets: list[torch.Tensor] = []
        self.model: torch.nn.Module | None = None

    def state(self) -> dict[str, torch.Tensor]:
        assert self.model is not None
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def recorded(cfg: DictConfig, *, stock: bool = False) -> Record:
    """Trains a recipe, through `solo_gps.commands.pretrain` or by the host's own functions alone, and records every step."""
    from solo_gps.commands.pretrain import pretrain
    from solo_gps.guide.switch import activate
    from solo_gps.hosts.detect import detect_host

    host, record = detect_host(), Record()
    original = host.methods[cfg.method]

    class Recorded(original):  # type: ignore[misc, valid-type]
        def training_step(self, batch: list, batch_idx: int) -> object:
            items, crops, targets = batch
            record.batches.append((items.clone(), [crop.clone() for crop in crops], targets.clone()))
            out = super().training_step(batch, batch_idx)
            record.losses.append(float(out["loss"] if isinstance(out, dict) else out))
            return out

        def _base_shared_step(self, X: torch.Tensor, targets: torch.Tensor) -> dict:
            if self.training:
                record.classifier_targets.append(targets.clone())
            return super()._base_shared_step(X, targets)

    host.methods[cfg.method] = Recorded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if stock:
                with host.switched_on():
                    record.model = _stock_run(host, cfg)
            else:
                with activate(cfg):
                    record.model = pretrain(cfg).model
    finally:
        host.methods[cfg.method] = original
    return record


def _stock_run(host: object, cfg: DictConfig) -> torch.nn.Module:
    """What main_pretrain.py does, by the host's own functions, with solo-gps nowhere in sight."""
    cfg = host.complete(cfg)
    host.lightning.seed_everything(cfg.seed)
    model = host.build_method(cfg, host.methods[cfg.method])
    val_loader = host.build_val_loader(cfg)
    loader = host.build_train_loader(cfg)
    trainer = host.lightning.Trainer(**{**host.trainer_kwargs(cfg), "callbacks": [], "logger": False})
    trainer.fit(model, loader, val_loader)
    return model
