"""Networks without a classifier, by name: torchvision's, timm's, and the names that solo-learn uses."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from solo_gps.errors import ConfigError, UnknownNameError

SOLO_NAMES = {
    **{f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")},
    **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")},
}
"""What solo-learn calls a backbone, to timm's name of it; its ResNets are torchvision's, its ConvNeXts have timm's names."""


def library_of(name: str, library: str) -> str:
    """Which library builds ``name``: the given one, or for ``"auto"`` torchvision for ResNets as in solo-learn, else timm.

    Raises:
        UnknownNameError: The library has no such network.
    """
    known = {"torchvision": _torchvision_names, "timm": _timm_names}
    if library == "auto":
        library = "torchvision" if name.startswith("resnet") and name in _torchvision_names() else "timm"
    if SOLO_NAMES.get(name, name) not in known[library]():
        raise UnknownNameError(f"{library} architecture", name, near(name, known[library]()))
    return library


def build_network(name: str, library: str, options: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """Builds a network with random weights and without a classifier.

    Args:
        name: Name of the architecture.
        library: ``"torchvision"`` or ``"timm"``, from :func:`library_of`.
        options: Further arguments of its constructor, for example ``patch_size``.
        seed: Seed of the weights.

    Raises:
        ConfigError: The constructor does not take the options.
    """
    torch.default_generator.manual_seed(seed)
    try:
        if library == "timm":
            return timm.create_model(SOLO_NAMES.get(name, name), pretrained=False, num_classes=0, **options)
        return without_classifier(torchvision.models.get_model(name, weights=None, **options))
    except TypeError as error:
        raise ConfigError(f"prior.kwargs: {library}'s {name} cannot be built with {dict(options)!r}: {error}.") from error


def without_classifier(network: torch.nn.Module) -> torch.nn.Module:
    """Replaces the last linear layer, the classifier of every torchvision network, by the identity; returns the network."""
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, child = last.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network


def with_small_stem(network: torch.nn.Module) -> torch.nn.Module:
    """Gives a ResNet the stem that solo-learn uses for 32 x 32 images: a 3 x 3 convolution and no pooling; returns it.

    The padding of 2 is solo-learn's own:
    https://github.com/vturrisi/solo-learn/blob/main/solo/methods/base.py (``self.backbone.conv1``).
    """
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    network.maxpool = nn.Identity()
    return network


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _timm_names() -> list[str]:
    return timm.list_models()


def near(name: str, known: list[str]) -> list[str]:
    """The few of many thousand names that may be meant."""
    return difflib.get_close_matches(name, known, n=8, cutoff=0.4) or [other for other in known if other[:3] == name[:3]][:8]
