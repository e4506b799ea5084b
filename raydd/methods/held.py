"""A set that is there without being optimised: imported, or chosen among real images."""

from raydd.core.errors import RunError
from raydd.methods.base import MethodState
from raydd.sets.synthetic import SyntheticSet


class HeldSet:
    """A method that is done before its first step."""

    units = 1

    def __init__(self, held: SyntheticSet, name: str) -> None:
        """Hold a set; `name` is the method's."""
        self._set, self._name = held, name
        self.iteration = 0

    def step(self) -> dict[str, float]:
        """There is nothing to do.

        Raises:
            RunError: always.
        """
        raise RunError(f"{self._name}: nothing is optimised")

    def result(self) -> SyntheticSet:
        """The set."""
        return self._set

    def averaged(self) -> SyntheticSet | None:
        """None."""
        return None

    def revised(self) -> SyntheticSet | None:
        """None."""
        return None

    def state_dict(self) -> MethodState:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: MethodState) -> None:
        """Nothing changes."""
