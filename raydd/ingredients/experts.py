"""Expert trajectories: networks trained on the real data, their parameters kept after every epoch.

Source: MTT (Cazenavette et al. 2022, section 3.1); plain SGD without momentum on purpose, so that a network trained on
synthetic images can imitate the path.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final, Literal

import torch
from torch import Tensor, nn

from raydd import networks
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.ingredients.network_pool import NetworkStates
from raydd.ingredients.setting import Setting
from raydd.ingredients.trajectories import Snapshot, TrajectoryStore
from raydd.ingredients.trajectory_card import TrajectoryCard
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.storage import Folder, self_checked
from raydd.training import stacked
from raydd.training.fit import Told, Watcher, both_curves, fit, train_accuracy
from raydd.training.loop import EpochResult, Training, accuracy, predict
from raydd.training.recipe import Recipe
from raydd.training.stacked import MEASURED_STEPS


@dataclass(frozen=True)
class Origin:
    """Where trajectories begin: in fresh networks, or in those that were trained on the images of earlier stages."""

    stage: int = 0
    """Counted from 0, where networks are fresh."""
    pool: NetworkStates = ()
    """Network k is where trajectory k begins."""


FRESH: Final = Origin()
"""Freshly initialised networks."""


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """The expert trajectories that trajectory matching follows."""

    count: int = 100
    """How many trajectories."""
    training: Recipe = field(default_factory=Recipe)
    """How an expert is trained; `epochs` is the length of a trajectory."""
    seed: int | None = None
    """Of initialisations and batches; the run's seed by default."""
    test_every: int = 0
    """Measure test accuracy every so many epochs; 0 measures it after the last one only."""
    keep: Literal["all", "needed"] = "all"
    """Which epochs of a trajectory are stored: all, or those that the run's method reads. What a later run needs
    besides is trained once more, from the nearest earlier epoch (to the same bits as one expert at a time, to rounding
    as packs); hence only without momentum."""
    store: str | None = None
    """A folder shared by runs, in which trajectories lie under their content key; inside the run by default."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.count < 1:
            raise ConfigError("experts.count", f"must be at least 1, is {self.count}")
        if self.training.lr is None:
            raise ConfigError("experts.training.lr", "must be given")
        if self.training.views is not None:
            raise ConfigError("experts.training.views", "experts learn from classes: give them an augmentation instead")
        if self.keep == "needed" and self.training.momentum:
            raise ConfigError(
                "experts.keep",
                "`needed` relies on training dropped epochs again from the stored parameters alone, which has no "
                "momenta: take `all`, or an experts.training.momentum of 0",
            )


def trajectory_card(
    config: ExpertsConfig, network: NetworkConfig, data: PreparedData, seed: int, start: str | None = None
) -> TrajectoryCard:
    """What determines the trajectories; `count` and `test_every` do not. `start` is the key of a pool to begin in."""
    with torch.device("meta"):
        module = networks.build(network, data.shape, data.num_classes)
    return TrajectoryCard(
        dataset=data.name,
        fingerprint=data.fingerprint,
        preprocessing=data.preprocessing.describe(),
        network=network.label,
        parameters=tuple(FlatNetwork(module).shapes.items()),
        recipe=config.training.identity(),
        seed=seed,
        start=start,
    )


class Experts(Watcher):
    """Some experts in training side by side; every epoch of each is kept under `work` until its trajectory is stored.

    All go on after the earliest of the epochs that they have reached: they kept step while they trained together.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        config: ExpertsConfig,
        setting: Setting,
        seed: int,
        work: Folder,
        start: Origin = FRESH,
    ) -> None:
        """Begin with the experts of these numbers, or pick them up where `work` has them."""
        self.config, self.data = config, setting.data
        self.numbers = tuple(numbers)
        self.works = [work / f"expert-{number:05d}" for number in numbers]
        self.training = _training(numbers, config, setting, seed, start)
        self.epoch = 0
        self._keep([{} for _ in numbers], only_new=True)
        self.epoch = min(_last_epoch(folder) for folder in self.works)
        if self.epoch:
            self.training.load_state_dicts([_kept(folder, self.epoch)[0] for folder in self.works])

    def train(self, progress: Progress) -> None:
        """Run the epochs that are left."""
        tasks = [Work("expert", str(number)) for number in self.numbers]
        left = range(self.epoch, self.config.training.epochs)
        fit(self.training, left, watcher=self, told=Told(progress, tasks, train_accuracy, both_curves))

    def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
        """Keep the epoch of every expert, with what is measured of it."""
        self.epoch = done
        self._keep(
            [
                _metrics(self.config, self.data, done, module, result)
                for module, result in zip(training.modules, results, strict=True)
            ]
        )

    def snapshots(self, member: int, epochs: Sequence[int]) -> Iterator[Snapshot]:
        """These epochs of one of the experts, read back one at a time."""
        for epoch in epochs:
            state, metrics = _kept(self.works[member], epoch)
            names = (name for name, _ in self.training.modules[member].named_parameters())
            params = torch.cat([state[f"module.{name}"].flatten() for name in names])
            yield Snapshot(epoch, params, **metrics)

    def _keep(self, metrics: Sequence[Mapping[str, float]], only_new: bool = False) -> None:
        for folder, state, measured in zip(self.works, self.training.state_dicts(), metrics, strict=True):
            if not (only_new and folder.files()):
                self_checked.write(folder, _epoch_file(self.epoch), state, measured)


def expert_key(seed: int, number: int) -> Key:
    """The root of an expert's draws; a network of the pools begins in its initialisation too."""
    return Key.root(seed).child("expert", number)


def train_experts(
    numbers: Sequence[int],
    config: ExpertsConfig,
    setting: Setting,
    store: TrajectoryStore,
    work: Folder,
    progress: Progress,
    epochs: Sequence[int] | None = None,
    start: Origin = FRESH,
) -> None:
    """See that the store has trajectories of these experts with these epochs; does nothing where it has.

    Args:
        numbers: which experts; those that are new are trained side by side.
        config: how they are trained.
        setting: what is trained, on which real data, and where.
        store: where the trajectories go.
        work: where unfinished ones lie meanwhile.
        progress: is told after every epoch.
        epochs: those to store, ascending, with the last one; all by default.
        start: the stage, and the pool of networks that each begins in; freshly initialised ones by default.
    """
    wanted = range(config.training.epochs + 1) if epochs is None else epochs
    new = [number for number in numbers if not store.has(number)]
    for number in numbers:
        if number not in new and store.lacks(number, wanted):
            store.require_intact(number)
            store.write(number, _completed(number, wanted, config, setting, store, start))
    if not new:
        return
    experts = Experts(new, config, setting, store.card.seed, work, start)
    experts.train(progress)
    for member, number in enumerate(new):
        store.write(number, experts.snapshots(member, wanted))
        experts.works[member].delete_all()


def packs(numbers: Sequence[int], size: int) -> list[list[int]]:
    """The experts in groups of at most `size`; who is with whom does not depend on which of them are left."""
    return [list(group) for _, group in groupby(sorted(numbers), lambda number: number // size)]


def epochs_stored(config: ExpertsConfig, read: Iterable[int]) -> list[int]:
    """The epochs of a trajectory that a run stores in which some are read."""
    return list(range(config.training.epochs + 1)) if config.keep == "all" else sorted(set(read))


def fastest_pack(config: ExpertsConfig, setting: Setting) -> int:
    """How many experts train fastest side by side, by a few measured steps; see `stacked.fastest`."""
    rows, train = MEASURED_STEPS * config.training.batch_size, setting.data.train
    few = replace(setting.data, train=LabelledImages(train.images[:rows], train.labels[:rows]))
    return stacked.fastest(lambda size: _training(range(size), config, replace(setting, data=few), 0))


def _completed(
    number: int,
    epochs: Sequence[int],
    config: ExpertsConfig,
    setting: Setting,
    store: TrajectoryStore,
    start: Origin,
) -> Iterator[Snapshot]:
    """What the store has of an expert together with these epochs, in order; what it lacks is trained once more.

    A training without momentum goes on exactly from the parameters of any epoch.
    """
    trajectory = store.reader(number)
    training = _training([number], config, setting, store.card.seed, start)
    (module,) = training.modules
    last = Snapshot(0, _flat(module))
    for epoch in sorted({*epochs, *trajectory.kept}):
        if epoch in trajectory.kept:
            last = trajectory.snapshot(epoch)
        elif epoch:
            module.load_state_dict(store.card.unflatten(last.params))
            (result,) = fit(training, range(last.epoch, epoch))
            last = Snapshot(epoch, _flat(module), **_metrics(config, setting.data, epoch, module, result))
        yield last


def _training(
    numbers: Sequence[int], config: ExpertsConfig, setting: Setting, seed: int, start: Origin = FRESH
) -> Training:
    """Of these experts side by side, from their initialisations, or from the networks of a pool."""
    keys = [expert_key(seed, number) for number in numbers]
    modules = [setting.fresh(key.child("init")) for key in keys]
    if start.stage:
        keys = [key.child("stage", start.stage) for key in keys]
        for module, number in zip(modules, numbers, strict=True):
            module.load_state_dict(start.pool[number])
    return setting.training(modules, config.training, [key.child("training") for key in keys])


def _flat(module: nn.Module) -> Tensor:
    """A network's parameters [P], a copy."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).cpu()


def _metrics(
    config: ExpertsConfig, data: PreparedData, epoch: int, module: nn.Module, result: EpochResult
) -> dict[str, float]:
    """What is known of an expert after an epoch."""
    metrics = result.numbers
    if epoch == config.training.epochs or (config.test_every and epoch % config.test_every == 0):
        metrics["test_accuracy"] = accuracy(predict(module, data.test.images), data.test.labels)
    return metrics


def _last_epoch(folder: Folder) -> int:
    return max(int(name.removeprefix("epoch-").removesuffix(".safetensors")) for name in folder.files())


def _epoch_file(epoch: int) -> str:
    return f"epoch-{epoch:05d}.safetensors"


def _kept(folder: Folder, epoch: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The state of an expert in training after an epoch, and what was measured of it."""
    name = _epoch_file(epoch)
    return self_checked.read(folder, name)
