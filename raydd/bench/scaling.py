"""`raydd bench scaling`: what several processes of a few threads do together against one alone, in their steady loops.

Experts and class groups of DELT are independent; the processes of MTT share every synthetic batch and sum over it with
gloo. Processes that multiply matrices, independent of each other too, show what the machine itself has to give.

Letters: B batch, T inner steps.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch

from raydd.bench import recover
from raydd.bench.ceilings import MATRIX_SIDE
from raydd.bench.recover import RecoverBench, noise
from raydd.bench.teams import Done, Make, Team, team
from raydd.bench.training import TrainingBench, TrainingProblem
from raydd.core.interruption import Signals
from raydd.core.keyed_random import Key
from raydd.core.progress import Numbers, Work
from raydd.data.prepared import PreparedData
from raydd.ingredients.experts import ExpertsConfig, trajectory_card
from raydd.ingredients.setting import build_seeded
from raydd.ingredients.trajectories import Snapshot, TrajectoryStore
from raydd.methods import Method, MTTConfig, Start, Task
from raydd.methods.outer_loop import StageRecord, run_stage
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints, Rhythm
from raydd.training.recipe import Recipe

KEY = Key.root(0)
NUM_CLASSES = 10
EXPERTS = ExpertsConfig(count=1, training=Recipe(epochs=3))
NEVER = 10**6
"""Iterations after which a schedule ends, and seconds until a checkpoint."""
WARM_UP = 2
"""Units that nobody times."""


@dataclass(frozen=True, kw_only=True)
class ScalingBench:
    """What is measured: the ConvNet of depth 3 on 32x32 colour images of ten classes, DSA where the papers have it."""

    workers: int = 2
    """Processes together."""
    width: int = 32
    batch_size: int = 100
    """Of an expert, of a class group's images, and B of the inner steps."""
    synthetic_steps: int = 10
    """T of the inner loop."""
    threads: int = 1
    """CPU threads of a process."""
    seconds: float = 6.0
    """Of one measurement of one process, more or less."""
    pairs: int = 5
    """Timed pairs of one process and of all; the median is what counts."""

    def run(self) -> dict[str, float]:
        """Measure.

        Returns:
            For `experts`, `delt`, `matching` and `matrices`: units per second of one process and of all together
            (medians), and the median of the ratios pair by pair with its extremes; and of the time of those that match,
            the part that is spent in all-reduces, where they wait for each other, too.
        """
        measured: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            write_trajectories(self, Folder.at(folder))
            kinds: dict[str, Make] = {"matrices": Matrices, "experts": Expert, "delt": delt, "matching": matching}
            for name, make in kinds.items():
                found = self._scaling(make, folder, joined=name == "matching")
                measured |= {f"{name}_{what}": value for what, value in found.items()}
        return measured

    def _scaling(self, make: Make, folder: str, joined: bool) -> dict[str, float]:
        with ExitStack() as stack:
            one = stack.enter_context(team(1, False, make, (self, folder), self.threads))
            several = stack.enter_context(team(self.workers, joined, make, (self, folder), self.threads))
            units = max(1, math.ceil(self.seconds * one.do(WARM_UP)[0].rate))
            several.do(WARM_UP)
            pairs = [(_alone(one, units), several.do(units)) for _ in range(self.pairs)]
        together = [_together(done, joined) for _, done in pairs]
        ratios = sorted(rate / alone for (alone, _), rate in zip(pairs, together, strict=True))
        return {
            "per_second": median(alone for alone, _ in pairs),
            "together_per_second": median(together),
            "speed_up": median(ratios),
            "speed_up_min": ratios[0],
            "speed_up_max": ratios[-1],
            **({"summing": median(_summing(done) for _, done in pairs)} if joined else {}),
        }


def _alone(one: Team, units: int) -> float:
    return one.do(units)[0].rate


def _together(done: list[Done], joined: bool) -> float:
    """Units per second of all: those that share units count each once, and the slowest is the clock."""
    return min(member.rate for member in done) if joined else sum(member.rate for member in done)


def _summing(done: list[Done]) -> float:
    return max(member.summing_seconds / member.round_seconds for member in done)


class Matrices:
    """Products of float32 matrices."""

    def __init__(self, bench: ScalingBench, folder: str, rank: int) -> None:
        """Take matrices that all look alike."""
        self._matrix = torch.ones(MATRIX_SIDE, MATRIX_SIDE)
        self._product = torch.empty_like(self._matrix)

    def do(self, units: int) -> float:
        """Multiply so many times."""
        began = time.perf_counter()
        for _ in range(units):
            torch.mm(self._matrix, self._matrix, out=self._product)
        return time.perf_counter() - began


class Expert:
    """Epochs of four steps of an expert."""

    def __init__(self, bench: ScalingBench, folder: str, rank: int) -> None:
        """Begin an expert."""
        recipe = Recipe(batch_size=bench.batch_size)
        network = NetworkConfig(width=bench.width, depth=3)
        self._problem = TrainingProblem(
            TrainingBench(
                network=network,
                recipe=recipe,
                num_images=4 * bench.batch_size,
                soft_labels=False,
                compiled=False,
                pack=1,
                threads=bench.threads,
                pairs=1,
            )
        )

    def do(self, units: int) -> float:
        """Train so many epochs."""
        began = time.perf_counter()
        for _ in range(units):
            self._problem.ours()
        return time.perf_counter() - began


class StageRounds:
    """Iterations of a method by the product's own loop, without the checkpoint at the end of a round."""

    def __init__(self, method: Method, shared: bool, folder: str) -> None:
        """Begin.

        Args:
            method: is stepped.
            shared: whether all processes step it together.
            folder: inside which checkpoints are to lie.
        """
        self._method, self._shared = method, shared
        self._folder = Folder.at(tempfile.mkdtemp(dir=folder))

    def do(self, units: int) -> float:
        """Step so many times, after one that is not timed; the last one is timed up to its checkpoint."""
        clock = _Clock()
        run_stage(
            self._method,
            self._method.iteration + units + 2,
            StageRecord(Checkpoints(self._folder, "stage"), Rhythm(NEVER), self._folder, "metrics.jsonl"),
            clock,
            Signals(),
            task=Work("scaling"),
            shared=self._shared,
        )
        return clock.moments[-2] - clock.moments[0]


class _Clock:
    """Takes down when it is told of progress."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        """Of an iteration."""
        self.moments.append(time.perf_counter())


def delt(bench: ScalingBench, folder: str, rank: int) -> StageRounds:
    """A class group for each process, all of whose images take part all the time."""
    per_class = max(1, bench.batch_size // recover.CLASSES_PER_GROUP)
    problem = recover.RecoverProblem(
        RecoverBench(
            width=bench.width,
            images_per_class=per_class,
            iterations=NEVER,
            round_iterations=NEVER,
            groups_at_once=bench.workers,
        )
    )
    return StageRounds(problem.recovered(problem.uniform, [rank], 0), False, folder)


def matching(bench: ScalingBench, folder: str, rank: int) -> StageRounds:
    """MTT's iterations with so small step sizes that images stay what they are."""
    config = MTTConfig(
        images_per_class=max(1, bench.batch_size // NUM_CLASSES),
        iterations=NEVER,
        synthetic_steps=bench.synthetic_steps,
        expert_epochs=1,
        max_start_epoch=EXPERTS.training.epochs,
        image_lr=1e-9,
        synthetic_lr_lr=1e-12,
    )
    data, network = _data(config.images_per_class), NetworkConfig(width=bench.width, depth=3)
    task = Task(
        data=data,
        network=network,
        trajectories=_store(Folder.at(folder), network, data),
        num_experts=EXPERTS.count,
        last_epoch=EXPERTS.training.epochs,
    )
    return StageRounds(config.build(task, Start(), KEY), True, folder)


def write_trajectories(bench: ScalingBench, folder: Folder) -> None:
    """Trajectories of an expert that moves a little at random, for `matching`."""
    per_class, network = max(1, bench.batch_size // NUM_CLASSES), NetworkConfig(width=bench.width, depth=3)
    data = _data(per_class)
    params = FlatNetwork(build_seeded(network, data, KEY)).flat()

    def walk() -> Iterator[Snapshot]:
        for epoch in range(EXPERTS.training.epochs + 1):
            yield Snapshot(epoch, params * (1 + 0.01 * epoch))

    _store(folder, network, data).write(0, walk())


def _store(folder: Folder, network: NetworkConfig, data: PreparedData) -> TrajectoryStore:
    return TrajectoryStore(folder, trajectory_card(EXPERTS, network, data, seed=0))


def _data(images_per_class: int) -> PreparedData:
    return noise(NUM_CLASSES, images_per_class)
