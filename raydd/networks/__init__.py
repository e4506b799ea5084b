"""The networks of the dataset-distillation literature, and what is common to all: parameters as one vector, losses."""

from raydd.networks.architectures import Network, Shape, build, load_state, load_torchvision

__all__ = ["Network", "Shape", "build", "load_state", "load_torchvision"]
