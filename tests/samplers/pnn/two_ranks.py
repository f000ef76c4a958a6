"""Run by test_neutral.py in two processes (gloo): stock and pNN at its neutral point, recipe by recipe.

python -m torch.distributed.run --standalone --nproc-per-node=2 two_ranks.py RECIPE.yaml...
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from pnn_trainings import HOST, Thin
from processes import threads_of_gloo
from torchvision.models.resnet import BasicBlock

from solo_gps.guide.switch import activate
from solo_gps.methods import facts_of


def train(cfg):
    cfg = HOST.complete(cfg)
    HOST.lightning.seed_everything(cfg.seed)
    model = HOST.build_method(cfg, HOST.methods[cfg.method])
    loader = HOST.build_train_loader(cfg)
    losses, ignored = [], set()

    class Watch(HOST.lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, *args):
            losses.append(float(outputs["loss"]))
            # What DDP itself leaves out of its broadcasts; some versions wrap the module once more.
            ignored.update(name.removeprefix("module.") for name in trainer.strategy.model.parameters_to_ignore)

    kwargs = {**HOST.trainer_kwargs(cfg), "callbacks": [Watch()], "logger": False}
    trainer = HOST.lightning.Trainer(**kwargs)
    trainer.fit(model, loader)
    assert trainer.world_size == 2
    return losses, dict(model.state_dict()), ignored


def same_on_both_ranks(tensor):
    parts = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.equal(*parts)


def compare(path):
    stock = OmegaConf.load(path)
    method = stock.method
    with HOST.switched_on():
        losses, state, _ = train(stock)
    size = {} if facts_of(method).pnn.own_queue else {"queue_size": 40}
    sampler = {"pnn": {"alpha": facts_of(method).pnn.neutral_alpha, "beta": 0.0, **size}}
    with activate(OmegaConf.merge(OmegaConf.load(path), {"sampler": sampler})) as on:
        ours, after, ignored = train(on.cfg)
    equal = ours == losses and all(torch.equal(after[name], state[name]) for name in state)
    rows = {name: value for name, value in after.items() if name.startswith(("pnn.", "pnn_record."))}
    # Each rank pushes what both have seen: 2 ranks, 8 images, 3 steps (less where the queue is shorter).
    filled = int((after["pnn.rows.index"] >= 0).sum())
    agree = all(same_on_both_ranks(value) for value in rows.values()) and filled == min(48, len(after["pnn.rows.index"]))
    told = ignored >= set(rows)
    verdict = f"{'equal' if equal else 'DIFFERENT'}, rows {'agree' if agree and told else f'DISAGREE {filled} {told}'}"
    note(f"{method}: {verdict}")


def note(line):
    # Not to the output, where the lines of two processes run into each other.
    with Path(f"rank-{os.environ['RANK']}.txt").open("a") as file:
        print(line, file=file)


def main(recipes):
    warnings.simplefilter("ignore")
    # Runs last, since it is known first: what is left then can abort the process.
    atexit.register(lambda: note(f"left with {threads_of_gloo()} threads of gloo"))
    torch.set_num_threads(1)
    if HOST.generation == "1.0.6":
        from solo.methods.base import BaseMethod

        BaseMethod._BACKBONES["resnet18"] = lambda method, **_: Thin(BasicBlock, [1, 1, 1, 1])
    for path in recipes:
        compare(path)


if __name__ == "__main__":
    main(sys.argv[1:])
