"""The papers' data sets that solo-learn does not know. The built-ins register here, like any plugin's."""

from __future__ import annotations

from solo_gps.hookspecs import hookimpl
from solo_gps.interfaces import NamedDataset
from solo_gps.priors.config import IMAGENET_MEAN, IMAGENET_STD

HALF = (0.5, 0.5, 0.5)
"""As MedMNIST's own experiments (https://github.com/MedMNIST/experiments)."""
MEDMNIST = {
    **{"pathmnist": (9, "89,996", "7,180"), "chestmnist": (1, "78,468", "22,433"), "dermamnist": (7, "7,007", "2,005")},
    **{"octmnist": (4, "97,477", "1,000"), "pneumoniamnist": (2, "4,708", "624"), "retinamnist": (5, "1,080", "400")},
    **{"breastmnist": (2, "546", "156"), "bloodmnist": (8, "11,959", "3,421"), "tissuemnist": (8, "165,466", "47,280")},
    **{"organamnist": (11, "34,561", "17,778"), "organcmnist": (11, "12,975", "8,216")},
    "organsmnist": (11, "13,932", "8,827"),
}
"""Name to classes (one where an image has several findings), images of train and of test."""
SIDES = (28, 64, 128, 224)


def _medmnist(flag: str, size: int) -> NamedDataset:
    classes, train, test = MEDMNIST[flag]
    return NamedDataset(
        open="solo_gps.datasets.medmnist_sets:open_medmnist",
        classes=classes,
        mean=HALF,
        std=HALF,
        size=size,
        shorter_side=None,
        layout=f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz",
        trained_on=f"train, {train}",
        held_out=f"test, {test}",
    )


SETS = {
    "fgvc_aircraft": NamedDataset(
        open="solo_gps.datasets.fgvc_aircraft:open_aircraft",
        classes=100,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        size=224,
        shorter_side=256,
        layout="fgvc-aircraft-2013b/data with images/, variants.txt, images_variant_trainval.txt, images_variant_test.txt",
        trained_on="trainval, 6,667",
        held_out="test, 3,333",
    ),
    "pcam": NamedDataset(
        open="solo_gps.datasets.pcam:open_pcam",
        classes=2,
        mean=(0.7008, 0.5384, 0.6916),  # of the pixels of train, as published widely; not measured here
        std=(0.2350, 0.2774, 0.2129),
        size=96,
        shorter_side=None,
        layout="pcam/camelyonpatch_level_2_split_{train,test}_{x,y}.h5",
        trained_on="train, 262,144",
        held_out="test, 32,768",
    ),
    "tiny_imagenet": NamedDataset(
        open="solo_gps.datasets.tiny_imagenet:open_tiny_imagenet",
        classes=200,
        mean=(0.4802, 0.4481, 0.3975),  # likewise
        std=(0.2770, 0.2691, 0.2821),
        size=64,
        shorter_side=None,
        layout="tiny-imagenet-200 with wnids.txt, train/<id>/{<id>_boxes.txt,images/}, val/{val_annotations.txt,images/}",
        trained_on="train, 100,000",
        held_out="val, 10,000",
    ),
    "voc2007": NamedDataset(
        open="solo_gps.datasets.pascal_voc:open_objects",
        classes=20,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        size=224,
        shorter_side=None,
        layout="VOCdevkit/VOC2007 with JPEGImages/, Annotations/, ImageSets/Main/{trainval,test}.txt",
        trained_on="objects of trainval, 12,608",
        held_out="objects of test, 12,032",
    ),
    "voc2012": NamedDataset(
        open="solo_gps.datasets.pascal_voc:open_objects",
        classes=20,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        size=224,
        shorter_side=None,
        layout="VOCdevkit/VOC2012 with JPEGImages/, Annotations/, ImageSets/Main/{train,val}.txt",
        trained_on="objects of train, 13,609",
        held_out="objects of val, 13,841",
    ),
    "hotel_id": NamedDataset(
        open="solo_gps.datasets.hotel_id:open_hotels",
        classes="solo_gps.datasets.hotel_id:count_hotels",
        # By the authors' own pipelines: https://github.com/aarashfeizi/gps-ssl/blob/main/solo/data/pretrain_dataloader.py
        mean=(0.4620, 0.3980, 0.3292),
        std=(0.2619, 0.2529, 0.2460),
        size=224,
        shorter_side=256,
        layout="train/<hotel>/, query/<hotel>/, gallery/<hotel>/ with photos",
        trained_on="train",
        held_out="photos of query that show a hotel of train",
    ),
    **{flag if size == 28 else f"{flag}_{size}": _medmnist(flag, size) for flag in MEDMNIST for size in SIDES},
}


@hookimpl
def register_named_datasets() -> dict[str, NamedDataset]:
    """Registers the built-in data sets."""
    return SETS
