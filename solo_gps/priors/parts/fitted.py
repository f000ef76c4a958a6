"""Training of a prior on the target set: seeded, with progress and early stop on images that it does not train on."""

from __future__ import annotations

import copy
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch.optim.lr_scheduler import CosineAnnealingLR

from solo_gps.errors import DataError
from solo_gps.interfaces import ImageSet
from solo_gps.priors.base import Encoder
from solo_gps.priors.parts.loading import PreprocessedImages, batches, consecutive, worker_count
from solo_gps.priors.parts.preprocess import SquareResize
from solo_gps.runtime.progress import Progress, duration

logger = logging.getLogger("solo_gps.embeddings")

HELD_OUT_EVERY = 20
"""One image of so many is held out, to stop early."""


class FittedEncoder(Encoder):
    """Base of encoders that train ``network`` (built by ``build``) on the images by the loss of ``loss``."""

    version = 2
    trained = True
    network: torch.nn.Module

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """Builds the untrained network."""

    @abstractmethod
    def loss(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Mean loss of (B, 3, S, S) pixels in [0, 1]; ``generator`` lies on the device."""

    def load(self, device: torch.device) -> None:
        """Builds the network from ``seed``."""
        super().load(device)
        torch.default_generator.manual_seed(self.config.seed)
        self.network = self.build()

    def to_device(self) -> None:
        """Puts the network there."""
        self.network.to(self.device)

    def transform(self) -> Callable[[Image], np.ndarray]:
        """Squeezes the image to (3, S, S) uint8."""
        return SquareResize(self.config.image_size)

    def state(self) -> Mapping[str, torch.Tensor]:
        """The trained weights."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes trained weights."""
        self.network.load_state_dict(dict(state))
        self.network.eval().requires_grad_(False)

    def fit(self, images: ImageSet) -> None:
        """Trains the network, and keeps the weights of the epoch with the lowest held-out loss.

        Raises:
            DataError: The loss is no longer finite.
        """
        config = self.config
        held_out = list(range(HELD_OUT_EVERY - 1, len(images), HELD_OUT_EVERY))
        training = sorted(set(range(len(images))) - set(held_out)) or list(range(len(images)))
        held_out = held_out or training
        optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        schedule = CosineAnnealingLR(optimizer, config.epochs * len(consecutive(len(training), config.train_batch_size)))
        generator = torch.Generator().manual_seed(config.seed)
        best, best_state, waited = float("inf"), self.network.state_dict(), 0
        started = time.monotonic()
        with Progress(f"training {config.name}", config.epochs * len(training)) as progress:
            for epoch in range(config.epochs):
                order = [training[place] for place in torch.randperm(len(training), generator=generator).tolist()]
                self._train(images, order, schedule, epoch, progress)
                value = self._evaluate(images, held_out)
                if not value < float("inf"):
                    raise DataError(f"prior.{config.name}: the loss is {value} in epoch {epoch}. Lower prior.learning_rate.")
                if value < best:
                    best, best_state, waited = value, copy.deepcopy(self.network.state_dict()), 0
                else:
                    waited += 1
                progress.update(0, f"epoch {epoch}, held-out loss {value:.4g}")
                if waited >= config.patience:
                    break
        logger.info(
            "prior %s: trained on %s images in %s, %d of at most %d epochs%s",
            config.name,
            f"{len(training):,}",
            duration(time.monotonic() - started),
            epoch + 1,
            config.epochs,
            "; more made it no better on images held out" if waited >= config.patience else "",
        )
        logger.debug("prior %s: lowest loss on held-out images %.4g", config.name, best)
        self.load_state(best_state)

    def _train(self, images: ImageSet, order: list[int], schedule: CosineAnnealingLR, epoch: int, progress: Progress) -> None:
        self.network.train()
        generator = self._generator(epoch)
        for pixels in self._batches(images, order):
            with self.autocast():
                loss = self.loss(pixels, generator)
            schedule.optimizer.zero_grad()
            loss.backward()
            schedule.optimizer.step()
            schedule.step()
            progress.update(len(pixels))

    def _evaluate(self, images: ImageSet, held_out: list[int]) -> float:
        self.network.eval()
        generator = self._generator(-1)
        total = 0.0
        with torch.no_grad(), self.autocast():
            for pixels in self._batches(images, held_out):
                total += float(self.loss(pixels, generator)) * len(pixels)
        return total / len(held_out)

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.config.seed * 100_003 + epoch + 1)

    def _batches(self, images: ImageSet, order: list[int]) -> Any:
        assert self.device is not None
        parts = [order[part.start : part.stop] for part in consecutive(len(order), self.config.train_batch_size)]
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [parts[-2] + parts[-1]]  # batch norm cannot train on one image
        workers = worker_count(self.config.num_workers, len(order))
        for batch in batches(PreprocessedImages(images, self.transform()), parts, num_workers=workers, device=self.device):
            yield batch.float().div_(255)
