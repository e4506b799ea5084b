"""What is trained on real data, as whoever executes it calls it: a process alone, an actor, a Train worker.

Each is idempotent: it finds what is finished, picks up what is not, and writes what it makes into the run's folder.
"""

from collections.abc import Sequence
from dataclasses import replace

from raydd.core import process
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.evaluation.students import diversity
from raydd.ingredients import coreset, experts, forgetting, observer, teacher
from raydd.ingredients.ranking import rank_here
from raydd.ingredients.real_training import RealTraining
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import auto
from raydd.storage.checkpoints import Checkpoints, is_first_worker
from raydd.training.recipe import Recipe


def train_experts(run: Run, numbers: Sequence[int], progress: Progress) -> None:
    """Train some expert trajectories side by side, or complete those that lack epochs."""
    experts.train_experts(
        numbers,
        run.config.experts,
        auto.setting(run, run.config.network, run.config.experts.training, run.data),
        run.trajectories,
        run.work / "experts" / run.experts_key,
        progress,
        experts.epochs_stored(run.config.experts, run.epochs_read()),
    )


def teach(run: Run, progress: Progress) -> None:
    """Train the teacher, or take it over from a file; several workers share the work through `torch.distributed`."""
    config, network = replace(run.config.teacher, seed=run.config.teacher_seed), run.config.teacher_network
    checkpoints = Checkpoints(run.work / "checkpoints", f"teacher-{run.teacher_key}")
    if config.weights is not None:
        made = teacher.from_weights(config, network, run.data, run.device)
    else:
        made = teacher.train_teacher(
            config,
            auto.setting(run, network, config.training, run.data),
            Key.root(run.config.teacher_seed).child("teacher"),
            checkpoints,
            progress,
            kept_epochs=sorted(run.teacher_epochs | run.stored_teacher_epochs()),
        )
    if is_first_worker():
        made.save(run.teacher_folder, run.teacher_key)
        checkpoints.delete()


def rank(run: Run, progress: Progress) -> None:
    """Rank the training images by the teacher, all in this process."""
    found = rank_here(run.teacher, run.data.train, run.training_files, run.ranking_parts, progress)
    found.save(run.ranking_folder, run.ranking_key)


def score(run: Run, progress: Progress) -> None:
    """Count how often a network forgets each training image."""
    chosen = run.config.stages.filter
    assert chosen is not None
    training = _real_training(run, chosen.scoring, run.key().child("forgetting"), f"scores-{run.scores_key}")
    forgetting.score(training, progress).save(run.scores_folder, run.scores_key)
    training.checkpoints.delete()


def observe(run: Run, progress: Progress) -> None:
    """Train the network that looks at real and distilled images."""
    key = Key.root(run.config.experts_seed).child("selection")
    training = _real_training(run, run.config.evaluate.selector, key, f"observer-{run.observer_key}")
    observer.save(training.run(Work(observer.KIND), progress), run.observer_folder, run.observer_key)
    training.checkpoints.delete()


def select(run: Run, progress: Progress) -> None:
    """Choose the real images that the distilled ones are compared with, by what that network sees in them."""
    train = run.data.train
    made = coreset.Selection.of(
        lambda rows: diversity.features(run.observer, train.images[rows]),
        train.labels,
        run.data.num_classes,
        run.config.images_per_class,
    )
    made.save(run.selection_folder, run.selection_key)
    progress.update(Work("selection"), 1, 1)


def _real_training(run: Run, recipe: Recipe, key: Key, name: str) -> RealTraining:
    """That of the run's network, whose checkpoints have a name."""
    return RealTraining(
        recipe=recipe,
        setting=auto.setting(run, run.config.network, recipe, run.data),
        key=key,
        checkpoints=Checkpoints(run.work / "checkpoints", name),
    )


def set_up(run: Run) -> None:
    """Set up the process that is about to compute for the run."""
    process.set_up(run.config.cluster.threads_per_worker)
