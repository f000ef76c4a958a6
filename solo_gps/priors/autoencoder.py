"""Convolutional autoencoder trained on the target set (GPS-SSL, arXiv 2401.01990: priors without outside data)."""

from __future__ import annotations

import torch
from torch import nn

from solo_gps.priors.config import AutoencoderConfig
from solo_gps.priors.parts.convnet import conv_decoder, conv_encoder
from solo_gps.priors.parts.fitted import FittedEncoder


class AutoencoderEncoder(FittedEncoder):
    """The bottleneck of a convolutional autoencoder."""

    config_class = AutoencoderConfig
    cost = "a training on your images, `epochs` passes at most: minutes on a GPU, long without; `dimensions`"

    def build(self) -> torch.nn.Module:
        """Encoder and decoder."""
        size, width, dimensions = self.config.image_size, self.config.width, self.config.dimensions
        return nn.Sequential(conv_encoder(size, width, dimensions), conv_decoder(size, width, dimensions))

    def loss(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Squared error of the reconstruction, summed over an image and averaged over the batch."""
        return (self.network(pixels).float() - pixels).square().sum((1, 2, 3)).mean()

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32, the bottleneck."""
        return self.network[0](batch.float().div_(255)).float()  # type: ignore[index]
