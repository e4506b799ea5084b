"""What determines expert trajectories: the card of a store, and whether it is the one that is wanted.

Letters: P flat parameters.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from raydd.core.errors import ArtefactError
from raydd.storage import Artefact
from raydd.storage.readable import legible


@dataclass(frozen=True, kw_only=True)
class TrajectoryCard:
    """What determines a store's trajectories, and so what they may be used for."""

    dataset: str
    fingerprint: str
    """Of the training images and labels."""
    preprocessing: Mapping[str, Any]
    """The map into network space, as it describes itself; fitted on the data of the fingerprint."""
    network: str
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of every parameter, in the order of the flat vector."""
    recipe: Mapping[str, Any]
    seed: int
    start: str | None = None
    """Content key of the pool of networks that they begin in; None where networks are freshly initialised."""

    @property
    def size(self) -> int:
        """P, the length of the parameter vectors."""
        return sum(math.prod(shape) for _, shape in self.parameters)

    def unflatten(self, params_P: Tensor) -> dict[str, Tensor]:
        """The parameters in a vector [P] by name."""
        pieces = params_P.split([math.prod(shape) for _, shape in self.parameters])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.parameters, pieces, strict=True)}

    def identity(self) -> dict[str, Any]:
        """As JSON, the payload of the store's content key."""
        described: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.start is None:
            del described["start"]
        return described


def read_card(artefact: Artefact) -> Mapping[str, Any]:
    """The card of a store, which is a mapping.

    Raises:
        ArtefactError: it is not.
    """
    with legible(artefact.folder.uri):
        return dict(json.loads(artefact.read("card.json")))


def require_card(found: Mapping[str, Any], card: TrajectoryCard, where: str) -> None:
    """Raise ArtefactError, naming the first field in which the trajectories at `where` differ from `card`."""
    for name, wanted in card.identity().items():
        if found.get(name) != wanted:
            raise ArtefactError(
                f"{where}: these trajectories were made for another {name}: {_short(found.get(name))}, "
                f"wanted {_short(wanted)}; name another experts.store or --out"
            )


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
