"""What is made and kept: ingredients, and the graph that they form by what each needs.

An ingredient knows its content key, which other ingredients have to be there first, which pieces of it are still to be
made, and how one piece is made, in whichever process. Pieces are idempotent and named by number or value, never by what
is left: one that is finished is never made again, one that is lost is made again elsewhere with the same result. So
whoever executes the work needs to know nothing but `spread`: how the pieces may be spread over processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Generic, Literal, Protocol, TypeVar

import torch

from raydd.core.interruption import Interruption, Signals
from raydd.core.progress import Progress, Work
from raydd.data import Undecoded
from raydd.data.prepared import PreparedData
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, verify_below
from raydd.training.recipe import Recipe

Made = TypeVar("Made")


@dataclass(frozen=True)
class Claim:
    """A folder in which nothing else may be finished: what another configuration made there is not replaced."""

    kind: str
    """Of the artefact."""
    folder: Folder
    keys: frozenset[str]
    """Those that may stand there."""


Spread = Literal["here", "task", "actors", "data", "train", "trials"]
"""How pieces may be spread: in the process that asks; in one task; over a pool of actors; over actors that are handed
decoded images; in one job whose workers take each piece together; as trials with a result each."""

SIGNALS: Final = Signals()
"""Those of this process: whoever is told nothing else ends by them."""


class Kitchen(Protocol):
    """Where ingredients are made: the real data, folders, and what a process may use. Small, and picklable."""

    @property
    def name(self) -> str:
        """Of the run, as dashboards and messages call it."""

    @property
    def folder(self) -> Folder:
        """What is kept."""

    @property
    def work(self) -> Folder:
        """What may be deleted when all is made."""

    @property
    def metrics(self) -> Folder:
        """Curves, as JSON lines."""

    @property
    def data(self) -> PreparedData:
        """The real data, mapped from the disk."""

    @property
    def training_files(self) -> Undecoded:
        """The training images by their files."""

    @property
    def network(self) -> NetworkConfig:
        """The network of experts, and of whatever is trained on the real data without one of its own."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    @property
    def seed(self) -> int:
        """Of the run's draws."""

    @property
    def teacher(self) -> "Ingredient[Any]":
        """The run's teacher, for what is measured by it."""

    def compiles(self, network: NetworkConfig, recipe: Recipe, num_images: int) -> bool:
        """Whether a training on so many images is compiled."""

    def pack(self, fastest: Callable[[], int]) -> int:
        """How many networks a process trains side by side; `fastest` measures it, where it is to be measured."""


@dataclass(frozen=True)
class Ingredient(ABC, Generic[Made]):
    """Something that is made from the real data, or from other ingredients, and kept as an artefact under its key.

    A kind of ingredient is a subclass with `kind`, `key`, `make` and `open`; what is not an artefact in one folder, or
    has more than one piece, says the rest.
    """

    kitchen: Kitchen

    kind: ClassVar[str]
    """Of the artefact; it names the folder, too."""
    title: ClassVar[str]
    """What progress, dashboards and messages call the work."""

    determined_by: ClassVar[tuple[str, ...]] = ("data", "network", "method", "seed")
    """The parts of a config that may determine it, by which is explained what else was found in its place."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what was opened here."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def label(self) -> str:
        """Which of its kind, where a run has several."""
        return ""

    @property
    def named(self) -> str:
        """What messages call it."""
        return f"{self.title} of {self.label}" if self.label else self.title

    @property
    def spread(self) -> Spread:
        """How the pieces may be spread over processes."""
        return "task"

    @property
    def folder(self) -> Folder:
        """Where it is, or will be."""
        return self.kitchen.folder / self.kind

    @abstractmethod
    def key(self) -> str:
        """Content key: what determines it, and nothing else."""

    def needs(self) -> "tuple[Ingredient[Any], ...]":
        """What has to be there first; asked only where this is not made."""
        return ()

    def is_made(self) -> bool:
        """Whether it is there, as it is wanted."""
        artefact = Artefact.find(self.folder, self.kind)
        return artefact is not None and artefact.manifest.key == self.key()

    def claims(self) -> Sequence[Claim]:
        """Where nothing else may be finished; nowhere, where others are welcome or what is there may be replaced."""
        return [Claim(self.kind, self.folder, frozenset({self.key()}))]

    def verify(self, is_read: bool) -> None:
        """See, before the work begins, that what is finished of it is as it was written.

        Args:
            is_read: whether anything that is to be made needs it; where nothing does, it may be left alone.

        Raises:
            ArtefactError: it is not.
        """
        verify_below(self.folder)

    @property
    def uses_data(self) -> bool:
        """Whether the real data have to lie where every process maps them from."""
        return True

    @property
    def deals_pieces(self) -> bool:
        """Whether each worker of a job makes pieces of its own; otherwise all make every piece together."""
        return False

    def begin(self) -> None:
        """What comes before the first piece, in the process that asks for it: nothing."""

    def pieces(self) -> Sequence[Any]:
        """The pieces that are still to be made, each picklable; asked on a device like that on which they are made."""
        return (0,)

    def num_missing(self) -> int:
        """How much is still to be made: pieces, or what these are packs of. Found without a clock, on any device."""
        return len(self.pieces())

    def name_of(self, piece: Any) -> Any:
        """What trackers call a piece."""
        return piece

    @property
    def counted(self) -> int | None:
        """How many pieces there are in all, where progress counts them; None where they tell themselves."""
        return None

    @abstractmethod
    def make(self, piece: Any, progress: Progress, interruption: Interruption = SIGNALS) -> Mapping[str, float] | None:
        """Make one piece, unless it is there; returns what trackers are told of it.

        Args:
            piece: one of `pieces`.
            progress: is told how it goes.
            interruption: tells work that keeps no state of every step to end in order.
        """

    def finish(self) -> None:
        """What comes after the last piece, in the process that asked for it: the manifest, for instance."""

    @abstractmethod
    def open(self) -> Made:
        """What was made.

        Raises:
            UserError: it is not there, or is not what it says.
        """


def make_here(ingredient: Ingredient[Any], progress: Progress, interruption: Interruption = SIGNALS) -> None:
    """Make all pieces of an ingredient in this process, one after the other."""
    ingredient.begin()
    pieces = ingredient.pieces()
    for done, piece in enumerate(pieces, start=1):
        ingredient.make(piece, progress, interruption)
        if (total := ingredient.counted) is not None:
            progress.update(Work.titled(ingredient.title), total - len(pieces) + done, total)
    ingredient.finish()


def in_order(wanted: Sequence[Ingredient[Any]]) -> Iterator[Ingredient[Any]]:
    """What has to be made of these and of all that they need, in the order in which one needs the other.

    What an ingredient needs is asked for when its turn comes, as that may depend on what is there by then.
    """
    for ingredient in wanted:
        if not ingredient.is_made():
            yield from in_order(ingredient.needs())
            yield ingredient
