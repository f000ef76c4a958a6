"""Prior encoders: what turns a raw image into a point of the space in which neighbours are looked for."""

from __future__ import annotations

from solo_gps.hookspecs import hookimpl

DEFAULT_ENCODER = "patches"


@hookimpl
def register_encoders() -> dict[str, str]:
    """Returns the encoders that come with solo-gps, by name; their keys stand in :mod:`solo_gps.priors.config`."""
    return {
        "array": "solo_gps.priors.array:ArrayEncoder",
        "autoencoder": "solo_gps.priors.autoencoder:AutoencoderEncoder",
        "checkpoint": "solo_gps.priors.checkpoint:CheckpointEncoder",
        "join": "solo_gps.priors.join:JoinEncoder",
        "patches": "solo_gps.priors.patches:PatchesEncoder",
        "pca": "solo_gps.priors.pca:PcaEncoder",
        "pixels": "solo_gps.priors.pixels:PixelsEncoder",
        "random": "solo_gps.priors.random_network:RandomEncoder",
        "timm": "solo_gps.priors.timm_models:TimmEncoder",
        "torchvision": "solo_gps.priors.torchvision_models:TorchvisionEncoder",
        "vae": "solo_gps.priors.vae:VaeEncoder",
    }
