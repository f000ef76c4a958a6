"""solo-learn 1.0.6's learning-rate schedule and weight-decay groups, on methods of 1.0.2."""

from __future__ import annotations

from functools import partial
from typing import Any


class Schedule:
    """Mixed in before a method of 1.0.2: warm-up and cosine move by step (or by epoch) as in 1.0.6.

    1.0.2 moves its schedule by epoch alone, and applies weight decay to every parameter. Optimizer, scheduler class and learning
    rates are the host's own.

    Attributes:
        scheduler_interval: ``"step"`` or ``"epoch"``.
        exclude_bias_n_norm_wd: Whether one-dimensional parameters go without weight decay.
    """

    scheduler_interval: str = "step"
    exclude_bias_n_norm_wd: bool = False

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer."""
        groups: list[dict[str, Any]] = super().learnable_params  # type: ignore[misc]
        return split_by_weight_decay(groups) if self.exclude_bias_n_norm_wd else groups

    def configure_optimizers(self) -> Any:
        """Builds the host's optimizer and, in place of its schedule by epoch, 1.0.6's."""
        schedule, self.scheduler = self.scheduler, "none"  # type: ignore[has-type]
        try:
            optimizer = super().configure_optimizers()  # type: ignore[misc]
        finally:
            self.scheduler = schedule
        if schedule == "none":
            return optimizer
        if schedule == "step":
            from torch.optim.lr_scheduler import MultiStepLR

            return [optimizer], [MultiStepLR(optimizer, self.lr_decay_steps)]  # type: ignore[attr-defined]
        return [optimizer], [
            {"scheduler": self._warmup_cosine(optimizer), "interval": self.scheduler_interval, "frequency": 1}
        ]

    def _warmup_cosine(self: Any, optimizer: Any) -> Any:
        from solo.methods.base import LinearWarmupCosineAnnealingLR, static_lr

        total, warmup = self.max_epochs, self.warmup_epochs
        if self.scheduler_interval == "step":
            total = self.trainer.estimated_stepping_batches
            warmup = self.warmup_epochs * (total / self.max_epochs)
        scheduler = LinearWarmupCosineAnnealingLR(
            optimizer,
            warmup_epochs=warmup,
            max_epochs=total,
            warmup_start_lr=self.warmup_start_lr if self.warmup_epochs > 0 else self.lr,
            eta_min=self.min_lr,
        )
        fixed = [index for index, group in enumerate(optimizer.param_groups) if group.get("static_lr", False)]
        if fixed:
            scheduler.get_lr = partial(
                static_lr, get_lr=scheduler.get_lr, param_group_indexes=fixed, lrs_to_replace=[self.lr] * len(fixed)
            )
        return scheduler


def split_by_weight_decay(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Splits every parameter group into one with and one without weight decay (parameters of at most one dimension)."""
    split = []
    for group in groups:
        parameters = list(group["params"])
        decayed = [parameter for parameter in parameters if parameter.ndim > 1]
        free = [parameter for parameter in parameters if parameter.ndim <= 1]
        if decayed:
            split.append({**group, "params": decayed})
        if free:
            # Lightning's monitor of learning rates refuses two groups of one name.
            name = {"name": f"{group['name']}_no_decay"} if "name" in group else {}
            split.append({**group, **name, "params": free, "weight_decay": 0})
    return split


def scheduled(cls: type) -> type:
    """Returns a subclass of a method of 1.0.2 with :class:`Schedule` in front, under the method's own name."""
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (Schedule, cls), namespace)
