"""Expert trajectories: networks trained on the real data, their parameters kept after every epoch.

Source: MTT (Cazenavette et al. 2022, section 3.1); plain SGD without momentum on purpose, so that a network trained on
synthetic images can imitate the path.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from raydd import networks, random
from raydd.errors import ConfigError
from raydd.functional import FlatNetwork
from raydd.networks import NetworkConfig
from raydd.prepared import PreparedData
from raydd.progress import Progress
from raydd.random import Key
from raydd.storage import Folder
from raydd.training import Recipe, Training, accuracy, predict
from raydd.trajectories import Snapshot, TrajectoryCard, TrajectoryStore


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
    store: str | None = None
    """A folder shared by runs, in which trajectories lie under their content key; inside the run by default."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.count < 1:
            raise ConfigError("experts.count", f"must be at least 1, is {self.count}")
        if self.training.lr is None:
            raise ConfigError("experts.training.lr", "must be given")


def trajectory_card(config: ExpertsConfig, network: NetworkConfig, data: PreparedData, seed: int) -> TrajectoryCard:
    """What determines the trajectories; `count` and `test_every` do not."""
    with torch.device("meta"):
        module = networks.build(network, data.shape, data.num_classes)
    return TrajectoryCard(
        dataset=data.name,
        fingerprint=data.fingerprint,
        preprocessing=data.preprocessing.describe(),
        network=network.label,
        parameters=tuple(FlatNetwork(module).shapes.items()),
        recipe=asdict(config.training),
        seed=seed,
    )


class Expert:
    """One expert in training; every epoch is kept under `work` until the whole trajectory is stored."""

    def __init__(
        self,
        number: int,
        config: ExpertsConfig,
        network: NetworkConfig,
        data: PreparedData,
        seed: int,
        work: Folder,
        device: torch.device,
    ) -> None:
        """Initialise expert `number`, or pick it up after the last epoch that `work` holds."""
        self.number = number
        self.config = config
        self.data = data
        self.work = work / f"expert-{number:05d}"
        key = Key.root(seed).child("expert", number)
        self.module = build_seeded(network, data, key.child("init")).to(device)
        self.training = Training(
            self.module, data.train.images, data.train.labels, config.training, key.child("training")
        )
        self.epoch = 0
        for name in self.work.files():
            self.epoch = max(self.epoch, int(name.removeprefix("epoch-").removesuffix(".safetensors")))
        if self.epoch:
            self.training.load_state_dict(load_tensors(self.work.read(_epoch_file(self.epoch))))
        else:
            self._keep({})

    def train(self, progress: Progress) -> None:
        """Run the epochs that are left."""
        total = self.config.training.epochs
        while self.epoch < total:
            result = self.training.run_epoch(self.epoch)
            self.epoch += 1
            metrics: dict[str, float] = {"train_loss": result.loss, "train_accuracy": result.accuracy}
            if self.epoch == total or (self.config.test_every and self.epoch % self.config.test_every == 0):
                logits = predict(self.module, self.data.test.images)
                metrics["test_accuracy"] = accuracy(logits, self.data.test.labels)
            self._keep(metrics)
            progress.update(f"expert {self.number}", self.epoch, total, f"train accuracy {result.accuracy:.3f}")

    def snapshots(self) -> Iterator[Snapshot]:
        """Every epoch in order, read back one at a time."""
        flat = FlatNetwork(self.module)
        for epoch in range(self.config.training.epochs + 1):
            raw = self.work.read(_epoch_file(epoch))
            self.training.load_state_dict(load_tensors(raw))
            yield Snapshot(epoch, flat.flat().cpu(), **_metadata(raw))

    def _keep(self, metrics: dict[str, float]) -> None:
        metadata = {name: repr(value) for name, value in metrics.items()}
        self.work.write(_epoch_file(self.epoch), save_tensors(self.training.state_dict(), metadata))


def build_seeded(network: NetworkConfig, data: PreparedData, key: Key) -> nn.Module:
    """A network for the dataset, with torch's initialisation drawn from the key."""
    with random.seeded(key):
        return networks.build(network, data.shape, data.num_classes)


def train_expert(
    number: int,
    config: ExpertsConfig,
    network: NetworkConfig,
    data: PreparedData,
    store: TrajectoryStore,
    work: Folder,
    device: torch.device,
    progress: Progress,
) -> None:
    """Train expert `number` to the end and put its trajectory into the store; does nothing where it is there."""
    if store.has(number):
        return
    expert = Expert(number, config, network, data, store.card.seed, work, device)
    expert.train(progress)
    store.write(number, expert.snapshots())
    expert.work.delete_all()


def _epoch_file(epoch: int) -> str:
    return f"epoch-{epoch:05d}.safetensors"


def _metadata(raw: bytes) -> dict[str, float]:
    """The metrics in the header of a safetensors file: 8 bytes of length, then JSON."""
    length = int.from_bytes(raw[:8], "little")
    metadata = json.loads(raw[8 : 8 + length]).get("__metadata__") or {}
    return {name: float(value) for name, value in metadata.items()}
