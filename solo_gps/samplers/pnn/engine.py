"""What pNN keeps from step to step: the support set, the slow copy, the draws and the measures. Knows no method of solo-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from solo_gps.interfaces import Embeddings
from solo_gps.samplers.pnn.config import PnnConfig
from solo_gps.samplers.pnn.formula import pseudo_neighbour, scheduled_value
from solo_gps.samplers.pnn.measures import Measures
from solo_gps.samplers.pnn.prior_rows import PriorRows
from solo_gps.samplers.pnn.support import NOBODY, Choice, Pool, RowRecord, combine, nearest_rows, similarity


@dataclass(kw_only=True)
class Step:
    """One training step while it runs.

    Attributes:
        images: For each view, the (B,) int64 image index that it shows.
        labels: For each view, the (B,) int64 class that it shows, -1 where unknown.
        slow_keys: For each large view, the (B, D) key of the slow copy; empty without one.
        outs: What the base class handed to the method's step; empty until it did.
        view: The view that the current pass replaces, or that the next call of find_nn is about.
        keys: For each large view, the true (B, D) key.
        pseudo: View to its (B, D) pseudo neighbours.
        chosen: View to the (B, K) images of its neighbours, -1 where there is none.
        generators: View to the source of its draws and noise.
    """

    images: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    slow_keys: list[Tensor] = field(default_factory=list)
    outs: dict[str, Any] = field(default_factory=dict)
    view: int = 0
    keys: list[Tensor] = field(default_factory=list)
    pseudo: dict[int, Tensor] = field(default_factory=dict)
    chosen: dict[int, Tensor] = field(default_factory=dict)
    generators: dict[int, torch.Generator] = field(default_factory=dict)


class Engine(nn.Module):
    """Chooses neighbours and makes pseudo neighbours of them; a submodule of the method, so that checkpoints hold it.

    Args:
        config: The keys.
        rows: The support set, or the record of the method's own queue.
        sphere: The loss compares directions alone.
        seed: Seed of the draws and of the noise.
        max_epochs: Length of the run in epochs.
        embeddings: Returns the training images in the prior space, where neighbours are chosen there.
    """

    def __init__(
        self,
        config: PnnConfig,
        rows: RowRecord,
        *,
        sphere: bool,
        seed: int,
        max_epochs: int,
        embeddings: Callable[[], Embeddings] | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.rows = rows
        self.alpha, self.beta = config.alpha, config.beta
        self.measures = Measures()
        self._schedule_epochs = config.schedule_epochs or max(1, max_epochs)
        self._sphere = sphere
        self._seed = seed
        self._prior = None if embeddings is None else PriorRows(embeddings)

    @property
    def searches_as_the_host(self) -> bool:
        """Whether the nearest row of the queue is all that is asked for."""
        return self.config.k == 1 and not self.config.exclude_same_image and self._prior is None

    def follow_schedule(self, epoch: int) -> None:
        """Sets alpha and beta of the epoch."""
        value = partial(scheduled_value, epoch=epoch, epochs=self._schedule_epochs, shape=self.config.schedule)
        self.alpha = value(self.config.alpha, self.config.alpha_end)
        self.beta = value(self.config.beta, self.config.beta_end)

    def end_step(self, step: Step) -> None:
        """Measures the finished step and counts it."""
        self.measures.add_positives(step.keys, step.pseudo)
        self.rows.tick()

    def choose(self, view: int, z: Tensor, pool: Pool, step: Step, *, each: int | None = None) -> Choice:
        """Chooses the neighbours of anchors; rows whose image is not known are passed over unless ``each`` is given.

        Args:
            view: The large view that the anchors are the keys of.
            z: (B, D) anchors.
            pool: The rows among which they are chosen.
            step: The step that runs.
            each: Return this many neighbours of each anchor, (B, each, D), for a host that takes no fewer.
        """
        images = step.images[view]
        blocked = self._blocked(images, pool, unknown=each is None)
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            if self._prior is None:
                scores = similarity(z.detach().to(pool.keys.dtype), pool.keys, pool.offset)
            else:
                scores = self._prior.scores(images, pool.index)
            rows, valid = nearest_rows(scores, each or self.config.k, blocked)
            if each:
                return Choice(neighbour=pool.keys[rows], rows=rows, valid=valid)
            average = self.config.combine == "average"
            return combine(pool.keys, z.detach(), rows, valid, average=average, generator=self._generator(view, z.device, step))

    def _blocked(self, images: Tensor, pool: Pool, *, unknown: bool) -> Tensor | None:
        blocked = None
        if self.config.exclude_same_image or self._prior is not None:
            blocked = pool.index[None, :] == images[:, None]
        if unknown and self.rows.filled < len(pool.index):
            nobody = pool.index[None, :] == NOBODY
            blocked = nobody if blocked is None else blocked | nobody
        return blocked

    def pseudo_neighbours(self, view: int, z: Tensor, choice: Choice, pool: Pool, step: Step) -> Tensor:
        """Makes pseudo neighbours of chosen neighbours, of the neighbours' shape, and measures them."""
        anchor = z.detach()[:, None] if choice.neighbour.ndim == 3 else z.detach()
        generator = self._generator(view, z.device, step) if self.beta > 0 else None
        made = pseudo_neighbour(
            anchor,
            choice.neighbour,
            alpha=self.alpha,
            beta=self.beta,
            sphere=self._sphere,
            generator=generator,
            noise=self.config.noise,
        )
        self.measures.add_pseudo(anchor, made)
        self.measures.add_choice(anchor, choice, pool, images=step.images[view], labels=step.labels[view], step=self.rows.step)
        step.pseudo[view] = made
        if len(pool.index):
            step.chosen[view] = torch.where(choice.valid, pool.index[choice.rows], NOBODY)
        return made

    def _generator(self, view: int, device: torch.device, step: Step) -> torch.Generator:
        """Its draws are functions of seed, step, rank and view alone, so that a resumed run draws the same."""
        if view not in step.generators:
            rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
            seed = np.random.SeedSequence([self._seed, self.rows.step, rank, view]).generate_state(1, np.uint64)[0]
            step.generators[view] = torch.Generator(device).manual_seed(int(seed) >> 1)
        return step.generators[view]
