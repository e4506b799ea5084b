"""The pool: networks that are trained on the synthetic images of one stage after the other.

PDD (https://arxiv.org/abs/2310.06982) distils a stage for networks that have been trained on all earlier ones. Members
are made one by one, by anybody, as files of their own; once all are there they become one artefact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raydd.core.errors import ArtefactError
from raydd.storage import Artefact, Folder, new_artefact, self_checked
from raydd.storage.readable import legible

NetworkStates = Sequence[Mapping[str, Tensor]]
"""States (parameters and buffers) of networks to begin in."""

KIND = "pool"
_NETWORK = "module."


@dataclass(frozen=True)
class NetworkPool(Sequence[Mapping[str, Tensor]]):
    """Networks where a stage begins: a sequence of their parameters and buffers, each read when it is asked for."""

    folder: Folder
    """Of the artefact."""
    work: Folder
    """Where members lie until all are there."""
    key: str
    size: int

    def __len__(self) -> int:
        """How many networks there are to be."""
        return self.size

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """One after the other."""
        return (self[number] for number in range(self.size))

    def __getitem__(self, number: Any) -> Any:
        """A network's parameters and buffers, by name."""
        return network_state(self.state(number))

    def state(self, number: int) -> dict[str, Tensor]:
        """A network with its optimiser's state, as `Training.state_dicts` gives it.

        Raises:
            ArtefactError: it is not made, or damaged.
        """
        name, artefact = _member(number), self._artefact()
        if artefact is not None and self.folder.has(name):
            with legible(self.folder.uri):
                return load_tensors(artefact.read(name))
        if not self.work.has(name):
            raise ArtefactError(f"{self.work.uri}: network {number} of the pool is not trained")
        tensors, _ = self_checked.read(self.work, name)
        return tensors

    def write(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Keep a network that is trained."""
        self_checked.write(self.work, _member(number), state)

    def missing(self) -> list[int]:
        """The networks that are not trained yet, or not there any more."""
        made = {*self.work.files(), *(self.folder.files() if self._artefact() else ())}
        return [number for number in range(self.size) if _member(number) not in made]

    @property
    def is_finished(self) -> bool:
        """Whether the artefact is there, with every file of it."""
        return self._artefact() is not None and not self.missing()

    def publish(self) -> None:
        """Make an artefact of all members, and forget where they lay before.

        Raises:
            ArtefactError: one is missing.
        """
        with new_artefact(self.folder, KIND, self.key) as writer:
            for number in range(self.size):
                writer.write(_member(number), save_tensors(self.state(number)))
        self.work.delete_all()

    def _artefact(self) -> Artefact | None:
        artefact = Artefact.find(self.folder, KIND)
        return artefact if artefact is not None and artefact.manifest.key == self.key else None


def network_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a training's state: parameters and buffers under their own names."""
    return {name.removeprefix(_NETWORK): tensor for name, tensor in state.items() if name.startswith(_NETWORK)}


def without_momenta(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A training's state with a fresh optimiser."""
    return {name: tensor for name, tensor in state.items() if name.startswith(_NETWORK)}


def _member(number: int) -> str:
    return f"member-{number:05d}.safetensors"
