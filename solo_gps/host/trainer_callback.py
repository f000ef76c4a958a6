"""The Lightning callback that a guided method brings along: what the trainer does, told to the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solo_gps.host.activation import Activation


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
            self._activation.begin_fit(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._activation.start_steps()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._activation.start_epoch()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # Not at its start: the epoch's pairs are drawn after that, when its iterator is made.
        values = self._activation.diagnostics() | self._activation.pairing.take_changes()
        if values:
            pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._activation.pairing.warn_if_never_refreshed(trainer.current_epoch)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._activation.end_fit()  # teardown does not come then

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._activation.end_fit()
