"""The keys of every prior, checked. A misspelt word is judged by these alone, so nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from solo_gps.config import LARGEST_SEED, Keys, check_choice, check_number, number
from solo_gps.runtime.machine import MOST_WORKERS

SPACES = ("euclidean", "cosine")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
STORAGES = ("float32", "float16")
AUGMENTATIONS = ("none", "flip", "crop", "simclr")
LIBRARIES = ("auto", "torchvision", "timm")
STEMS = ("auto", "imagenet", "small")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALLEST_MAP = 4
IMAGES_AT_A_TIME = 64
"""Images whose patch distances are held at once; more would leave the processor's caches."""
SAMPLED_PATCHES = 50_000
LARGEST_BATCH = 65536
LARGEST_SIDE = 4096  # of an image, in pixels

RUNTIME_KEYS = ("space", "batch_size", "num_workers", "device", "cache_dir")
"""Keys that say how the work is done, or what the embedding is used for, but do not change the embedding."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig(Keys):
    """Keys that every prior has."""

    name: str = ""
    """Registered name of the encoder."""
    space: str = "euclidean"
    """How neighbours are measured: ``euclidean`` (squared L2) or ``cosine``."""
    batch_size: int = number(256, least=1, most=LARGEST_BATCH)
    """Images of one forward pass, and of one block of the cache."""
    num_workers: int = number(-1, least=-1, most=MOST_WORKERS)
    """Processes that read and decode images; -1 takes the CPUs at hand, at most 24, and none for a small set."""
    device: str = "auto"
    """``auto`` (CUDA when there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    precision: str = "auto"
    """Autocast of the forward pass: ``fp32``, ``bf16``, ``fp16``; ``auto`` is ``bf16`` on CUDA and ``fp32`` elsewhere."""
    storage: str = "float32"
    """Type of the numbers in the cache: ``float32`` or ``float16`` (half the disk)."""
    augmentation: str = "none"
    """``none``, ``flip`` (random horizontal), ``crop`` (random resized, and flip) or ``simclr`` (crop, flip, colour, grey)."""
    draws: int = number(1, least=1, most=1000)
    """Draws of the augmentation for each image; the embedding is their mean."""
    seed: int = number(0, least=0, most=LARGEST_SEED)
    """Seed of a prior that is trained or random, and of the augmentation."""
    cache_dir: str | None = None
    """Folder of all caches; ``null`` takes the environment variable SOLO_GPS_CACHE, or ``~/.cache/solo_gps``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("space", self.space, SPACES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("storage", self.storage, STORAGES)
        check_choice("augmentation", self.augmentation, AUGMENTATIONS)
        if self.augmentation == "none" and self.draws > 1:
            raise ValueError(f"draws={self.draws} needs an augmentation: without one every draw is the same image.")

    @property
    def least_memory(self) -> int:
        """Bytes that the embedding takes at the least: what the sizes that a user may set allocate at once."""
        return self.batch_size * self.draws * 3 * (getattr(self, "image_size", None) or 1) ** 2


@dataclass(frozen=True, kw_only=True)
class CheapConfig(PriorConfig):
    """Keys of priors without a network."""

    precision: str = "fp32"
    """As in every prior, but full precision unless asked otherwise: this encoder is cheap."""


@dataclass(frozen=True, kw_only=True)
class ArrayConfig(CheapConfig):
    """Keys of ``prior=array``."""

    name: str = "array"
    """Registered name of the encoder."""
    path: str | None = None
    """A .npy file of (N, D) numbers, or a .npz file of them and their `names`. Required."""
    names: str | None = None
    """A text file with the name of each row's image, one a line, as `solo-gps data order` prints them: the rows may then have any
    order, and be more than the images. Without names, row i is image i's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("path is missing: name the .npy file, for example prior.path=embeddings.npy.")
        if self.augmentation != "none":
            raise ValueError(f"augmentation={self.augmentation!r} cannot act on embeddings that are already made.")


@dataclass(frozen=True, kw_only=True)
class JoinConfig(CheapConfig):
    """Keys of ``prior=join``."""

    name: str = "join"
    """Registered name of the encoder."""
    parts: list[Any] = field(default_factory=list)
    """Two priors or more: each a name, or a mapping of its name, keys and `weight` (1 unless given). Required."""
    combine: str = "join"
    """`join`: embeddings side by side, each of length 1 times its weight. `agree`: neighbours are the images among the k nearest
    of every part, the nearest in the joined space first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("combine", self.combine, ("join", "agree"))
        if len(self.parts) < 2:
            raise ValueError(f"parts={self.parts}: wanted two priors or more, for example prior.parts=[patches,{{name:pca}}].")
        for place, part in enumerate(self.parts):
            self._check_part(f"parts[{place}]", {"name": part} if isinstance(part, str) else part)
        if self.augmentation != "none":
            raise ValueError(f"augmentation={self.augmentation!r} is a key of each part. Set it there.")
        if self.agree and self.space != "euclidean":
            raise ValueError("space says nothing with combine=agree, where each part measures by its own. Set it in the parts.")

    def _check_part(self, key: str, part: Any) -> None:
        if not isinstance(part, Mapping) or not isinstance(part.get("name"), str):
            raise ValueError(f"{key}={part!r}: wanted a prior's name, or a mapping with it, for example {{name:pca,weight:2}}.")
        if part["name"] == "join":
            raise ValueError(f"{key}: a join within a join. Put its parts here.")
        mute = "weight" if self.agree else "space"
        if mute in part:
            why = "every part has the same say" if self.agree else "every row has length 1, so that angles alone count"
            raise ValueError(f"{key}.{mute} says nothing with combine={self.combine}: {why}. Leave it out.")
        weight = part.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"{key}.weight={weight!r}: wanted a number.")
        check_number(f"{key}.weight", weight, above=0, most=1000)

    @property
    def agree(self) -> bool:
        """Whether neighbours are those that all parts share."""
        return self.combine == "agree"

    @property
    def weights(self) -> list[float]:
        """The weight of each part."""
        return [1.0 if isinstance(part, str) else float(part.get("weight", 1)) for part in self.parts]

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The ``prior`` node of each part as if it were alone; device and cache are the join's unless it has its own."""
        shared = {"device": self.device, "num_workers": self.num_workers, "cache_dir": self.cache_dir}
        parts = [{"name": part} if isinstance(part, str) else part for part in self.parts]
        return [{**shared, **{key: value for key, value in part.items() if key != "weight"}} for part in parts]


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(CheapConfig):
    """Keys of ``prior=pixels``."""

    name: str = "pixels"
    """Registered name of the encoder."""
    image_size: int = number(32, least=1, most=LARGEST_SIDE)
    """Images are squeezed to this side; the embedding has 3 x side x side dimensions."""


@dataclass(frozen=True, kw_only=True)
class PcaConfig(CheapConfig):
    """Keys of ``prior=pca``."""

    name: str = "pca"
    """Registered name of the encoder."""
    image_size: int = number(32, least=1, most=LARGEST_SIDE)
    """Images are squeezed to this side before the analysis."""
    dimensions: int = number(64, least=1, most=65536)
    """Number of components; fewer when the images span fewer."""
    whiten: float = number(0.0, least=0, most=1)
    """Power of whitening: 0 keeps the variances, 1 makes them all equal."""
    fit_images: int = number(10000, least=1)
    """The components are found from at most this many images, evenly spaced over the set."""

    @property
    def least_memory(self) -> int:
        """The covariance of all pixels, and its parts."""
        return super().least_memory + 4 * 8 * (3 * self.image_size**2) ** 2


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(CheapConfig):
    """Keys of ``prior=patches``, the default prior."""

    name: str = "patches"
    """Registered name of the encoder."""
    space: str = "cosine"
    """How neighbours are measured: ``euclidean`` (squared L2) or ``cosine`` (purer for this encoder)."""
    image_size: int = number(32, least=1, most=LARGEST_SIDE)
    """Images are squeezed to this side."""
    patch_size: int = number(6, least=1, most=LARGEST_SIDE)
    """Side of a patch in pixels."""
    stride: int = number(2, least=1, most=LARGEST_SIDE)
    """Pixels between neighbouring patches."""
    centroids: int = number(128, least=1, most=65536)
    """Size of the dictionary."""
    regions: int = number(3, least=1, most=LARGEST_SIDE)
    """Features are averaged over regions x regions parts of the image."""
    dimensions: int = number(128, least=1, most=65536)
    """Principal components that are kept; fewer when the images span fewer."""
    whiten: float = number(0.5, least=0, most=1)
    """Power of whitening of the components: 0 keeps the variances, 1 makes them all equal."""
    fit_images: int = number(10000, least=1)
    """The dictionary and the components are learned from at most this many images, evenly spaced over the set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("image_size", self.image_size, least=self.patch_size)

    @property
    def least_memory(self) -> int:
        """The patches and their covariance; what the filters answer to a few images; the covariance of pooled features."""
        patch, places = 3 * self.patch_size**2, ((self.image_size - self.patch_size) // self.stride + 1) ** 2
        learned = SAMPLED_PATCHES * (patch + self.centroids) * 4 + 8 * patch**2
        answers = min(IMAGES_AT_A_TIME, self.batch_size) * places * (patch + self.centroids) * 4
        return super().least_memory + max(learned, answers) + 4 * 8 * (self.centroids * self.regions**2) ** 2


@dataclass(frozen=True, kw_only=True)
class FittedConfig(PriorConfig):
    """Keys of priors that train a network on the target set."""

    image_size: int = number(32, least=1, most=LARGEST_SIDE)
    """Images are squeezed to this side: 8, 16, 32, 64, ..."""
    dimensions: int = number(64, least=1, most=65536)
    """Dimensions of the embedding."""
    width: int = number(32, least=1, most=4096)
    """Channels of the first stage; each further stage doubles them."""
    epochs: int = number(30, least=1)
    """Passes over the images, at most."""
    patience: int = number(5, least=1)
    """Stop after so many epochs without a lower loss on held-out images."""
    learning_rate: float = number(1e-3, above=0)
    """Peak learning rate of Adam; it falls to zero along a half cosine."""
    train_batch_size: int = number(128, least=1, most=LARGEST_BATCH)
    """Images of one optimiser step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        stages(self.image_size)
        if self.precision == "fp16":
            raise ValueError("precision='fp16' is not for training; use bf16 or fp32.")

    @property
    def least_memory(self) -> int:
        """The first map of the training batch, and the widest layer with its gradient and Adam's two means."""
        widest = self.width << (stages(self.image_size) - 1)
        maps = self.train_batch_size * (self.image_size // 2) ** 2 * self.width
        layers = 4 * widest * (SMALLEST_MAP**2 * self.dimensions + SMALLEST_MAP**2 * widest // 2)
        return super().least_memory + 4 * (maps + layers)


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(FittedConfig):
    """Keys of ``prior=autoencoder``."""

    name: str = "autoencoder"
    """Registered name of the encoder."""


@dataclass(frozen=True, kw_only=True)
class VaeConfig(FittedConfig):
    """Keys of ``prior=vae``."""

    name: str = "vae"
    """Registered name of the encoder."""
    noise: float = number(0.1, least=1e-4, most=1000)
    """Standard deviation of a pixel in [0, 1] around its reconstruction: smaller keeps more detail."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(PriorConfig):
    """Keys of priors that run a frozen network."""

    layers: list[str] = field(default_factory=list)
    """Layers to concatenate, as in ``named_modules``; ``output`` is the network's own, which an empty list means."""


@dataclass(frozen=True, kw_only=True)
class RandomConfig(NetworkConfig):
    """Keys of ``prior=random``."""

    name: str = "random"
    """Registered name of the encoder."""
    architecture: str = "resnet18"
    """Name of the network in its library."""
    library: str = "auto"
    """``torchvision``, ``timm``, or ``auto``: torchvision for ResNets, else timm."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the network's constructor."""
    image_size: int = number(64, least=1, most=LARGEST_SIDE)
    """Images are squeezed to this side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("library", self.library, LIBRARIES)


@dataclass(frozen=True, kw_only=True)
class TorchvisionConfig(NetworkConfig):
    """Keys of ``prior=torchvision``."""

    name: str = "torchvision"
    """Registered name of the encoder."""
    model: str = "resnet50"
    """Name of the network, as ``torchvision.models.list_models()`` gives it."""
    weights: str | None = "DEFAULT"
    """Name of the pretrained weights, for example ``IMAGENET1K_V2`` (downloaded once by torchvision); ``null``: random."""
    checkpoint: str | None = None
    """A local file with the network's weights, in place of a download; ``weights`` then only gives the preprocessing."""
    image_size: int | None = number(None, least=1, most=LARGEST_SIDE)
    """Side of the square that the network sees; ``null`` takes that of the weights."""


@dataclass(frozen=True, kw_only=True)
class TimmConfig(NetworkConfig):
    """Keys of ``prior=timm``."""

    name: str = "timm"
    """Registered name of the encoder."""
    model: str = "resnet18.a1_in1k"
    """Name of the model, with its tag, as ``timm.list_models(pretrained=True)`` gives it."""
    pretrained: bool = True
    """Whether to take the pretrained weights (downloaded once by timm); false gives random weights from ``seed``."""
    checkpoint: str | None = None
    """A local file with the model's weights, in place of a download."""
    image_size: int | None = number(None, least=1, most=LARGEST_SIDE)
    """Side of the square that the model sees; ``null`` takes the model's own."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(NetworkConfig):
    """Keys of ``prior=checkpoint``."""

    name: str = "checkpoint"
    """Registered name of the encoder."""
    path: str | None = None
    """A .ckpt, .pth, .pt or .safetensors file. Required. Pickled code in it is never run."""
    architecture: str = "resnet18"
    """Name of the network: torchvision's, timm's, or solo-learn's (vit_tiny, swin_tiny, ...)."""
    library: str = "auto"
    """``torchvision``, ``timm``, or ``auto``: torchvision for ResNets, as in solo-learn, else timm."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the network's constructor, such as solo-learn's ``backbone.kwargs`` (patch_size, img_size, ...)."""
    stem: str = "auto"
    """First layers of a ResNet: ``imagenet``, ``small`` (solo-learn's for CIFAR), or ``auto``, by the weights in the file."""
    prefix: str | None = None
    """Part of the weights' names to strip, for example ``momentum_backbone.``; ``null`` finds the one that fits."""
    image_size: int = number(224, least=1, most=LARGEST_SIDE)
    """Side of the square that the network sees."""
    resize: int | None = number(None, least=1, most=2 * LARGEST_SIDE)
    """The shorter side is scaled to this before the crop; ``null``: image_size / 0.875, or image_size up to 96."""
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    """Mean of each channel that the network was trained with."""
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    """Standard deviation of each channel that the network was trained with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("path is missing: name the checkpoint, for example prior.path=model.ckpt.")
        check_choice("library", self.library, LIBRARIES)
        check_choice("stem", self.stem, STEMS)
        if self.resize is not None:
            check_number("resize", self.resize, least=self.image_size)
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean={self.mean} and std={self.std} must have three numbers each, those of std above 0.")


def stages(image_size: int) -> int:
    """Number of halvings from ``image_size`` to a 4 x 4 map.

    Raises:
        ValueError: ``image_size`` is not 8, 16, 32, 64, ...
    """
    count = (image_size // SMALLEST_MAP).bit_length() - 1
    if image_size < 2 * SMALLEST_MAP or SMALLEST_MAP << count != image_size:
        raise ValueError(f"image_size={image_size} must be a power of two, at least {2 * SMALLEST_MAP} (8, 16, 32, 64, ...).")
    return count


CONFIGS: dict[str, type[PriorConfig]] = {
    config.name: config
    for config in (
        ArrayConfig,
        AutoencoderConfig,
        CheckpointConfig,
        JoinConfig,
        PatchesConfig,
        PcaConfig,
        PixelsConfig,
        RandomConfig,
        TimmConfig,
        TorchvisionConfig,
        VaeConfig,
    )
}
"""Of the priors that come with solo-gps, by name."""
