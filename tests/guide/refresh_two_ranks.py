"""Run by test_refresh.py in two processes (gloo): every table is that of one process with rank 0's running statistics."""

from __future__ import annotations

import copy
import sys
import warnings

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from processes import mapped_file

from solo_gps.embeddings.forward import embed_batch, loaded_batches
from solo_gps.guide import refresh
from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host
from solo_gps.interfaces import Embeddings
from solo_gps.neighbours import find, search
from solo_gps.neighbours.exact.points import points_of

HOST = detect_host()
SEEN = {"tables": [], "agrees": [], "buffers_differ": [], "buffers_restored": [], "points_in": []}


def buffers_of(module):
    return torch.cat([buffer.flatten().double() for buffer in module.buffers()])


def alone(images, encoder, backbone):
    """The embeddings by one process, batch after batch, with rank 0's weights and buffers."""
    state = [copy.deepcopy(backbone.state_dict())]
    dist.broadcast_object_list(state, src=0)
    own = copy.deepcopy(backbone.state_dict())
    mode = backbone.training
    backbone.load_state_dict(state[0])
    backbone.eval()
    blocks = [range(start, min(start + 7, len(images))) for start in range(0, len(images), 7)]
    rows = [embed_batch(encoder, batch) for batch in loaded_batches(images, encoder, blocks, 0)]
    backbone.load_state_dict(own)
    backbone.train(mode)
    return torch.cat(rows).numpy()


class Watched(refresh.Refresh):
    def embeddings(self, images, pipeline, *, rehearsal=False):
        inner = super().embeddings(images, pipeline, rehearsal=rehearsal)
        if rehearsal:
            return inner
        backbone = getattr(self._method(), HOST.backbone_name)

        class Context:
            def __enter__(context):
                if dist.is_initialized():
                    context.before = buffers_of(backbone)
                    other = context.before.clone()
                    dist.broadcast(other, src=0)
                    SEEN["buffers_differ"].append(not torch.equal(other, context.before))
                encoder = self._encoder([backbone], pipeline, precision="fp32")
                context.alone = alone(images, encoder, backbone)
                context.embeddings = inner.__enter__()
                return context.embeddings

            def __exit__(context, *error):
                array = np.array(context.embeddings.array)
                SEEN["agrees"].append(np.allclose(array, context.alone, atol=1e-5))
                config = {"distributed": False}
                told = Embeddings(array=context.alone, fingerprint="", folder=None, space=context.embeddings.space)
                SEEN["tables"].append(find(told, config, k=3).indices)
                inner.__exit__(*error)
                SEEN["buffers_restored"].append(torch.equal(buffers_of(backbone), context.before))

        return Context()


def watched_points(embeddings, ranks):
    points = points_of(embeddings, ranks)
    if ranks.world > 1:
        SEEN["points_in"].append([mapped_file(points.exact)["inode"], mapped_file(points.search)["inode"]])
    return points


def main():
    warnings.simplefilter("ignore")
    if sys.platform.startswith("linux"):
        search.points_of = watched_points
    torch.set_num_threads(1)
    cfg = OmegaConf.load("recipe.yaml")
    with activate(cfg) as on:
        on.pairing.refresh.__class__ = Watched
        full = HOST.complete(cfg)
        HOST.lightning.seed_everything(full.seed)
        model = HOST.build_method(full, HOST.methods[full.method])
        loader = HOST.build_train_loader(full)
        tables = []
        build = on.pairing._build_tables
        on.pairing._build_tables = lambda space, names, epoch=0: (
            build(space, names),
            tables.append(np.array(on.pairing.tables["gps"].indices)) if on.pairing.tables else None,
        )
        trainer = HOST.lightning.Trainer(**{**HOST.trainer_kwargs(full), "callbacks": [], "logger": False})
        trainer.fit(model, loader)
        assert trainer.world_size == 2
        SEEN["agrees"] += [np.array_equal(one, other) for one, other in zip(tables, SEEN["tables"], strict=True)]
        SEEN["tables"] = tables
    np.savez(f"rank-{dist.get_rank()}.npz", **{name: np.array(values) for name, values in SEEN.items()})


if __name__ == "__main__":
    main()
