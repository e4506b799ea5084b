"""What the loss of a method is, in words."""

from dataclasses import dataclass
from typing import Final

from raydd.core.plugins import METHODS, plugins
from raydd.methods import OWN, DMConfig
from raydd.methods.condensation.family import CondensationConfig
from raydd.methods.decoupled.family import DecoupledConfig, RecoverConfig
from raydd.methods.trajectory.matching import MatchingConfig


@dataclass(frozen=True)
class LossName:
    """A loss."""

    title: str
    meaning: str
    """What its values mean; empty where nobody knows."""


_KNOWN: Final = (
    (MatchingConfig, LossName("Matching loss", "1: the network ends no nearer to the expert than without training.")),
    (
        DMConfig,
        LossName("Distance of mean features", "Of synthetic images from real ones, a class; 0: none is left."),
    ),
    (
        CondensationConfig,
        LossName("Distance of gradients", "Of synthetic images from real ones, a class; 0: none is left."),
    ),
    (RecoverConfig, LossName("Recovery loss", "The teacher's cross entropy, and how far its batch norms are off.")),
)
"""The first that a method's config is of counts."""
_UNKNOWN: Final = LossName("Loss", "")


def loss_of(method: str) -> LossName:
    """What a method's loss is called; plainly where the method is of no known family."""
    config = _config(method)
    return next((name for family, name in _KNOWN if config is not None and issubclass(config, family)), _UNKNOWN)


def has_teacher(method: str) -> bool:
    """Whether a method distils a teacher."""
    config = _config(method)
    return config is not None and issubclass(config, DecoupledConfig)


def _config(method: str) -> type | None:
    known = (*OWN, *(plugin.added for plugin in plugins(METHODS) if isinstance(plugin.added, type)))
    return next((one for one in known if getattr(one, "name", None) == method), None)
