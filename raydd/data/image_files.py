"""Which files of a folder are images, by their names or, where these say nothing, by their first bytes."""

from functools import cache
from pathlib import PurePosixPath
from threading import RLock
from typing import Final

from PIL import Image

from raydd.storage import Folder

_BEGINNINGS: Final = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
"""Of PNG, JPEG, GIF, BMP and TIFF files."""
_LONGEST: Final = 16


_FORMATS: Final = (
    *(
        "AVIF",
        "BMP",
        "DIB",
        "GIF",
        "HEIF",
        "JPEG",
        "JPEG2000",
        "PCX",
        "PNG",
        "PPM",
        "PSD",
        "SGI",
        "TGA",
        "TIFF",
        "WEBP",
    ),
)
"""What is read, whatever a file is called; of others Pillow starts programs (EPS), or reads what are no photographs."""


_ONE_AT_A_TIME: Final = RLock()
"""Threads that decode ask at once, and Pillow's tables must not grow while they are read."""


def formats() -> tuple[str, ...]:
    """The formats of Pillow's that images may be in; HEIC where pillow-heif is installed, too."""
    with _ONE_AT_A_TIME:
        return _known()[0]


def suffixes() -> frozenset[str]:
    """Those of these formats, in small letters."""
    with _ONE_AT_A_TIME:
        return _known()[1]


@cache
def _known() -> tuple[tuple[str, ...], frozenset[str]]:
    try:
        import pillow_heif  # here, because it is optional
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    known = tuple(name for name in _FORMATS if name in Image.OPEN)
    return known, frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


LEFT_BY_SYSTEMS: Final = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that archives and disks have of themselves: they are of no class."""


def folders_of_images(folder: Folder) -> list[str]:
    """The names of the folders directly inside that may hold images, sorted."""
    return [name for name in folder.folders() if name not in LEFT_BY_SYSTEMS]


def image_files(folder: Folder) -> list[str]:
    """The names of a folder's image files, sorted: those of a known suffix, and those without one that begin so."""
    return [name for name in folder.files() if is_image(folder, name)]


def is_image(folder: Folder, name: str) -> bool:
    """Whether a file of a folder is an image, as far as its name or its first bytes tell."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in suffixes() if suffix else _begins_as_image(folder, name)


def _begins_as_image(folder: Folder, name: str) -> bool:
    if folder.is_local:
        with (folder.path / name).open("rb") as file:
            start = file.read(_LONGEST)
    else:
        start = folder.read(name)[:_LONGEST]
    return start.startswith(_BEGINNINGS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
