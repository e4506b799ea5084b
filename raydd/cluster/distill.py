"""Distilling on Ray Train: one TorchTrainer a run, whose workers share each synthetic batch."""

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydd.cluster import runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.errors import RunError, UserError
from raydd.pipeline import jobs
from raydd.pipeline.run import Run
from raydd.progress import NoProgress, Progress


def distill(run: Run, progress: Progress) -> None:
    """Distil every stage on `cluster.num_workers` workers; lost workers are replaced and go on from the checkpoint.

    Raises:
        RunError: the method cannot go on, or workers died more often than `cluster.max_failures` allows.
    """
    cluster = run.config.cluster
    resources = runtime.worker_resources(cluster)
    with relayed(progress) as posted:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"run": run, "progress": posted},
            scaling_config=ScalingConfig(
                num_workers=runtime.num_workers(cluster), use_gpu="GPU" in resources, resources_per_worker=resources
            ),
            torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo", timeout_s=600),
            run_config=RunConfig(
                name=f"distill-{run.synthetic_key}",
                storage_path=(run.work / "ray").uri,
                failure_config=FailureConfig(max_failures=cluster.max_failures, controller_failure_limit=1),
            ),
        )
        try:
            error = trainer.fit().return_value
        except ray.train.TrainingFailedError as failure:
            raise RunError(f"distilling failed: {failure}") from failure
    if isinstance(error, Exception):
        raise error


def _worker(config: dict[str, object]) -> Exception | None:
    """One worker's whole life. What cannot be mended by trying again is returned, not raised."""
    run, posted = config["run"], config["progress"]
    assert isinstance(run, Run) and isinstance(posted, BoardProgress)
    jobs.set_up(run)
    first = ray.train.get_context().get_world_rank() == 0
    try:
        jobs.distill(run, posted if first else NoProgress())
    except (UserError, RunError) as error:
        if first:
            return error
        raise
    return None
