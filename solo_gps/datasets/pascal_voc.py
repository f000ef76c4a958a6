"""Objects of Pascal VOC: the rectangles of its photos that show one (Everingham et al., IJCV 2010), by torchvision."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import ParseError  # for the name of its error # nosec B405

from torchvision.datasets import VOCDetection
from torchvision.datasets.voc import ET_parse  # defusedxml's where it is installed

from solo_gps.datasets.sources import Box, Crops, check_files
from solo_gps.errors import DataError, brief, printable
from solo_gps.interfaces import Contents

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def open_objects(name: str, root: str, train: bool, download: bool) -> Contents:
    """Opens the objects of ``voc2007``'s trainval or test, or of ``voc2012``'s train or val, whose test has no public ones.

    Those that are marked difficult are left out, as by VOC's own evaluation.
    """
    year = name.removeprefix("voc")
    part = {"2007": ("trainval", "test"), "2012": ("train", "val")}[year][0 if train else 1]
    photos = VOCDetection(root, year=year, image_set=part, download=download)
    check_files([*photos.images, *photos.annotations], root)
    samples: list[tuple[tuple[str, Box], int]] = []
    for photo, annotation in zip(photos.images, photos.annotations, strict=True):
        try:
            told = VOCDetection.parse_voc_xml(ET_parse(annotation).getroot())["annotation"]
            samples += [((photo, _box(thing["bndbox"])), _number(thing["name"])) for thing in _easy(told["object"])]
        except (ParseError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{printable(annotation)}: is no annotation of VOC's ({brief(error)}). Mend it.") from error
    return Contents(samples=samples, source=Crops(root))


def _easy(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [thing for thing in things if thing.get("difficult", "0") != "1"]


def _box(corners: dict[str, str]) -> Box:
    """VOC counts pixels from 1, and the last ones belong to the object."""
    left, top, right, bottom = (round(float(corners[key])) for key in ("xmin", "ymin", "xmax", "ymax"))
    if not (1 <= left <= right and 1 <= top <= bottom):
        raise ValueError(f"an object from {left}, {top} to {right}, {bottom}")
    return left - 1, top - 1, right, bottom


def _number(name: str) -> int:
    if name not in CLASSES:
        raise ValueError(f"an object {name!r}, which is none of the 20 classes")
    return CLASSES.index(name)
