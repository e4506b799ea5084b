"""raydd from Python: run, auto, load, evaluate, export, append; results, scores, probes and their columns."""

from raydd.api.dataset import DistilledDataset, TrainingOutcome
from raydd.api.loader import EpochLoader
from raydd.api.made import auto, evaluate, run
from raydd.api.places import DistilledRun
from raydd.api.stored import PROBES, RECORDS, append, export, load, probes, push, results
from raydd.config import RunConfig
from raydd.data import DataConfig
from raydd.evaluation.tables.scores import scores
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe

__all__ = [
    "PROBES",
    "RECORDS",
    "DataConfig",
    "DistilledDataset",
    "DistilledRun",
    "EpochLoader",
    "NetworkConfig",
    "Recipe",
    "RunConfig",
    "TrainingOutcome",
    "append",
    "auto",
    "evaluate",
    "export",
    "load",
    "probes",
    "push",
    "results",
    "run",
    "scores",
]
