"""solo-learn 1.0.6: Hydra recipes, one config object, `solo.data.pretrain_dataloader`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

from omegaconf import DictConfig, OmegaConf

from solo_gps.errors import ConfigError, DataError, UnknownNameError, first_line
from solo_gps.hosts.data_folder import check_batch, reads_by_dali
from solo_gps.hosts.devices import device_count
from solo_gps.hosts.named import class_count, held_out_loader, named_dataset, train_set
from solo_gps.hosts.schema import RESUMED_WITH

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

    from solo_gps.interfaces import NamedDataset, StandIn


class Solo106:
    """Adapter of solo-learn 1.0.6 (see :class:`solo_gps.hosts.detect.Host`)."""

    generation: ClassVar[str] = "1.0.6"
    backbone_name: ClassVar[str] = "backbone"
    classifier_step: ClassVar[str] = "base_training_step"

    def __init__(self) -> None:
        import lightning.pytorch
        import solo.data.pretrain_dataloader
        from solo.methods import METHODS

        self.methods: dict[str, type] = METHODS
        self.loader_module: ModuleType = solo.data.pretrain_dataloader
        self.lightning: ModuleType = lightning.pytorch

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Makes AutoResumer compare all that trains, sampler and embeddings too, so that a run resumes no other's checkpoint."""
        from solo.utils.auto_resumer import AutoResumer

        with patch.object(AutoResumer, "SHOULD_MATCH", [*AutoResumer.SHOULD_MATCH, *RESUMED_WITH]):
            yield

    @contextmanager
    def knows(self, name: str, found: NamedDataset, data: Mapping[str, Any]) -> Iterator[list[StandIn]]:
        """Makes the recipe's check, and what builds its two data sets, know a named one."""
        from solo.args import pretrain as arguments
        from solo.data import classification_dataloader as classification

        stand_ins = [
            (self.loader_module.prepare_datasets, self._prepare_datasets(self.loader_module.prepare_datasets)),
            (classification.prepare_data, _prepare_data(classification.prepare_data)),
        ]
        with (
            patch.object(arguments, "_SUPPORTED_DATASETS", [*arguments._SUPPORTED_DATASETS, name]),
            patch.dict(arguments._N_CLASSES_PER_DATASET, {name: class_count(found, data["train_path"])}),
            patch.object(self.loader_module, "prepare_datasets", stand_ins[0][1]),
            patch.object(classification, "prepare_data", stand_ins[1][1]),
        ):
            yield stand_ins

    def _prepare_datasets(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(stock)
        def prepare_datasets(dataset: str, transform: Any, *args: Any, **kwargs: Any) -> Any:
            if named_dataset(dataset) is None:
                return stock(dataset, transform, *args, **kwargs)
            asked = inspect.signature(stock).bind(dataset, transform, *args, **kwargs).arguments
            data = {"dataset": dataset, "train_path": asked["train_data_path"], "fraction": asked.get("data_fraction", -1)}
            return train_set(data, transform, self.loader_module.dataset_with_index, _share)

        return prepare_datasets

    def complete(self, cfg: DictConfig) -> DictConfig:
        """Fills in the recipe's derived keys and defaults, by solo-learn's own function."""
        from solo.args.pretrain import parse_cfg

        OmegaConf.set_struct(cfg, False)
        if cfg.data.get("num_workers") is None:
            raise ConfigError("data.num_workers is missing, and solo-learn has no default for it. Set for example 4.")
        backbone, known = OmegaConf.select(cfg, "backbone.name"), self.methods["base"]._BACKBONES  # type: ignore[attr-defined]
        if backbone not in known:
            raise UnknownNameError("backbone (backbone.name)", backbone, known)
        devices, accelerator = cfg.get("devices", 1), cfg.get("accelerator")
        count = device_count(devices, accelerator)
        cfg.devices = list(range(count))  # solo-learn takes len() of it for the learning rate
        cfg = parse_cfg(cfg)
        cfg.devices = count if accelerator == "cpu" else devices
        return cfg

    def build_method(self, cfg: DictConfig, cls: type) -> Any:
        """Builds the LightningModule."""
        import torch
        from solo.utils.misc import make_contiguous

        model = cls(cfg)
        make_contiguous(model)
        if not cfg.performance.disable_channel_last:
            model = model.to(memory_format=torch.channels_last)
        return model

    def build_transform(self, cfg: DictConfig) -> Any:
        """Builds the transform of all crops through solo-learn's functions."""
        module = self.loader_module
        pipelines = [module.build_transform_pipeline(cfg.data.dataset, crops) for crops in cfg.augmentations]
        return module.prepare_n_crop_transform(pipelines, [crops.num_crops for crops in cfg.augmentations])

    def build_optimizer(self, cfg: DictConfig, network: torch.nn.Module) -> Any:
        """Builds solo-learn's optimizer of that name."""
        keys, kinds = cfg.optimizer, self.methods["base"]._OPTIMIZERS  # type: ignore[attr-defined]
        return kinds[keys.name](network.parameters(), lr=keys.lr, weight_decay=keys.weight_decay, **keys.kwargs)

    def build_train_set(self, data: Mapping[str, Any], transform: Any) -> Any:
        """Builds the training set through solo-learn's function."""
        if named_dataset(data["dataset"]) is not None:
            return train_set(data, transform, self.loader_module.dataset_with_index, _share)
        return self.loader_module.prepare_datasets(
            data["dataset"],
            transform,
            train_data_path=data["train_path"],
            data_format=data["format"],
            no_labels=data["no_labels"],
            data_fraction=data["fraction"],
        )

    def build_train_loader(self, cfg: DictConfig) -> DataLoader:
        """Builds the training loader through solo-learn's functions."""
        dataset = self.build_train_set(cfg.data, self.build_transform(cfg))
        check_batch(cfg, len(dataset), cfg.optimizer.batch_size)
        return self.loader_module.prepare_dataloader(
            dataset, batch_size=cfg.optimizer.batch_size, num_workers=cfg.data.num_workers
        )

    def build_val_loader(self, cfg: DictConfig) -> DataLoader | None:
        """Builds the validation loader, or ``None`` without a labelled validation set."""
        from solo.data.classification_dataloader import prepare_data

        if named_dataset(cfg.data.dataset) is not None:
            return held_out_loader(cfg.data, cfg.optimizer.batch_size, cfg.data.num_workers)
        no_path = cfg.data.val_path is None and cfg.data.dataset in ("custom", "imagenet", "imagenet100")
        if no_path or (cfg.data.dataset == "custom" and cfg.data.no_labels):
            return None
        _, loader = prepare_data(
            cfg.data.dataset,
            train_data_path=cfg.data.train_path,
            val_data_path=cfg.data.val_path,
            data_format="image_folder" if reads_by_dali(cfg) else cfg.data.format,
            batch_size=cfg.optimizer.batch_size,
            num_workers=cfg.data.num_workers,
        )
        return loader

    def trainer_kwargs(self, cfg: DictConfig) -> dict[str, Any]:
        """Keyword arguments of the Lightning trainer: the recipe's keys that it knows."""
        values: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
        known = inspect.signature(self.lightning.Trainer.__init__).parameters
        kwargs = {name: values[name] for name in known if name in values}
        strategy = cfg.strategy or "auto"
        if strategy == "ddp":
            from lightning.pytorch.strategies import DDPStrategy

            strategy = DDPStrategy(find_unused_parameters=False)
        return {**kwargs, "strategy": strategy, "enable_checkpointing": False}

    def callbacks(self, cfg: DictConfig) -> list[Any]:
        """solo-learn's checkpointer, when the recipe enables it."""
        if not cfg.checkpoint.enabled:
            return []
        from solo.utils.checkpointer import Checkpointer

        return [
            Checkpointer(
                cfg,
                logdir=os.path.join(cfg.checkpoint.dir, cfg.method),
                frequency=cfg.checkpoint.frequency,
                keep_prev=cfg.checkpoint.keep_prev,
            )
        ]

    def checkpoint_to_resume(self, cfg: DictConfig) -> Any:
        """The recipe's checkpoint, or what solo-learn's AutoResumer finds when the recipe enables it."""
        if cfg.resume_from_checkpoint is not None or not cfg.auto_resume.enabled:
            return cfg.resume_from_checkpoint
        from solo.utils.auto_resumer import AutoResumer

        resumer = AutoResumer(checkpoint_dir=os.path.join(cfg.checkpoint.dir, cfg.method), max_hours=cfg.auto_resume.max_hours)
        return resumer.find_checkpoint(cfg)[0]


def _prepare_data(stock: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(stock)
    def prepare_data(dataset: str, *args: Any, **kwargs: Any) -> Any:
        if named_dataset(dataset) is None:
            return stock(dataset, *args, **kwargs)
        bound = inspect.signature(stock).bind(dataset, *args, **kwargs)
        bound.apply_defaults()
        asked = bound.arguments
        data = {"dataset": dataset, "val_path": asked["val_data_path"]}
        return None, held_out_loader(data, asked["batch_size"], asked["num_workers"])

    return prepare_data


def _share(dataset: Any, fraction: float) -> None:
    """Keeps a share of the images as solo-learn 1.0.6 does of image files."""
    from sklearn.model_selection import train_test_split

    labels = [label for _, label in dataset.samples]
    try:
        dataset.samples, _ = train_test_split(dataset.samples, train_size=fraction, stratify=labels, random_state=42)
    except ValueError as error:
        raise DataError(f"data.fraction={fraction}: {first_line(error).rstrip('.')}. Raise it, or leave it out.") from error
