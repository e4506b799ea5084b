"""Ranking real images that are streamed from their files: Ray Data hands actors with the teacher what tasks decode.

The scores are those of images that are in memory, which `actors.py` ranks.
"""

from typing import Any

import ray
import ray.data

from raydd.cluster import runtime, streaming
from raydd.core import process
from raydd.core.progress import Progress
from raydd.data.streamed_images import Streamed
from raydd.ingredients import ranking
from raydd.ingredients.base import Ingredient
from raydd.ingredients.ranking import BATCH, ImageBlock, Parts
from raydd.ingredients.teacher_ranking import TeacherRanking
from raydd.ingredients.trained_teacher import TrainedTeacher
from raydd.pipeline.runs.inputs import RunInputs


def make(run: RunInputs, ingredient: Ingredient[Any], progress: Progress) -> None:
    """Score the training images by the teacher: tasks decode what actors score.

    Raises:
        DataError: images cannot be decoded.
        RunError: the teacher fails, or an actor died more often than `cluster.max_failures` allows.
    """
    images = run.data.train.images
    assert isinstance(ingredient, TeacherRanking) and isinstance(images, Streamed)
    parts = ingredient.parts
    if parts.missing():
        _from_files(run, ingredient, images, parts, progress)


class _Scorer:
    """Scores decoded batches, in an actor of Ray Data. What can go wrong does so in the call, whose errors arrive."""

    def __init__(self, run: RunInputs, teacher: TrainedTeacher) -> None:
        process.set_up(run.config.cluster.threads_per_worker)
        self._run, self._teacher = run, teacher

    def __call__(self, batch: ImageBlock) -> ImageBlock:
        return ranking.score_batch(batch, self._teacher.open(), self._run.data.preprocessing)


def _from_files(run: RunInputs, ingredient: TeacherRanking, images: Streamed, parts: Parts, progress: Progress) -> None:
    batches = ranking.missing_batches(images.files, parts)
    share = runtime.share_resources(run.config.cluster, len(batches))
    scorers, decoders = _divided(share, len(batches))
    decoded = streaming.decoding(
        images.files, images.image_shape[0], batches, tasks=scorers + max(1, decoders), num_cpus=min(1, decoders)
    )
    scored = decoded.map_batches(
        _Scorer,
        batch_size=BATCH,
        batch_format="numpy",
        fn_constructor_args=(run, ingredient.teacher),
        compute=ray.data.ActorPoolStrategy(size=scorers),
        num_cpus=share["CPU"],
        num_gpus=share.get("GPU", 0),
    )
    with streaming.failing_quietly("ranking"):
        ranking.collect(parts, scored.iter_batches(batch_size=None, batch_format="numpy"), progress)


def _divided(share: dict[str, float], count: int) -> tuple[int, int]:
    """How many actors that score, of `share` each, and how many tasks that decode fit beside each other.

    One CPU at least is left for decoding; where there is only one, decoding takes its time from it.
    """
    cpus = int(ray.cluster_resources()["CPU"])
    scorers = max(1, min(count, runtime.how_many_fit(share), int((cpus - 1) / share["CPU"])))
    return scorers, max(0, int(cpus - scorers * share["CPU"]))
