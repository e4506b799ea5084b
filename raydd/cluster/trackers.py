"""MLflow and Weights & Biases: told by Ray Tune of every trial, which are students and the points of a sweep."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback

from raydd.core.errors import ConfigError
from raydd.pipeline.runs.inputs import RunInputs
from raydd.storage import Folder

_FIELD = "cluster.trackers"
_URI = "MLFLOW_TRACKING_URI"


def check(run: RunInputs) -> None:
    """Refuse trackers that would fail later.

    Raises:
        ConfigError: one is not installed, or does not know where to write.
    """
    for tracker in run.config.cluster.trackers:
        if importlib.util.find_spec("tensorboardX" if tracker == "tensorboard" else tracker) is None:
            raise ConfigError(_FIELD, f"{tracker} is not installed: pip install 'raydd[{tracker}]', or leave it out")
    if "mlflow" in run.config.cluster.trackers and not (run.folder.is_local or os.environ.get(_URI)):
        raise ConfigError(_FIELD, f"mlflow keeps no database in {run.folder.uri}: name its server in {_URI}")
    if "wandb" in run.config.cluster.trackers and not _wandb_has_key():
        raise ConfigError(_FIELD, "wandb has no key: `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline")


def named(name: Callable[[dict[str, Any]], str], **options: Any) -> tune.TuneConfig:
    """Tune's options, with names of trials for readers, made of their config; their folders are short."""
    return tune.TuneConfig(
        trial_name_creator=lambda trial: name(trial.config),
        trial_dirname_creator=lambda trial: trial.trial_id,
        **options,
    )


def callbacks(run: RunInputs, folder: Folder) -> list[tune.Callback]:
    """Those of Ray for the trackers of a run, TensorBoard apart.

    Args:
        run: of whose name the experiment or project is.
        folder: by which trials are grouped; where MLflow's database and what W&B writes lie if nobody names a server.
    """
    made: list[tune.Callback] = []
    if "mlflow" in run.config.cluster.trackers:
        uri = os.environ.get(_URI) or f"sqlite:///{folder.path / 'mlflow.db'}"
        made.append(MLflowLoggerCallback(uri, experiment_name=run.config.name, tags={"group": folder.uri}))
    if "wandb" in run.config.cluster.trackers:
        place: dict[str, Any] = {"dir": str(folder.path)} if folder.is_local else {}
        made.append(WandbLoggerCallback(project=run.config.name, group=folder.uri[-128:], **place))
    return made


def _wandb_has_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") or os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    return bool(wandb.api.api_key)
