"""Photos of hotel rooms to train on, to search in, and to search by, each in a folder of class folders, a class a hotel.

The form of the revisited Hotel-ID data set of GPS-SSL (https://arxiv.org/abs/2401.01990), whose photos are those of Hotel-ID 2021
(Kamath et al., https://arxiv.org/abs/2106.05746).
"""

from __future__ import annotations

import os

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from solo_gps.datasets.sources import Files
from solo_gps.errors import DataError, first_line, printable
from solo_gps.interfaces import Contents

WHERE = "https://www.kaggle.com/competitions/hotel-id-2021-fgvc8/data"


def open_hotels(name: str, root: str, train: bool, download: bool) -> Contents:
    """Opens train, or the photos of query that show a hotel of train; retrieval needs no such hotel, and its own command."""
    if download:
        raise RuntimeError(f"Kaggle asks for an account ({WHERE})")
    numbers = find_classes(os.path.join(root, "train"))[1]
    if not train:
        asked = find_classes(os.path.join(root, "query"))[0]
        numbers = {hotel: number for hotel, number in numbers.items() if hotel in asked}
        if not numbers:
            raise DataError(
                f"data.val_path={root!r}: query has no hotel of train, so that no classifier could know its photos. Set "
                "data.val_path=null, and judge the checkpoint by retrieval: solo-gps evaluate ... --train gallery --test query"
            )
    folder = os.path.join(root, "train" if train else "query")
    try:
        files = make_dataset(folder, numbers, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        why = f"{first_line(error)}. Every folder in there is a hotel: fill or remove it."
        raise DataError(f"{printable(folder)}: {why}") from error
    return Contents(samples=files, source=Files(root))


def count_hotels(root: str) -> int:
    """Number of hotels that are trained on."""
    folder = os.path.join(os.path.expanduser(root), "train")
    return len(find_classes(folder)[0]) if os.path.isdir(folder) else 1  # opening it says what is wrong
