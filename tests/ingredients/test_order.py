"""The graph of ingredients: what is to be made, in which order, and what one job makes."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from raydd.core.interruption import Interruption
from raydd.core.progress import Progress
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.ingredients.order import chain, everything, name_of, unmade


@dataclass(frozen=True)
class Part(Ingredient[str]):
    """Is there as soon as its name is among those that are."""

    name: str
    needed: "tuple[Part, ...]" = ()
    how: Spread = "task"
    there: set[str] = field(default_factory=set)

    kind: ClassVar[str] = "part"
    title: ClassVar[str] = "part"

    @property
    def spread(self) -> Spread:
        return self.how

    def key(self) -> str:
        return self.name

    def is_made(self) -> bool:
        return self.name in self.there

    def needs(self) -> tuple[Ingredient[Any], ...]:
        return self.needed

    def make(self, piece: int, progress: Progress, interruption: Interruption = SIGNALS) -> None:
        self.there.add(self.name)

    def open(self) -> str:
        return self.name


def parts(there: set[str]) -> dict[str, Part]:
    """Scores before the data of a first stage; its set, a pool, a second set, their union; an observer beside them."""
    kitchen: Any = None
    made: dict[str, Part] = {}
    for name, spread, needed in (
        ("scores", "task", ()),
        ("data", "train", ("scores",)),
        ("first", "train", ("data",)),
        ("pool", "train", ("first",)),
        ("second", "train", ("first", "pool")),
        ("union", "here", ("first", "second")),
        ("observer", "task", ()),
        ("selection", "task", ("observer",)),
        ("students", "trials", ("union", "selection")),
    ):
        made[name] = Part(kitchen, name, tuple(made[one] for one in needed), spread, there)
    return made


ALL = ["scores", "data", "first", "pool", "second", "union", "observer", "selection", "students"]


def names(found: Any) -> list[str]:
    return [one.name for one in found]


def test_everything_is_listed_once_after_what_it_needs() -> None:
    assert names(everything([parts(set())["students"]])) == ALL
    assert names(everything([parts(set(ALL))["students"]])) == ALL


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ([], ALL),
        (["first"], ["pool", "second", "union", "observer", "selection", "students"]),
        (["union"], ["observer", "selection", "students"]),
        (["second", "selection"], ["scores", "data", "first", "union", "students"]),
        (["students"], []),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_what_is_there_hides_what_it_needs(there: list[str], wanted: list[str]) -> None:
    """Unless something else needs that."""
    assert names(unmade([parts(set(there))["students"]])) == wanted


def test_what_counts_as_done_is_not_made_again() -> None:
    made = parts({"union", "selection"})
    assert names(unmade([made["students"]])) == ["students"]
    assert unmade([made["students"]], {name_of(made["students"])}) == []


def test_a_job_makes_all_that_it_can_make_next() -> None:
    assert names(chain(unmade([parts(set())["students"]]))) == ["scores"]
    missing = unmade([parts({"scores"})["students"]])
    assert names(chain(missing)) == ["data", "first", "pool", "second"]
    assert names(chain(unmade([parts({"first"})["students"]]))) == ["pool", "second"]


def test_a_job_makes_nothing_that_waits_for_others() -> None:
    made = parts({"scores", "data"})
    last = Part(made["first"].kitchen, "last", (made["second"], made["observer"]), "train", made["first"].there)
    assert names(chain(unmade([last]))) == ["first", "pool", "second"]
