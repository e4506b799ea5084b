"""Jobs, whose workers share a teacher's or a synthetic batch, or class groups: by Ray Train where they are several."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback

from raydd.cluster import ray_state, runtime, tasks
from raydd.cluster.progress import relayed
from raydd.cluster.students_beside import students_beside
from raydd.cluster.train_waiting import Regrouping
from raydd.cluster.waiting import Lookout
from raydd.core import process
from raydd.core.distributed import rank
from raydd.core.errors import RunError, UserError
from raydd.core.interruption import Interrupted
from raydd.core.progress import Progress
from raydd.ingredients.base import Ingredient
from raydd.ingredients.job import make_together
from raydd.pipeline.runs.inputs import RunInputs
from raydd.pipeline.work.stages import StageSet

WAIT_SECONDS = 600
"""How long a worker waits for the others where all take every step together."""
RESIZE_SECONDS = 10.0
"""How often at most elastic workers may become more: what came since the last checkpoint is then done again."""
UNLIMITED = -1


def make(run: RunInputs, wanted: Sequence[Ingredient[Any]], progress: Progress) -> None:
    """Have `cluster.num_workers` workers make ingredients one after the other; see `_train` and `tasks.make_job`.

    While stages are distilled, students that go through them are trained beside it.
    """
    runs = [ingredient.run for ingredient in wanted if isinstance(ingredient, StageSet)]
    with students_beside(runs[0], progress) if runs else nullcontext():
        if runtime.num_workers(run.config.cluster) == 1:
            tasks.make_job(run, wanted, progress)
        else:
            _train(run, wanted, progress)


def _train(run: RunInputs, wanted: Sequence[Ingredient[Any]], progress: Progress) -> None:
    """Have all workers make ingredients; lost ones are replaced, and all begin again and find what is finished.

    Raises:
        ResourceError: the cluster has lost the nodes that could hold the workers.
        RunError: the work cannot go on, or workers died more often than `cluster.max_failures` allows.
    """
    cluster, last = run.config.cluster, wanted[-1]
    resources = runtime.worker_resources(cluster)
    fewest, most = runtime.fewest_workers(cluster), runtime.num_workers(cluster)
    field = "cluster.num_workers" if cluster.min_workers is None else "cluster.min_workers"
    with relayed(progress) as posted:
        lookout = Lookout(resources, fewest, field, cluster.wait_seconds, posted)
        trainer = _Trainer(
            _worker,
            train_loop_config={"run": run, "wanted": wanted, "progress": posted},
            scaling_config=ScalingConfig(
                num_workers=most if cluster.min_workers is None else (fewest, most),
                use_gpu="GPU" in resources,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=max(RESIZE_SECONDS, cluster.checkpoint_seconds),
            ),
            torch_config=TorchConfig(backend="nccl" if "GPU" in resources else "gloo", timeout_s=WAIT_SECONDS),
            run_config=RunConfig(
                name=f"{last.title}-{last.key()}",
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
            raise RunError(f"{last.title} failed: {failure}") from failure
        except ray.exceptions.RayActorError as failure:
            raise RunError(f"{last.title} lost its controller: {failure}") from failure
    if isinstance(error, BaseException):
        raise error


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Leaves SIGINT to us: Ray's own handler aborts the training before any worker could save its state."""

    def _register_sigint_handler(self, controller: ray.actor.ActorHandle) -> None:
        """Register none."""

    def _create_default_callbacks(self) -> list[Any]:
        """Without an actor that deals out datasets of Ray Data: there are none, and it takes two seconds to start."""
        return [each for each in super()._create_default_callbacks() if not isinstance(each, DatasetsCallback)]


def _worker(config: dict[str, Any]) -> BaseException | None:
    """One worker's whole life. What cannot be mended by trying again is returned, not raised."""
    run, wanted, posted = config["run"], config["wanted"], config["progress"]
    process.set_up(run.config.cluster.threads_per_worker)
    try:
        make_together(wanted, posted, posted)
    except Interrupted as interrupted:
        return interrupted
    except (UserError, RunError) as error:
        if rank() == 0:
            return error
        raise
    return None
