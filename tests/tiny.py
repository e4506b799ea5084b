"""A tiny dataset, tiny experts and a tiny group of workers, made once and shared by the tests.

Letters: N images, C H W, P flat parameters.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from reference import matching
from torch import Tensor

from raydd.experts import ExpertsConfig, train_expert, trajectory_card
from raydd.methods import Task
from raydd.networks import NetworkConfig
from raydd.prepared import LabelledImages, PreparedData
from raydd.progress import SILENT
from raydd.storage import Folder
from raydd.training import Recipe
from raydd.trajectories import TrajectoryStore
from raydd.whitening import Standardise

NETWORK = NetworkConfig(width=4, depth=2)
CLASSES = ("ant", "bee", "cat")
EPOCHS = 6
NUM_EXPERTS = 3
