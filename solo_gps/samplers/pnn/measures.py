"""What is logged about pseudo neighbours, summed over an epoch on the device and over the ranks at its end."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cosine_similarity

from solo_gps.samplers.pnn.support import Choice, Pool

# Each measure is a sum over a count; the names are those of the log.
MEASURES = ("purity", "same_image", "age", "distance", "found", "anchor_similarity", "positive_similarity", "key_std")


class Measures:
    """Sums of an epoch: the share of right labels among known ones, and so on; reading them starts anew."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._all = torch.zeros(len(MEASURES), 2, dtype=torch.float64)

    @torch.no_grad()
    def add_choice(self, z: Tensor, choice: Choice, pool: Pool, *, images: Tensor, labels: Tensor, step: int) -> None:
        """Adds the neighbours that B anchors have got.

        Args:
            z: (B, D) or (B, 1, D) anchors.
            choice: Their neighbours.
            pool: The rows they were chosen from.
            images: (B,) image of each anchor.
            labels: (B,) class of each anchor, -1 where unknown.
            step: Number of the current step.
        """
        if not len(pool.index):
            nothing = torch.zeros((), dtype=torch.float32, device=z.device)
            self._add(found=(nothing, nothing + choice.valid.numel()))
            return
        index, label = pool.index[choice.rows], pool.label[choice.rows]
        real = choice.valid & (index >= 0)
        known = real & (label >= 0) & (labels[:, None] >= 0)
        count = real.sum()
        distance = (choice.neighbour.float() - z.float()).norm(dim=-1)
        self._add(
            purity=((known & (label == labels[:, None])).sum(), known.sum()),
            same_image=((real & (index == images[:, None])).sum(), count),
            age=(((step - pool.born[choice.rows]) * real).sum(), count),
            distance=(distance.sum(), torch.full_like(count, distance.numel())),
            found=(count, torch.full_like(count, real.numel())),
        )

    @torch.no_grad()
    def add_pseudo(self, z: Tensor, pseudo: Tensor) -> None:
        """Adds the cosine of pseudo neighbours, (B, D) or (B, K, D), with their (B, D) or (B, 1, D) anchors."""
        values = cosine_similarity(pseudo, z.to(pseudo.dtype), dim=-1)
        self._add(anchor_similarity=(values.sum(), torch.full_like(values.sum(), values.numel())))

    @torch.no_grad()
    def add_positives(self, keys: list[Tensor], pseudo: dict[int, Tensor]) -> None:
        """Adds the cosine of each view's pseudo neighbour with the other views' keys, and the spread of the keys.

        Args:
            keys: For each large view, the true (B, D) keys.
            pseudo: View to its (B, D) or (B, K, D) pseudo neighbours.
        """
        for view, made in pseudo.items():
            for other, key in enumerate(keys):
                if other != view:
                    values = cosine_similarity(made[:, 0] if made.ndim == 3 else made, key.detach().to(made.dtype), dim=-1)
                    self._add(positive_similarity=(values.sum(), torch.full_like(values[0], len(values))))
        for key in keys:
            spread = torch.nn.functional.normalize(key.detach().float(), dim=-1).std(dim=0).mean()
            self._add(key_std=(spread, torch.ones_like(spread)))

    def _add(self, **values: tuple[Tensor, Tensor]) -> None:
        for name, (total, count) in values.items():
            pair = torch.stack([total.float(), count.float()])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def read(self) -> dict[str, float]:
        """Returns the means since the last reading, over all ranks; a measure that saw nothing is left out."""
        if not self._sums:
            return {}
        nothing = torch.zeros_like(next(iter(self._sums.values())))
        sums = torch.stack([self._sums.get(name, nothing) for name in MEASURES])
        self._sums = {}
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        self._all += sums.cpu().double()
        return _means(sums)

    def of_training(self) -> dict[str, float]:
        """Returns the means of all that was read, over all ranks, since this process began to train."""
        return _means(self._all)


def _means(sums: Tensor) -> dict[str, float]:
    return {name: total / count for name, (total, count) in zip(MEASURES, sums.tolist(), strict=True) if count}
