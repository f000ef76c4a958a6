"""The header of a .npy file: written by numpy, read strictly, so that a damaged one is refused and never guessed at."""

from __future__ import annotations

import ast
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"\x93NUMPY\x01\x00"


def header(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """The bytes that precede the rows of a C-ordered array."""
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def read_header(path: Path) -> tuple[tuple[int, ...], str, int]:
    """Reads the header of a C-ordered array.

    Returns:
        Shape, name of the type, and number of bytes before the first row.

    Raises:
        ValueError: It is damaged or of another kind.
        OSError: The file cannot be read.
    """
    import numpy as np

    with open(path, "rb") as file:
        start = file.read(len(MAGIC) + 2)
        length = int.from_bytes(start[len(MAGIC) :], "little")
        text = file.read(length)
    if not start.startswith(MAGIC) or len(text) != length or not text.endswith(b"\n"):
        raise ValueError("its header is not that of a .npy file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns about odd literals, which only damage makes
            values = ast.literal_eval(text.decode("ascii"))
        known = values.keys() == {"descr", "fortran_order", "shape"} and values["fortran_order"] is False
        shape = tuple(int(size) for size in values["shape"])
        dtype = np.dtype(str(values["descr"]))
    except (SyntaxError, TypeError, AttributeError, KeyError, MemoryError, RecursionError, Warning) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    if not known:
        raise ValueError("its header is not that of an array in C order")
    return shape, str(dtype), len(start) + length
