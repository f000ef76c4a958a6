"""A folder of every odd file that people have among their images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_odd_folder(folder: Path) -> Path:
    """Class folders with sound images and one of each kind of trouble; the same bytes wherever it is written."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog", "empty", ".ipynb_checkpoints"):
        (folder / name).mkdir(parents=True)
    for name in ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"):
        Image.fromarray(draw.integers(0, 256, (32, 24, 3), dtype=np.uint8)).save(folder / name)
    (folder / "dog" / "cat.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    (folder / "cat" / "again.png").write_bytes((folder / "cat" / "1.png").read_bytes())
    write_deep(folder / "cat" / "16-bit.png", draw.integers(0, 4096, (32, 24)))
    Image.fromarray(draw.random((32, 24), dtype=np.float32)).save(folder / "cat" / "float.tiff")
    write_deep(folder / "dog" / "8-bit-as-16.png", draw.integers(0, 256, (32, 24)))
    Image.fromarray(draw.integers(0, 256, (32, 24, 4), dtype=np.uint8)).save(folder / "dog" / "glass.png")
    Image.new("L", (32, 24), 255).save(folder / "dog" / "white.png")
    write_truncated(folder / "cat" / "truncated.jpg")
    write_huge(folder / "dog" / "huge.png")
    (folder / "dog" / "page.jpg").write_text("<html>404</html>")
    (folder / "dog" / "gone.png").symlink_to("nowhere.png")
    (folder / "cat" / "loop").symlink_to(".")
    for name in ("notes.csv", "cat/.DS_Store", "cat/readme.txt"):
        (folder / name).write_text("no image")
    (folder / "old").symlink_to("nowhere")
    return folder


def write_deep(path: Path, values: np.ndarray) -> None:
    """16 bits of grey."""
    Image.fromarray(values.astype(np.uint16)).save(path)


def write_truncated(path: Path) -> None:
    """The first part of a JPEG file."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:1000])


def write_huge(path: Path) -> None:
    """20,000 x 20,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_000 * 2501), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
