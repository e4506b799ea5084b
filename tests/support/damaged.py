"""Image files with everything that can be wrong with them, by what a report says of each."""

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from tests.support.image_files import encoded, noise


@cache
def undecodable() -> dict[str, bytes]:
    """The bytes of files that have no pixels to give, by a part of what is said of them."""
    png, jpeg = encoded(noise(1, 40, 40)), encoded(noise(2, 40, 40), "JPEG")
    frames = [noise(seed) for seed in range(3)]
    return {
        "empty, 0 bytes": b"",
        "not an image": b"x,y\n1,2\n",
        "truncated": png[: len(png) // 2],
        "image file is truncated": jpeg[: len(jpeg) // 2],
        "3 frames": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "3 frames, where": encoded(frames[0], save_all=True, append_images=frames[1:]),
        "2 frames": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:2]),
        "32-bit pixels": encoded(Image.fromarray(np.ones((6, 6), np.float32)), "TIFF"),
        "decompression bomb": with_size(encoded(noise(3)), 20_000, 20_000),
    }


CUT_EXIF = b"II*\0" + struct.pack("<IHHHII", 8, 2, 271, 2, 32, 4096)
"""A table of two entries, the first of which points behind the end, and the second is not there."""


@cache
def changed() -> dict[str, bytes]:
    """The bytes of files whose pixels are not kept as they are, or are read with a warning, by what is said of them."""
    sixteen = np.arange(36, dtype=np.uint16).reshape(6, 6) * 1800
    return {
        "CMYK converted to RGB": encoded(noise(4).convert("CMYK"), "JPEG"),
        "16 bits cut to the upper 8": encoded(Image.fromarray(sixteen)),
        "16 bits cut": png_of_rgb16(6, 6),
        "EXIF cannot be read": encoded(noise(5), exif=b"rubbish!"),
        "Corrupt EXIF data": encoded(noise(6), "JPEG", exif=b"Exif\0\0" + CUT_EXIF),
    }


def with_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG file that claims another size."""
    header = struct.pack(">II", width, height) + png[24:29]
    return png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:]


def png_of_rgb16(width: int, height: int) -> bytes:
    """A PNG file of 16 bits a channel, whose upper 8 are 1, 2, 3, ..."""
    rows = b"".join(
        b"\0" + b"".join(bytes([1 + i % 250, 255]) for i in range(3 * width * y, 3 * width * (y + 1)))
        for y in range(height)
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    for name, body in chunks:
        file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return file.getvalue()
