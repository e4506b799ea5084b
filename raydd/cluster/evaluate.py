"""Students on Ray Tune: one single-process trial each."""

import uuid
from collections.abc import Sequence

from ray import tune

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.evaluation.trials import Trial
from raydd.pipeline import jobs
from raydd.pipeline.run import Run
from raydd.progress import Progress


def evaluate(run: Run, trials: Sequence[Trial], progress: Progress) -> None:
    """Train these students side by side, as many as the cluster holds, first come first served.

    Every trial writes its own record, so nothing of Tune's state is needed to go on after a break.
    """
    share = runtime.share_resources(run.config.cluster, len(trials))
    with relayed(progress) as posted:
        trainable = tune.with_parameters(_student, run=run, trials=list(trials), progress=posted)
        resources = {"cpu": share["CPU"], "gpu": share.get("GPU", 0)}
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"trial": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"evaluate-{uuid.uuid4().hex[:8]}",
                storage_path=(run.work / "ray").uri,
                failure_config=tune.FailureConfig(max_failures=run.config.cluster.max_failures),
                verbose=0,
            ),
        )
        tuner.fit()


def _student(config: dict[str, int], run: Run, trials: list[Trial], progress: BoardProgress) -> dict[str, float]:
    """One trial."""
    jobs.set_up(run)
    record = jobs.evaluate(run, trials[config["trial"]], progress)
    return {"test_accuracy": record.test_accuracy or 0.0}
