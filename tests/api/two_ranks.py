"""Run by test_pairs.py in two processes (gloo): one set of positives, its items shared by a DistributedSampler.

python -m torch.distributed.run --standalone --nproc-per-node=2 two_ranks.py
"""

from __future__ import annotations

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import solo_gps


def code(image):
    return np.asarray(image)[0, 0, 0].item()


def main():
    dist.init_process_group("gloo")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(40)
    found = solo_gps.positives(images, prior="pixels", k=5, choose="uniform")
    pairs = solo_gps.GuidedPairs(images, code, found)
    sampler = DistributedSampler(pairs)
    loader = DataLoader(pairs, 5, sampler=sampler, num_workers=1, persistent_workers=True)
    arrays = {"table": found.table.indices}
    for epoch in range(2):
        pairs.set_epoch(epoch)
        sampler.set_epoch(epoch)
        arrays[f"epoch-{epoch}"] = np.concatenate([np.stack(batch) for batch in loader], axis=1)
        arrays[f"pairs-{epoch}"] = found.pairs(epoch).positives
    np.savez(f"rank-{dist.get_rank()}.npz", **arrays)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
