"""Ranking the real images, two ways with the same scores.

Actors that hold the teacher score parts of the prepared data, which they map into memory; or, where images are streamed
from their files, Ray Data hands such actors what tasks decode.
"""

import ray
import ray.data

from raydd.cluster import actor_pool, runtime, streaming
from raydd.core.progress import Progress, Work
from raydd.data.streamed_images import Streamed
from raydd.ingredients import ranking
from raydd.ingredients.ranking import BATCH, ImageBlock, Parts
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work import real_data


def rank(run: Run, progress: Progress) -> None:
    """Rank the training images by the teacher with as many actors as the cluster holds.

    Raises:
        DataError: images cannot be decoded.
        RunError: the teacher fails, or an actor died more often than `cluster.max_failures` allows.
    """
    images, parts = run.data.train.images, run.ranking_parts
    if parts.missing():
        if isinstance(images, Streamed):
            _from_files(run, images, parts, progress)
        else:
            _from_memory(run, parts, progress)
    ranking.merge(run.training_files, parts).save(run.ranking_folder, run.ranking_key)


@ray.remote
class Ranker:
    """Scores parts of the prepared data. Ray restarts it when it dies, and the part is scored anew."""

    def __init__(self, run: Run) -> None:
        """Set up the process."""
        real_data.set_up(run)
        self._run = run

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return f"ranking of {self._run.config.name}"

    def score(self, number: int) -> None:
        """Score one part."""
        ranking.score_part(self._run.teacher, self._run.data.train, self._run.ranking_parts, number)


def _from_memory(run: Run, parts: Parts, progress: Progress) -> None:
    missing = parts.missing()
    with actor_pool.actors(Ranker, "an actor that ranks images", run, len(missing), progress) as rankers:
        for done in rankers.work_off("score", [(number,) for number in missing]):
            progress.update(Work("ranking"), len(parts) - len(missing) + done, len(parts))


class _Scorer:
    """Scores decoded batches, in an actor of Ray Data. What can go wrong does so in the call, whose errors arrive."""

    def __init__(self, run: Run) -> None:
        real_data.set_up(run)
        self._run = run

    def __call__(self, batch: ImageBlock) -> ImageBlock:
        return ranking.score_batch(batch, self._run.teacher, self._run.data.preprocessing)


def _from_files(run: Run, images: Streamed, parts: Parts, progress: Progress) -> None:
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
        fn_constructor_args=(run,),
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
