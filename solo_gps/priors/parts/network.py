"""What encoders with a frozen network share: memory format, weights digest, normalisation, layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from solo_gps.priors.base import Encoder

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NetworkEncoder(Encoder):
    """Base of encoders that run a frozen network. A subclass builds ``network`` and sets mean and std in ``load``."""

    network: torch.nn.Module
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def place(self, network: torch.nn.Module, layers: Sequence[str]) -> None:
        """Checks the layers, digests the weights, and puts the frozen network on the device, channels last.

        Raises:
            UnknownNameError: A layer is not in the network.
        """
        import torch

        from solo_gps.priors.parts.layers import check_layers
        from solo_gps.runtime.files import weights_digest

        assert self.device is not None, "load comes first"
        check_layers(network, layers)
        self._weights = weights_digest(network.state_dict())
        self.network = network.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)

    def identity(self) -> dict[str, Any]:
        """The configuration, the digest of the weights, and the normalisation."""
        return {**super().identity(), "weights": self._weights, "mean": list(self.mean), "std": list(self.std)}

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns (B, D) float32: the network's output, or the chosen layers, averaged over positions."""
        import torch

        from solo_gps.priors.parts.layers import embed_layers
        from solo_gps.priors.parts.preprocess import normalise

        pixels = normalise(batch, self.mean, self.std).contiguous(memory_format=torch.channels_last)
        return embed_layers(self.network, pixels, getattr(self.config, "layers", ()))
