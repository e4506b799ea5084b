"""Files of other code, damaged or made with intent: every reader answers with one message, in no time."""

import os
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from raydd.core.errors import UserError
from raydd.exchange.answers import Answers
from raydd.exchange.formats import read
from raydd.exchange.replay_buffers import trajectories
from raydd.ingredients import given_weights
from raydd.ingredients.experts import trajectory_card
from tests.support import foreign

ANSWERS = {
    "pt": Answers(soft_labels="logits"),
    "rat_bptt": Answers(soft_labels="logits", lr=0.1),
    "idc": Answers(factor=2),
}
SECONDS = 20
"""That a reader may take at the most, on any machine: a bomb takes minutes."""


def write_pt(folder: Path) -> Path:
    return foreign.write_triple(folder, foreign.images(foreign.digits()), foreign.logits(), 0.03) / "images_best.pt"


def write_res(folder: Path) -> Path:
    folder.mkdir()
    return foreign.write_res(folder / "res_DM.pt", [(foreign.images(foreign.digits()), foreign.classes())])


def write_idc(folder: Path) -> Path:
    folder.mkdir()
    torch.save([torch.rand(20, 1, 8, 8), foreign.classes()], folder / "data.pt")
    return folder / "data.pt"


def write_kip(folder: Path) -> Path:
    folder.mkdir()
    return foreign.write_npz(folder / "kip.npz", foreign.images(foreign.digits()), foreign.centred())


def write_rat_bptt(folder: Path) -> Path:
    folder.mkdir()
    return foreign.write_hdf5(folder / "x.h5", foreign.images(foreign.digits()), foreign.logits())


SETS: dict[str, Callable[[Path], Path]] = {
    "pt": write_pt,
    "res": write_res,
    "idc": write_idc,
    "kip": write_kip,
    "rat_bptt": write_rat_bptt,
}


def read_set(form: str, file: Path) -> None:
    read(form, file, foreign.digits(), ANSWERS.get(form, Answers()))


def write_teacher(folder: Path, ending: str) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    state = {"head.weight": torch.randn(10, 8), "head.bias": torch.randn(10)}
    file = folder / f"teacher{ending}"
    save_file(state, file) if ending == ".safetensors" else torch.save(state, file)
    return file


def read_teacher(file: Path) -> None:
    given_weights.parameters(str(file), None, foreign.digits().class_names)


def write_buffer(folder: Path) -> Path:
    folder.mkdir()
    torch.save([foreign.trajectory(0, 1)], folder / "replay_buffer_0.pt")
    return folder / "replay_buffer_0.pt"


def read_buffer(file: Path) -> None:
    from raydd import config as configs

    config = configs.from_mapping(foreign.CONFIG)
    list(trajectories(file, trajectory_card(config.experts, config.network, foreign.digits(), 0)))


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    **{form: (write, lambda file, form=form: read_set(form, file)) for form, write in SETS.items()},  # type: ignore[misc]
    "teacher.pt": (lambda folder: write_teacher(folder, ".pt"), read_teacher),
    "teacher.safetensors": (lambda folder: write_teacher(folder, ".safetensors"), read_teacher),
    "replay buffer": (write_buffer, read_buffer),
}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut off, with bits turned, with a piece of zeros or of noise, without a piece, or with one twice."""
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice((1, 4, 64, 1024)))
    match draw.randrange(6):
        case 0:
            return content[:start]
        case 1:
            return content[:start] + bytes([content[start] ^ 1 << draw.randrange(8)]) + content[start + 1 :]
        case 2:
            return content[:start] + bytes(end - start) + content[end:]
        case 3:
            return content[:start] + draw.randbytes(end - start) + content[end:]
        case 4:
            return content[:start] + content[end:]
        case _:
            return content[:end] + content[start:]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [25, pytest.param(700, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(name: str, count: int, tmp_path: Path) -> None:
    """And none hangs; what is read whole may have other numbers, of which nothing in the file tells."""
    write, reads = READERS[name]
    file = write(tmp_path / "files")
    content, draw, refused = file.read_bytes(), random.Random(name), 0
    reads(file)
    for number in range(count):
        file.write_bytes(damaged(content, draw))
        began = time.process_time()
        try:
            reads(file)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error).strip() and (file.name in str(error) or "teacher" in str(error)), number
        assert time.process_time() - began < SECONDS, number
    assert refused > count / 4


def bomb_of_zeros(file: Path) -> None:
    """A gigabyte of zeros in a file of a megabyte."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images.npy", "labels.npy"):
            with archive.open(name, "w", force_zip64=True) as part:
                np.lib.format.write_array_header_1_0(
                    part, {"descr": "<f4", "fortran_order": False, "shape": (2**15, 64, 64, 1)}
                )
                for _ in range(2**9):
                    part.write(bytes(2**20))


def declared_in_hdf5(file: Path) -> None:
    with h5py.File(file, "w") as content:
        content.create_dataset("data", shape=(2**40, 64), dtype="f4", chunks=(1024, 64))


def linked_in_hdf5(file: Path) -> None:
    with h5py.File(file, "w") as content:
        content["data"] = h5py.ExternalLink("/etc/passwd", "/data")


def raw_in_hdf5(file: Path) -> None:
    with h5py.File(file, "w") as content:
        content.create_dataset("data", shape=(20, 64), dtype="u1", external=[("/etc/passwd", 0, 20 * 64)])


def soft_in_hdf5(file: Path) -> None:
    with h5py.File(file, "w") as content:
        content["data"] = h5py.SoftLink("/data")


def expanded_pt(file: Path) -> None:
    torch.save([torch.zeros(1).expand(10**7, 1, 8, 8), foreign.classes()], file)


def a_pipe(file: Path) -> None:
    os.mkfifo(file)


INTENT: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("kip", "kip.npz", bomb_of_zeros, "declares"),
    ("rat_bptt", "x.h5", declared_in_hdf5, "declares"),
    ("rat_bptt", "x.h5", linked_in_hdf5, "is a link"),
    ("rat_bptt", "x.h5", raw_in_hdf5, "lies in other files"),
    ("rat_bptt", "x.h5", soft_in_hdf5, "is a link"),
    ("idc", "data.pt", expanded_pt, "stores fewer"),
    *((form, name, a_pipe, "a pipe") for form, name in (("kip", "k.npz"), ("idc", "data.pt"), ("rat_bptt", "x.h5"))),
    ("pt", "images_best.pt", a_pipe, "a pipe"),
]


@pytest.mark.parametrize(("form", "name", "write", "words"), INTENT)
def test_files_with_intent_are_refused_unread(
    form: str, name: str, write: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    if form == "pt":
        torch.save(foreign.classes(), tmp_path / "labels_best.pt")
    began = time.process_time()
    with pytest.raises(UserError, match=words):
        read_set(form, tmp_path / name)
    assert time.process_time() - began < SECONDS
