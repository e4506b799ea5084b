"""The graph that ingredients form by what each needs: walked from what is wanted, each once, needs first."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from raydd.ingredients.base import Ingredient

Name = tuple[str, str]
"""Kind and content key, by which two objects are the same ingredient."""


def name_of(ingredient: Ingredient[Any]) -> Name:
    """What tells it from all others of a run."""
    return ingredient.kind, ingredient.key()


def everything(wanted: Iterable[Ingredient[Any]]) -> Iterator[Ingredient[Any]]:
    """All of these and all that they need, made or not, each once, in an order in which one needs the other."""
    seen: set[Name] = set()

    def below(ingredient: Ingredient[Any]) -> Iterator[Ingredient[Any]]:
        name = name_of(ingredient)
        if name not in seen:
            seen.add(name)
            for needed in ingredient.needs():
                yield from below(needed)
            yield ingredient

    for ingredient in wanted:
        yield from below(ingredient)


def unmade(wanted: Iterable[Ingredient[Any]], done: Collection[Name] = ()) -> list[Ingredient[Any]]:
    """What is to be made of these and of all that they need, each once, in an order in which one needs the other.

    Args:
        wanted: what is to be there in the end.
        done: what counts as made, whatever it says itself: students that failed stay missing, a report is never there.
    """
    found: dict[Name, Ingredient[Any]] = {}

    def look_at(ingredient: Ingredient[Any]) -> None:
        name = name_of(ingredient)
        if name in found or name in done or ingredient.is_made():
            return
        for needed in ingredient.needs():
            look_at(needed)
        found[name] = ingredient

    for ingredient in wanted:
        look_at(ingredient)
    return list(found.values())


def chain(missing: Sequence[Ingredient[Any]]) -> list[Ingredient[Any]]:
    """The first of what is to be made, and where a job makes it, whatever that job can make next.

    To start a job's workers takes longer than many a stage. In a job each ingredient is made after what it needs.

    Args:
        missing: as `unmade` lists it, not empty.
    """
    first, *others = missing
    if first.spread != "train":
        return [first]
    chained, names = [first], {name_of(first)}
    not_there = set(map(name_of, missing))
    for ingredient in others:
        if ingredient.spread == "train" and _needed(ingredient) & not_there <= names:
            chained.append(ingredient)
            names.add(name_of(ingredient))
    return chained


def _needed(ingredient: Ingredient[Any]) -> set[Name]:
    return set(map(name_of, ingredient.needs()))
