"""Files that stand for others: pointers of Git LFS, which are a few lines of text until the files are fetched."""

from typing import Final

_BEGINNING: Final = b"version https://git-lfs.github.com/spec/"
LONGEST: Final = 1024
"""Bytes that a pointer has at most."""
FETCH: Final = "a pointer of Git LFS, not the file; fetch it with git lfs pull"


def is_pointer(content: bytes) -> bool:
    """Whether a file that begins so is a pointer."""
    return content.startswith(_BEGINNING)
