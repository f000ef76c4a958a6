"""Variational autoencoder trained on the target set (Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014)."""

from __future__ import annotations

import torch
from torch import nn

from solo_gps.priors.config import VaeConfig
from solo_gps.priors.parts.convnet import conv_decoder, conv_encoder
from solo_gps.priors.parts.fitted import FittedEncoder


class VaeEncoder(FittedEncoder):
    """The mean of the posterior of a convolutional variational autoencoder."""

    config_class = VaeConfig
    cost = "a training on your images, `epochs` passes at most: minutes on a GPU, long without; `dimensions`"

    def build(self) -> torch.nn.Module:
        """Encoder to mean and log variance, and decoder."""
        size, width, dimensions = self.config.image_size, self.config.width, self.config.dimensions
        return nn.ModuleDict(
            {
                "encoder": conv_encoder(size, width, 2 * dimensions),
                "decoder": conv_decoder(size, width, dimensions),
            }
        )

    def loss(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Negative evidence lower bound, up to a constant (equation 10 of the paper, Gaussian decoder, one sample)."""
        mean, log_variance = self._network("encoder")(pixels).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 20)
        sample = torch.randn(mean.shape, generator=generator, device=mean.device)
        decoded = self._network("decoder")(mean + sample * torch.exp(log_variance / 2)).float()
        misfit = (decoded - pixels).square().sum((1, 2, 3)) / (2 * self.config.noise**2)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (misfit + divergence).mean()

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32, the posterior means."""
        return self._network("encoder")(batch.float().div_(255)).float().chunk(2, dim=1)[0]

    def _network(self, part: str) -> torch.nn.Module:
        return self.network[part]  # type: ignore[index]
