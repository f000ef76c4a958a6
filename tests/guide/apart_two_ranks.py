"""Run by test_crops.py in two processes (gloo): notes the anchors and positives of every batch that a rank trains on."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host

HOST = detect_host()


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cfg, seen = OmegaConf.load("recipe.yaml"), []
    with activate(cfg):
        full = HOST.complete(cfg)
        HOST.lightning.seed_everything(full.seed)

        class Noted(HOST.methods[full.method]):
            def training_step(self, batch, batch_idx):
                shown = self.shown_crops.images
                seen.append(torch.stack([shown[0], shown[1]]).numpy())
                return super().training_step(batch, batch_idx)

        model = HOST.build_method(full, Noted)
        loader = HOST.build_train_loader(full)
        trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(full), "callbacks": [], "logger": False})
        trainer.fit(model, loader)
        assert trainer.world_size == 2
    np.save(f"rank-{dist.get_rank()}.npy", np.stack(seen))


if __name__ == "__main__":
    main()
