"""Notes what solo-learn's own training step is given, in every process of a test, a launcher's too. Knows nothing of solo-gps."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile


def _watch(base: type) -> None:
    import numpy as np

    original = base.training_step

    def training_step(self, batch, batch_idx):
        from hydra.core.hydra_config import HydraConfig

        items, crops, _targets = batch
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        with tempfile.NamedTemporaryFile(dir=os.environ["WATCH"], suffix=".npz", delete=False) as file:
            np.savez(
                file,
                items=items.numpy(),
                first=crops[0].numpy(),
                second=crops[1].numpy(),
                modules=np.array([cls.__module__ for cls in type(self).__mro__]),
                overrides=np.array(overrides),
                rank=self.trainer.global_rank,
                step=self.trainer.global_step,
                device=str(self.device),
            )
        return original(self, batch, batch_idx)

    base.training_step = training_step


class _Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "solo.methods.base":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            _watch(module.BaseMethod)

        spec.loader.exec_module = exec_module
        return spec


if "WATCH" in os.environ:
    sys.meta_path.insert(0, _Finder())
