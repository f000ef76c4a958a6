"""solo-learn 1.0.2: keyword arguments, argparse, ``solo.utils.pretrain_dataloader``; trained by recipes of 1.0.6."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig

from solo_gps.hosts.v102 import data as data102
from solo_gps.hosts.v102 import trainer as trainer102
from solo_gps.hosts.v102.augment import build_transform, parse_pipelines
from solo_gps.hosts.v102.recipe import complete_recipe, method_arguments, optimizer
from solo_gps.hosts.v102.repairs import repairs
from solo_gps.hosts.v102.schedule import scheduled

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

    from solo_gps.interfaces import NamedDataset, StandIn


class Solo102:
    """Adapter of solo-learn 1.0.2 (see :class:`solo_gps.hosts.detect.Host`)."""

    generation: ClassVar[str] = "1.0.2"
    classifier_step: ClassVar[str] = "_base_shared_step"
    backbone_name: ClassVar[str] = "encoder"
    momentum_backbone_name: ClassVar[str] = "momentum_encoder"

    def __init__(self) -> None:
        import pytorch_lightning
        import solo.utils.pretrain_dataloader
        from solo.methods import METHODS

        self.methods: dict[str, type] = METHODS
        self.loader_module: ModuleType = solo.utils.pretrain_dataloader
        self.lightning: ModuleType = pytorch_lightning

    def switched_on(self) -> AbstractContextManager[None]:
        """Repairs that 1.0.2 needs on today's torch and Lightning; training without them fails, or LARS silently does nothing."""
        return repairs()

    def knows(self, name: str, found: NamedDataset, data: Mapping[str, Any]) -> AbstractContextManager[list[StandIn]]:
        """Nothing: 1.0.2 has no program that reads recipes, and this adapter knows named data sets by itself."""
        return nullcontext([])

    def complete(self, cfg: DictConfig) -> DictConfig:
        """Fills in the recipe's derived keys and defaults; returns a new recipe.

        Raises:
            ConfigError: A key, type or value is wrong, missing, or beyond 1.0.2.
            DataError: The training folder is missing or empty.
        """
        completed = complete_recipe(cfg)
        trainer102.check_trainer(completed)
        return completed

    def build_method(self, cfg: DictConfig, cls: type) -> Any:
        """Builds the LightningModule.

        Args:
            cfg: Completed recipe.
            cls: A class of ``methods``, or a subclass of one.
        """
        model = scheduled(cls)(**method_arguments(cfg))
        model.scheduler_interval = cfg.scheduler.interval
        model.exclude_bias_n_norm_wd = cfg.optimizer.exclude_bias_n_norm_wd
        if model.knn_eval:
            model.knn.distance_fx = cfg.knn_eval.distance_func
        if cfg.method == "swav":
            # 1.0.6 keeps the prototypes on the unit sphere, as the paper does (https://arxiv.org/abs/2006.09882).
            model.prototypes.weight_g.data.fill_(1)
            model.prototypes.weight_g.requires_grad = False
        return model

    def build_transform(self, cfg: DictConfig) -> Any:
        """Builds the transform of all crops as 1.0.6 has it."""
        return build_transform(cfg.data.dataset, parse_pipelines(cfg.augmentations), self.loader_module)

    def build_optimizer(self, cfg: DictConfig, network: torch.nn.Module) -> Any:
        """Builds torch's optimizer, which LARS wraps."""
        return optimizer(cfg, network)

    def build_train_set(self, data: Mapping[str, Any], transform: Any) -> Any:
        """Builds the training set through solo-learn's function, and takes ``data.fraction`` of it."""
        return data102.train_set(data, transform, self.loader_module)

    def build_train_loader(self, cfg: DictConfig) -> DataLoader:
        """Builds the training loader through solo-learn's functions (see :func:`solo_gps.hosts.v102.data.train_loader`)."""
        return data102.train_loader(cfg, self.loader_module)

    def build_val_loader(self, cfg: DictConfig) -> DataLoader | None:
        """Builds the validation loader, or ``None`` without a labelled validation set."""
        return data102.val_loader(cfg)

    def trainer_kwargs(self, cfg: DictConfig) -> dict[str, Any]:
        """Keyword arguments of Lightning 1.9's trainer; callbacks and logger left out."""
        return trainer102.trainer_kwargs(cfg)

    def callbacks(self, cfg: DictConfig) -> list[Any]:
        """solo-learn's checkpointer and, beside wandb, the learning-rate monitor, when the recipe enables them."""
        return trainer102.callbacks(cfg)

    def checkpoint_to_resume(self, cfg: DictConfig) -> str | None:
        """The recipe's checkpoint, or the newest one of an equal recipe when ``auto_resume.enabled``."""
        return trainer102.checkpoint_to_resume(cfg)
