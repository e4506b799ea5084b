"""Files of unfinished work: what comes back is what was written, under its own name, or an error."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from raydd.core.errors import ArtefactError
from raydd.storage import Folder, self_checked

TENSORS = {"a": torch.arange(6).view(2, 3), "b": torch.tensor(0.5)}
FACTS = {"rows": [1, {"two": None}]}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "work")


def test_what_is_written_comes_back(folder: Folder) -> None:
    self_checked.write(folder, "x.safetensors", TENSORS, FACTS)
    tensors, facts = self_checked.read(folder, "x.safetensors")
    assert facts == FACTS and tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    self_checked.write_facts(folder, "x.json", FACTS)
    assert self_checked.read_facts(folder, "x.json") == FACTS
    assert self_checked.verify(folder, "x.safetensors") and self_checked.verify(folder, "x.json")


@pytest.mark.parametrize("ending", ["safetensors", "json"])
def test_one_under_the_name_of_another_is_refused(ending: str, folder: Folder, tmp_path: Path) -> None:
    """In the same folder, and under the same name in another; a run that moves takes its folders along."""
    one, other = f"1.{ending}", f"2.{ending}"

    def write(name: str) -> None:
        if ending == "json":
            self_checked.write_facts(folder, name, FACTS)
        else:
            self_checked.write(folder, name, TENSORS, FACTS)

    read = self_checked.read_facts if ending == "json" else self_checked.read
    write(one)
    shutil.copytree(tmp_path / "work", tmp_path / "elsewhere" / "work")
    moved = Folder.at(tmp_path / "elsewhere" / "work")
    assert read(moved, one) is not None
    shutil.copytree(tmp_path / "work", tmp_path / "other")
    folder.write(other, folder.read(one))
    for place, name in ((folder, other), (Folder.at(tmp_path / "other"), one)):
        with pytest.raises(ArtefactError, match=rf"is the file work/{one} under another name"):
            read(place, name)
        with pytest.raises(ArtefactError, match="under another name"):
            self_checked.verify(place, name)


def test_files_of_earlier_versions_say_no_name(folder: Folder) -> None:
    folder.write("x.safetensors", self_checked.pack(TENSORS, FACTS))
    assert self_checked.read(folder, "x.safetensors")[1] == FACTS


def test_a_changed_name_is_a_changed_file(folder: Folder) -> None:
    self_checked.write_facts(folder, "1.json", FACTS)
    said = json.loads(folder.read("1.json"))
    for changed in ({**said, "name": "work/2.json"}, {key: said[key] for key in ("facts", "sha256")}):
        folder.write("2.json", json.dumps(changed).encode())
        with pytest.raises(ArtefactError, match="SHA-256 differs"):
            self_checked.read_facts(folder, "2.json")


def test_other_files_are_none(folder: Folder) -> None:
    from safetensors.torch import save

    folder.write("x.safetensors", save(TENSORS))
    folder.write("x.json", b"[]")
    folder.write("x.txt", b"words")
    assert not any(self_checked.verify(folder, name) for name in ("x.safetensors", "x.json", "x.txt"))
