"""Ray Train: one TorchTrainer a job, whose workers share a teacher's batches, a synthetic batch, or class groups."""

from collections.abc import Callable

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raydd.cluster import ray_state, runtime
from raydd.cluster.progress import BoardProgress, relayed
from raydd.cluster.students_beside import students_beside
from raydd.cluster.train_waiting import Regrouping
from raydd.cluster.waiting import Lookout
from raydd.core.errors import RunError, UserError
from raydd.core.interruption import Interrupted, Interruption
from raydd.core.progress import NoProgress, Progress
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import distill as distill_work
from raydd.pipeline.work import real_data

TrainJob = Callable[[Run, Progress, Interruption], None]
"""What every worker does; picklable."""

WAIT_SECONDS = 600
"""How long a worker waits for the others where all take every step together."""
RESIZE_SECONDS = 10.0
"""How often at most elastic workers may become more: what came since the last checkpoint is then done again."""
UNLIMITED = -1


def distill(run: Run, progress: Progress) -> None:
    """Distil every stage on `cluster.num_workers` workers; see `_train`."""
    with students_beside(run, progress):
        _train(run, distill_work.distill, f"distill-{run.synthetic_key}", progress)


def teach(run: Run, progress: Progress) -> None:
    """Train the teacher on `cluster.num_workers` workers; see `_train`."""
    _train(run, _teach, f"teacher-{run.teacher_key}", progress)


def _teach(run: Run, progress: Progress, _: Interruption) -> None:
    """The teacher's part of it; every epoch is kept, and nothing lost where it ends at once."""
    real_data.teach(run, progress)


def _train(run: Run, job: TrainJob, name: str, progress: Progress) -> None:
    """Have all workers do a job; lost ones are replaced, and all begin the job again, which finds what is finished.

    Raises:
        ResourceError: the cluster has lost the nodes that could hold the workers.
        RunError: the work cannot go on, or workers died more often than `cluster.max_failures` allows.
    """
    cluster = run.config.cluster
    resources = runtime.worker_resources(cluster)
    fewest, most = runtime.fewest_workers(cluster), runtime.num_workers(cluster)
    field = "cluster.num_workers" if cluster.min_workers is None else "cluster.min_workers"
    with relayed(progress) as posted:
        lookout = Lookout(resources, fewest, field, cluster.wait_seconds, posted)
        trainer = _Trainer(
            _worker,
            train_loop_config={"run": run, "job": job, "progress": posted},
            scaling_config=ScalingConfig(
                num_workers=most if cluster.min_workers is None else (fewest, most),
                use_gpu="GPU" in resources,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=max(RESIZE_SECONDS, cluster.checkpoint_seconds),
            ),
            torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo", timeout_s=WAIT_SECONDS),
            run_config=RunConfig(
                name=name,
                **ray_state.kept_in(run.work / "ray"),
                failure_config=FailureConfig(
                    max_failures=cluster.max_failures,
                    controller_failure_limit=UNLIMITED,  # Regrouping sets the limits
                ),
                callbacks=[Regrouping(lookout, cluster.max_failures)],
            ),
        )
        try:
            error = trainer.fit().return_value
        except ray.train.TrainingFailedError as failure:
            cause = getattr(failure, "controller_failure", None)
            if isinstance(cause, (UserError, RunError)):
                raise cause from None
            raise RunError(f"{name.partition('-')[0]} failed: {failure}") from failure
        except ray.exceptions.RayActorError as failure:
            raise RunError(f"{name.partition('-')[0]} lost its controller: {failure}") from failure
    if isinstance(error, BaseException):
        raise error


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Leaves SIGINT to us: Ray's own handler aborts the training before any worker could save its state."""

    def _register_sigint_handler(self, controller: ray.actor.ActorHandle) -> None:
        """Register none."""


def _worker(config: dict[str, object]) -> BaseException | None:
    """One worker's whole life. What cannot be mended by trying again is returned, not raised."""
    run, job, posted = config["run"], config["job"], config["progress"]
    assert isinstance(run, Run) and callable(job) and isinstance(posted, BoardProgress)
    real_data.set_up(run)
    first = ray.train.get_context().get_world_rank() == 0
    shows = first or job is distill_work.distill and run.config.method.works_on == "teacher"
    try:
        job(run, posted if shows else NoProgress(), posted)
    except Interrupted as interrupted:
        return interrupted
    except (UserError, RunError) as error:
        if first:
            return error
        raise
    return None
