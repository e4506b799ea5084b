"""Ray Train: one TorchTrainer a job, whose workers share a teacher's batches, a synthetic batch, or class groups."""

from collections.abc import Callable

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydd.cluster import runtime
from raydd.cluster.beside import students_beside
from raydd.cluster.progress import BoardProgress, relayed
from raydd.errors import RunError, UserError
from raydd.pipeline import distilling, jobs
from raydd.pipeline.run import Run
from raydd.progress import NoProgress, Progress

Job = Callable[[Run, Progress], None]
"""What every worker does; picklable."""

WAIT_SECONDS = 600
"""How long a worker waits for the others where all take every step together."""


def distill(run: Run, progress: Progress) -> None:
    """Distil every stage on `cluster.num_workers` workers; see `_train`."""
    with students_beside(run, progress):
        _train(run, distilling.distill, f"distill-{run.synthetic_key}", progress)


def teach(run: Run, progress: Progress) -> None:
    """Train the teacher on `cluster.num_workers` workers; see `_train`."""
    _train(run, jobs.teach, f"teacher-{run.teacher_key}", progress)


def _train(run: Run, job: Job, name: str, progress: Progress) -> None:
    """Have all workers do a job; lost ones are replaced, and all begin the job again, which finds what is finished.

    Raises:
        RunError: the work cannot go on, or workers died more often than `cluster.max_failures` allows.
    """
    cluster = run.config.cluster
    resources = runtime.worker_resources(cluster)
    with relayed(progress) as posted:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"run": run, "job": job, "progress": posted},
            scaling_config=ScalingConfig(
                num_workers=runtime.num_workers(cluster), use_gpu="GPU" in resources, resources_per_worker=resources
            ),
            torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo", timeout_s=WAIT_SECONDS),
            run_config=RunConfig(
                name=name,
                storage_path=(run.work / "ray").uri,
                failure_config=FailureConfig(max_failures=cluster.max_failures, controller_failure_limit=1),
            ),
        )
        try:
            error = trainer.fit().return_value
        except ray.train.TrainingFailedError as failure:
            raise RunError(f"{name.partition('-')[0]} failed: {failure}") from failure
    if isinstance(error, Exception):
        raise error


def _worker(config: dict[str, object]) -> Exception | None:
    """One worker's whole life. What cannot be mended by trying again is returned, not raised."""
    run, job, posted = config["run"], config["job"], config["progress"]
    assert isinstance(run, Run) and callable(job) and isinstance(posted, BoardProgress)
    jobs.set_up(run)
    first = ray.train.get_context().get_world_rank() == 0
    shows = first or job is distilling.distill and run.config.method.works_on == "teacher"
    try:
        job(run, posted if shows else NoProgress())
    except (UserError, RunError) as error:
        if first:
            return error
        raise
    return None
