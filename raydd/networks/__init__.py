"""The networks of the dataset-distillation literature, and what is common to all: parameters as one vector, losses."""

from raydd.networks.architectures import Network, build, load_state, num_features
from raydd.networks.foreign_names import named_as_here
from raydd.networks.traits import Shape

__all__ = ["Network", "Shape", "build", "load_state", "named_as_here", "num_features"]
