"""Prior encoders: what turns a raw image into a point of the space in which neighbours are looked for.

Registering them imports neither torch nor timm: an encoder imports its libraries inside the methods that need them.
"""

from __future__ import annotations

from solo_gps.hookspecs import hookimpl

DEFAULT_ENCODER = "patches"


@hookimpl
def register_encoders() -> dict[str, type]:
    """Returns the encoders that come with solo-gps, by name."""
    from solo_gps.priors.array import ArrayEncoder
    from solo_gps.priors.autoencoder import AutoencoderEncoder
    from solo_gps.priors.checkpoint import CheckpointEncoder
    from solo_gps.priors.patches import PatchesEncoder
    from solo_gps.priors.pca import PcaEncoder
    from solo_gps.priors.pixels import PixelsEncoder
    from solo_gps.priors.random_network import RandomEncoder
    from solo_gps.priors.timm_models import TimmEncoder
    from solo_gps.priors.torchvision_models import TorchvisionEncoder
    from solo_gps.priors.vae import VaeEncoder

    return {
        "array": ArrayEncoder,
        "autoencoder": AutoencoderEncoder,
        "checkpoint": CheckpointEncoder,
        "patches": PatchesEncoder,
        "pca": PcaEncoder,
        "pixels": PixelsEncoder,
        "random": RandomEncoder,
        "timm": TimmEncoder,
        "torchvision": TorchvisionEncoder,
        "vae": VaeEncoder,
    }
