"""The networks of the dataset-distillation literature, and what is common to all: parameters as one vector, losses."""

from raydd.networks.architectures import Network, build, load_state, load_torchvision
from raydd.networks.traits import Shape

__all__ = ["Network", "Shape", "build", "load_state", "load_torchvision"]
