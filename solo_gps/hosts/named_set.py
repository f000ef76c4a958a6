"""The torch data set behind a named one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from solo_gps.errors import UnreadableImageError, printable
from solo_gps.interfaces import Contents


class NamedSet(Dataset):
    """Items ``(image, target)``; solo-learn adds their index.

    Args:
        contents: The images.
        root: Folder of the data set.
        transform: From an image to what the item shows; ``None`` for the image itself.

    Attributes:
        samples: Where each image is, and its class; solo-learn takes ``data.fraction`` of it.
    """

    def __init__(self, contents: Contents, root: str, transform: Callable[[Any], Any] | None = None) -> None:
        self.samples, self.source = list(contents.samples), contents.source
        self.root, self.transform = root, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        where, target = self.samples[index]
        try:
            image = self.source.image(where)
        except Exception as error:  # a damaged file brings out errors of any type in Pillow and its codecs
            raise UnreadableImageError(printable(self.source.file(where)), error) from error
        return image if self.transform is None else self.transform(image), target
