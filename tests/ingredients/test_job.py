"""Ingredients that workers of a job make one after the other: dealt or together, whatever is there, whoever is late."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from raydd.core.distributed import rank
from raydd.core.errors import RunError
from raydd.core.interruption import Interruption
from raydd.core.progress import NoProgress, Numbers, Progress, Work
from raydd.ingredients.base import SIGNALS, Ingredient
from raydd.ingredients.job import make_together
from tests.support import tiny


@dataclass(frozen=True)
class Files(Ingredient[list[int]]):
    """A file for each piece, which says who wrote it, and a last one that lists what lay there then."""

    at: Path
    needed: tuple[str, ...] = ()
    """Folders that have to be whole when the first piece is made."""
    pieces_in_all: int = 5
    dealt: bool = True

    kind: ClassVar[str] = "files"
    title: ClassVar[str] = "files"

    @property
    def deals_pieces(self) -> bool:
        return self.dealt

    def key(self) -> str:
        return self.at.name

    def is_made(self) -> bool:
        return (self.at / "whole").exists()

    def pieces(self) -> list[int]:
        return [piece for piece in range(self.pieces_in_all) if not (self.at / str(piece)).exists()]

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        assert all((self.at.with_name(name) / "whole").exists() for name in self.needed)
        time.sleep(0.05 * (1 + rank()))  # the second worker is late
        (self.at / f"{piece}-by-{rank()}").touch()
        (self.at / str(piece)).touch()
        progress.update(Work("file", str(piece)), 1, 1)

    def finish(self) -> None:
        assert rank() == 0
        (self.at / "whole").write_text(json.dumps(sorted(file.name for file in self.at.iterdir())))

    def open(self) -> list[int]:
        return []


class Counting(NoProgress):
    """Counts what it is told."""

    told = 0

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        self.told += 1


def chained(root: Path) -> list[Ingredient[Any]]:
    kitchen: Any = None
    return [
        Files(kitchen, root / "a"),
        Files(kitchen, root / "b", ("a",), 3, dealt=False),
        Files(kitchen, root / "c", ("a", "b"), 4),
    ]


def made_by_rank(root: str) -> tiny.Results:
    counting = Counting()
    make_together(chained(Path(root)), counting)
    return {"told": torch.tensor(counting.told)}


def written(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*-by-*"))


def test_two_workers_make_one_after_the_other(tmp_path: Path) -> None:
    """Pieces are dealt by what is missing; what both make together both make; the last waits until others are whole."""
    for name in "abc":
        (tmp_path / name).mkdir()
    for there in ("a/0", "a/3"):
        (tmp_path / there).touch()
    found = tiny.on_workers(2, made_by_rank, str(tmp_path))
    assert written(tmp_path / "a") == ["1-by-0", "2-by-1", "4-by-0"]
    assert written(tmp_path / "b") == [f"{piece}-by-{worker}" for piece in range(3) for worker in range(2)]
    assert written(tmp_path / "c") == ["0-by-0", "1-by-1", "2-by-0", "3-by-1"]
    listed = json.loads((tmp_path / "a" / "whole").read_text())
    assert set(listed) == {*map(str, range(5)), *written(tmp_path / "a")}
    assert [int(one["told"]) for one in found] == [2 + 3 + 2, 1 + 2]


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "whole").touch()
    made_by_rank(str(tmp_path))
    assert not any(written(tmp_path / name) for name in "abc")


def test_pieces_that_are_all_there_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for piece in range(5):
        (tmp_path / "a" / str(piece)).touch()
    make_together(chained(tmp_path)[:1], NoProgress())
    assert (tmp_path / "a" / "whole").exists() and not written(tmp_path / "a")


class Vanishing(Files):
    """Whose last file is deleted at once."""

    def finish(self) -> None:
        """Somebody deletes what is written."""


def test_what_is_deleted_meanwhile_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    kitchen: Any = None
    with pytest.raises(RunError, match="files: not all there after it was made"):
        make_together([Vanishing(kitchen, tmp_path / "a")], NoProgress())
