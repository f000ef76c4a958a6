"""The Lightning callback that a guided method brings along: what the trainer does, told to the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solo_gps.errors import our_part

if TYPE_CHECKING:
    from solo_gps.guide.run import GuidedRun

ON_THE_BAR = ("guided_purity",)


def trainer_callback(run: GuidedRun) -> Any:
    """Returns the callback of a switched-on plugin, of the Lightning that its host uses.

    Args:
        run: What is switched on.
    """
    return type("GuidedPositives", (_GuidedPositives, run.host.lightning.Callback), {})(run)


class _GuidedPositives:
    """Tells the plugin the trainer's epochs, and logs the pairs."""

    def __init__(self, run: GuidedRun) -> None:
        self._run = run

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            with our_part("starting the training"):
                self._run.begin_fit(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        with our_part("starting the training"):
            self._run.fit.start_steps()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        with our_part("starting an epoch"):
            self._run.fit.start_epoch()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._run.receipt.steps += 1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # Not at its start: the epoch's pairs are drawn after that, when its iterator is made.
        with our_part("measuring the pairs of an epoch"):
            values = self._run.measures(trainer.current_epoch)
        purity = {name: values.pop(name) for name in ON_THE_BAR if name in values}
        for some, on_the_bar in ((purity, True), (values, False)):
            if some:
                pl_module.log_dict(some, on_step=False, on_epoch=True, prog_bar=on_the_bar, sync_dist=True)
        with our_part("showing the pairs of an epoch"):
            self._run.show(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        with our_part("writing the receipt"):
            self._run.pairing.warn_if_never_refreshed(trainer.current_epoch)
            self._run.end_training(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._run.receipt.steps:
            with our_part("writing the receipt"):
                self._run.end_training(trainer, pl_module, exception)
        self._run.fit.end()  # teardown does not come then

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._run.fit.end()
