"""The Lightning callback that a guided method brings along: what the trainer does, told to the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solo_gps.errors import our_part

if TYPE_CHECKING:
    from solo_gps.guide.run import Activation


def trainer_callback(activation: Activation) -> Any:
    """Returns the callback of a switched-on plugin, of the Lightning that its host uses.

    Args:
        activation: The switched-on plugin.
    """
    return type("GuidedPositives", (_GuidedPositives, activation.host.lightning.Callback), {})(activation)


class _GuidedPositives:
    """Tells the plugin the trainer's epochs, and logs the pairs."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            with our_part("starting the training"):
                self._activation.begin_fit(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._activation.start_steps()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        with our_part("starting an epoch"):
            self._activation.start_epoch()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._activation.receipt.steps += 1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # Not at its start: the epoch's pairs are drawn after that, when its iterator is made.
        with our_part("measuring the pairs of an epoch"):
            values = self._activation.diagnostics() | self._activation.pairing.take_changes()
        if values:
            pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        with our_part("writing the receipt"):
            self._activation.pairing.warn_if_never_refreshed(trainer.current_epoch)
            self._activation.end_training(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._activation.receipt.steps:
            with our_part("writing the receipt"):
                self._activation.end_training(trainer, pl_module, exception)
        self._activation.end_fit()  # teardown does not come then

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._activation.end_fit()
