"""Small convolutional encoder and decoder for priors that are trained on the target set."""

from __future__ import annotations

from torch import nn

from solo_gps.priors.config import SMALLEST_MAP, stages


def conv_encoder(image_size: int, width: int, outputs: int) -> nn.Sequential:
    """Maps (B, 3, S, S) to (B, outputs); each stage halves the map and doubles the channels, from ``width``."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in range(stages(image_size)):
        wider = width << stage
        layers += [nn.Conv2d(channels, wider, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        channels = wider
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * SMALLEST_MAP**2, outputs))


def conv_decoder(image_size: int, width: int, inputs: int) -> nn.Sequential:
    """Maps (B, inputs) to images (B, 3, S, S) in (0, 1): the mirror of :func:`conv_encoder`."""
    channels = width << (stages(image_size) - 1)
    layers: list[nn.Module] = [
        nn.Linear(inputs, channels * SMALLEST_MAP**2),
        nn.Unflatten(1, (channels, SMALLEST_MAP, SMALLEST_MAP)),
    ]
    for stage in reversed(range(stages(image_size))):
        narrower = width << max(stage - 1, 0)
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.ConvTranspose2d(channels, narrower, 4, stride=2, padding=1)]
        channels = narrower
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 3, 3, padding=1), nn.Sigmoid())
