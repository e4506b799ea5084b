"""Other people's files: what is wrong with one is a single message, and what it declares is not believed."""

import os
from pathlib import Path

import pytest
import torch

from raydd.core.errors import ArtefactError, DataError
from raydd.storage.foreign_files import MOST_PACKED, first_line, guarded, guarded_file, require_room, require_stored
from raydd.storage.pointers import is_pointer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


@pytest.mark.parametrize("raised", [ValueError("one\ntwo"), KeyError("x"), RecursionError(), BaseException("a panic")])
def test_whatever_is_raised_is_one_message(raised: BaseException) -> None:
    words = r"^weights\.pt: is not a network, or is damaged \("
    with pytest.raises(ArtefactError, match=words) as caught, guarded("weights.pt", "a network", b"", ArtefactError):
        raise raised
    assert "\n" not in str(caught.value) and caught.value.__cause__ is raised


def test_what_steers_terminals_is_left_out() -> None:
    assert first_line(ValueError("\n \x1b[1mbold\x1b[0m and\a loud \nmore")) == "bold and loud"
    assert first_line(KeyError()) == "KeyError" and len(first_line(ValueError("x" * 500))) == 160


@pytest.mark.parametrize("raised", [DataError("ours"), KeyboardInterrupt()])
def test_errors_of_ours_and_whoever_breaks_off_pass(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, guarded("file", "a file", b""):
        raise raised
    assert caught.value is raised


def test_a_pointer_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_bytes(POINTER)
    with pytest.raises(DataError, match=r"x\.npz: is a pointer of Git LFS"), guarded_file(file, "an array"):
        raise ValueError
    assert is_pointer(POINTER) and not is_pointer(b"PK") and not is_pointer(b"")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, words in (("pipe", "a pipe"), ("folder", "a folder"), ("nothing", "there is no such file")):
        with pytest.raises(DataError, match=words), guarded_file(tmp_path / name, "a file"):
            pytest.fail("was opened")


def test_declared_sizes_are_checked() -> None:
    require_room(MOST_PACKED * 4096, 4096, "here")
    require_room(1024, 1, "small files may be of anything")
    with pytest.raises(DataError, match="here: declares 819,201 bytes in a file of 4,096"):
        require_room(MOST_PACKED * 4096 + 1, 4096, "here")
    with pytest.raises(DataError, match="bytes of memory, of which this machine has"):
        require_room(2**60, 2**58, "here")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),
        torch.zeros(2, 2).to_sparse(),
        torch.empty(3, device="meta"),
        torch.zeros(3).as_strided((1000, 1000), (0, 0)),
    ],
    ids=["expanded", "sparse", "meta", "strided"],
)
def test_tensors_that_are_not_stored(tensor: torch.Tensor) -> None:
    with pytest.raises(DataError, match="^here: "):
        require_stored(tensor, "here")


def test_tensors_that_are_stored() -> None:
    whole = torch.zeros(4, 6)
    for tensor in (whole, whole.T, whole[1:, ::2], whole[0, 0], whole[:0]):
        require_stored(tensor, "here")
