"""solo-learn 1.0.6's schedules and weight-decay groups, on methods of 1.0.2."""

from __future__ import annotations

from typing import Any, ClassVar
from unittest.mock import patch


class Schedule:
    """Mixed in before a method of 1.0.2: warm-up and cosine move by step (or by epoch) as in 1.0.6.

    1.0.2 moves its schedule by epoch alone, applies weight decay to every parameter, and plans the momentum coefficient for the
    whole training set even where ``max_steps`` or ``limit_train_batches`` train on less. Optimizer, scheduler class and learning
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
        schedule = self.scheduler  # type: ignore[attr-defined]
        with patch.object(self, "scheduler", "none"):
            optimizer = super().configure_optimizers()  # type: ignore[misc]
        if schedule == "none":
            return optimizer
        if schedule == "step":
            from torch.optim.lr_scheduler import MultiStepLR

            return [optimizer], [MultiStepLR(optimizer, self.lr_decay_steps)]  # type: ignore[attr-defined]
        return [optimizer], [{"scheduler": self._warmup_cosine(optimizer), "interval": self.scheduler_interval, "frequency": 1}]

    def on_train_batch_end(self: Any, outputs: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        """Moves the momentum coefficient along 1.0.6's cosine, over the optimizer steps that the trainer will take."""
        before = getattr(self, "last_step", 0)
        super().on_train_batch_end(outputs, batch, batch_idx, *args)  # type: ignore[misc]
        steps = self.trainer.global_step
        if hasattr(self, "momentum_updater") and steps > before:
            self.momentum_updater.update_tau(cur_step=steps, max_steps=self.trainer.estimated_stepping_batches)

    def _warmup_cosine(self: Any, optimizer: Any) -> Any:
        total, warmup = self.max_epochs, self.warmup_epochs
        if self.scheduler_interval == "step":
            total = self.trainer.estimated_stepping_batches
            warmup = self.warmup_epochs * (total / self.max_epochs)
        scheduler = _scheduler_class()(
            optimizer,
            warmup_epochs=warmup,
            max_epochs=total,
            warmup_start_lr=self.warmup_start_lr if self.warmup_epochs > 0 else self.lr,
            eta_min=self.min_lr,
        )
        # After the constructor, which sets the rate of the first step, as in 1.0.6: only later steps keep these groups apart.
        scheduler.constant = {
            index: self.lr for index, group in enumerate(optimizer.param_groups) if group.get("static_lr", False)
        }
        return scheduler


def _scheduler_class() -> Any:
    from solo.methods.base import LinearWarmupCosineAnnealingLR

    class WarmupCosine(LinearWarmupCosineAnnealingLR):
        """The host's schedule, with parameter groups whose learning rate stays constant.

        solo-learn itself replaces ``get_lr`` of the object, and so puts scheduler and optimizer into every checkpoint as pickled
        objects: with LARS none can be written.
        """

        constant: ClassVar[dict[int, float]] = {}

        def get_lr(self) -> list[float]:
            rates = list(super().get_lr())
            for index, rate in self.constant.items():
                rates[index] = rate
            return rates

    return WarmupCosine


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
