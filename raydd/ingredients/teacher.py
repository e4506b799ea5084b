"""The teacher of the decoupled family: a network trained on the real data, whose labels and statistics stand for them.

Its batch norms' running statistics are what images are recovered by (SRe2L, https://arxiv.org/abs/2306.13092, section
3.2), so it must have some. Beside its parameters an artefact may hold those after earlier epochs, for earlier stages of
a progressive run; they do not make it another teacher.

Letters: N images, K classes, C H W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from raydd import networks
from raydd.core import keyed_random
from raydd.core.errors import ArtefactError, ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.ingredients import given_weights
from raydd.ingredients.setting import Setting
from raydd.ingredients.teacher_card import TeacherCard
from raydd.ingredients.teacher_epochs import Weights, packed, unpacked
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, new_artefact
from raydd.storage.checkpoints import Checkpoints
from raydd.storage.readable import legible
from raydd.training.fit import Told, Watcher, both_curves, fit, train_accuracy
from raydd.training.loop import EpochResult, Training, accuracy, predict
from raydd.training.recipe import Recipe

KIND: Final = "teacher"
CHECK_IMAGES: Final = 1024
"""At most so many held-out images are classified to see whether a teacher fits the data."""
TOLERANCE: Final = 0.02
"""How far the accuracy on them may be from that of the teacher's card."""
_MODEL, _CARD = "model.safetensors", "card.json"
_EARLY = "model-epoch-{:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The network whose labels and batch-norm statistics images are recovered by."""

    network: NetworkConfig | None = None
    """The run's network by default."""
    training: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=30,
            lr=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            batch_size=128,
            schedule="cosine",
            augmentation="crop+flip",
        )
    )
    """How it is trained. The default is SRe2L's on CIFAR, whose authors trained for 200 epochs."""
    weights: str | None = None
    """A file of parameters to take instead of training: .safetensors, or what torch.save wrote."""
    class_order: tuple[str, ...] | None = None
    """The names of the dataset's classes in the order of the outputs in the file of weights; by default the dataset's
    own."""
    seed: int | None = None
    """Of initialisation and batches; the run's seed by default."""
    store: str | None = None
    """A folder shared by runs, in which teachers lie under their content key; inside the run by default."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.training.lr is None:
            raise ConfigError("teacher.training.lr", "must be given")
        if self.training.views is not None:
            raise ConfigError(
                "teacher.training.views", "a teacher learns from classes: give it an augmentation instead"
            )
        if self.class_order is not None and self.weights is None:
            raise ConfigError("teacher.class_order", "is of teacher.weights, and none is given; leave it out")
        if self.network is not None:
            require_batch_norm(self.network)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, frozen, and what it may be used with."""

    module: Network
    """In evaluation mode, without gradients of parameters."""
    card: TeacherCard
    epoch: int | None = None
    """The epoch after which it was like this; None is the end of its training, which the card describes."""
    early: Mapping[int, Weights] = field(default_factory=dict)
    """What it was after earlier epochs that were asked for."""

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.module.head.weight.device

    def batch_norms(self) -> list[nn.BatchNorm2d]:
        """The layers whose running statistics images are recovered by, in the order in which they were registered."""
        return [layer for layer in self.module.modules() if isinstance(layer, nn.BatchNorm2d)]

    def logits(self, images_NCHW: Tensor) -> Tensor:
        """Float32 [N, K] on the CPU, of images in network space on any device."""
        return predict(self.module, images_NCHW)

    def save(self, folder: Folder, key: str) -> None:
        """Write the teacher as one artefact: its parameters, now and after earlier epochs, and the card as JSON."""
        assert self.epoch is None
        with new_artefact(folder, KIND, key) as writer:
            for epoch, weights in self.early.items():
                writer.write(_EARLY.format(epoch), save_tensors(dict(weights)))
            writer.write(_MODEL, save_tensors(_copied(self.module)))
            writer.write(_CARD, self.card.dump())

    @staticmethod
    def stored_epochs(folder: Folder) -> frozenset[int]:
        """The epochs after which a stored teacher can be opened, its last one among them.

        Empty where there is no teacher, or one that was taken over from a file.
        """
        artefact = Artefact.find(folder, KIND)
        if artefact is None:
            return frozenset()
        last, names = TeacherCard.parse(artefact.read(_CARD), folder.uri).epochs or 0, artefact.names()
        return frozenset(epoch for epoch in range(1, last + 1) if epoch == last or _EARLY.format(epoch) in names)

    @classmethod
    def load(cls, folder: Folder, device: torch.device, epoch: int | None = None) -> "Teacher":
        """Read a teacher that `save` wrote.

        Args:
            folder: of the artefact.
            device: where the network is to lie.
            epoch: after which it is wanted; by default, as after the last, the finished one.

        Raises:
            ArtefactError: there is none, or it is damaged, or its state after that epoch was not kept.
            ConfigError: it was taken over from a file, where there are no epochs.
        """
        artefact = Artefact.find(folder, KIND)
        if artefact is None:
            raise ArtefactError(f"{folder.uri}: there is no teacher here (no manifest.json); run `raydd teacher` first")
        card = TeacherCard.parse(artefact.read(_CARD), folder.uri)
        with legible(folder.uri):
            module = _untrained(NetworkConfig(**card.network), card.shape, len(card.class_names), Key.root(0))
        epoch = None if epoch == card.epochs else epoch
        if epoch is not None:
            _require_epoch(epoch, card, artefact)
        name = _MODEL if epoch is None else _EARLY.format(epoch)
        with legible(folder.uri):
            networks.load_state(module, load_tensors(artefact.read(name)))
        return cls(_frozen(module.to(device)), card, epoch)

    def check(self, data: PreparedData) -> None:
        """See that the teacher may be used with a dataset; one of an earlier epoch by its card alone.

        Raises:
            ConfigError: the images have another shape or another preprocessing.
            DataError: the classes are others, or in another order; or held-out images are not classified as when the
                teacher was made, which is what labels in another order look like.
        """
        self.card.require_fit(data)
        if self.epoch is not None:
            return
        found, count = _check_accuracy(self.module, data.test), min(CHECK_IMAGES, len(data.test))
        if abs(found - self.card.check_accuracy) > max(TOLERANCE, 1.5 / count):
            raise DataError(
                f"{data.name}: the teacher classifies {found:.1%} of {count} test images, and when it was made "
                f"{self.card.check_accuracy:.1%}: the labels are in another order, or the images are not those of the "
                "teacher's dataset; compare data.root with what it was trained on, or train another"
            )


def require_batch_norm(network: NetworkConfig) -> None:
    """Raise a ConfigError where the network keeps no statistics to recover images by."""
    if not network.has_batch_norm:
        raise ConfigError(
            "teacher.network",
            f"{network.label} has no batch norm, whose running statistics images are recovered by: take a convnet, "
            "a ResNet, vgg11 or another network of torchvision's with norm: batch (students may be without)",
        )


def teacher_identity(
    config: TeacherConfig, network: NetworkConfig, data: PreparedData, seed: int | None
) -> dict[str, Any]:
    """What determines a teacher, for content keys; states that are kept of earlier epochs do not.

    Raises:
        ConfigError: there is no file of the weights that the config names.
    """
    weights, order = config.weights, config.class_order
    return {
        "dataset": data.name,
        "fingerprint": data.fingerprint,
        "class_names": list(data.class_names),
        "shape": list(data.shape),
        "preprocessing": data.preprocessing.describe(),
        "network": network.identity(),
        "recipe": config.training.identity() if weights is None else given_weights.identity(weights, order),
        "seed": seed if weights is None else None,
    }


def train_teacher(
    config: TeacherConfig,
    setting: Setting,
    key: Key,
    checkpoints: Checkpoints,
    progress: Progress,
    kept_epochs: Sequence[int] = (),
) -> Teacher:
    """Train a teacher, from the last finished epoch where there is one; workers of `torch.distributed` share each step.

    Args:
        config: how; its seed is what the card says.
        setting: what, on which real data, and where.
        key: of initialisation and batches.
        checkpoints: where the state after each epoch is kept, and those of `kept_epochs` with it; whoever stores the
            teacher deletes it. One that lacks such a state, as nobody wanted it then, is not gone on from.
        progress: is told after every epoch.
        kept_epochs: after which, counted from 1, the teacher is to be had as well; the last is in any case.

    Returns:
        The teacher, on every worker the same, whatever their number (but for rounding).

    Raises:
        ConfigError: the network has no batch norm.
        RunError: the loss is not finite any more, or a worker has drifted from the others.
    """
    require_batch_norm(setting.network)
    recipe, module = config.training, setting.fresh(key.child("init"))
    training = setting.training([module], recipe, [key.child("training")], shared=True)
    wanted = sorted({*kept_epochs} - {recipe.epochs})
    assert all(1 <= epoch < recipe.epochs for epoch in wanted)
    early = _Early(wanted)
    told = Told(progress, [Work("teacher")], train_accuracy, both_curves)
    (result,) = fit(training, checkpoints=checkpoints, watcher=early, told=told)
    made = _finished(module, setting.network, setting.data, recipe.identity(), config.seed, result.accuracy)
    return replace(made, early=early.weights)


class _Early(Watcher):
    """Copies what a network is after some epochs."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self.weights: dict[int, Weights] = {}
        self._wanted = wanted

    def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
        if done in self._wanted:
            self.weights[done] = _copied(training.modules[0])

    def state_dict(self) -> Mapping[str, Tensor]:
        return packed(self.weights)

    def restore(self, state: Mapping[str, Any], done: int) -> Mapping[str, Any] | None:
        own, kept = unpacked(state)
        if any(epoch <= done and epoch not in kept for epoch in self._wanted):
            return None
        self.weights = {epoch: kept[epoch] for epoch in self._wanted if epoch in kept}
        return own


def from_weights(config: TeacherConfig, network: NetworkConfig, data: PreparedData, device: torch.device) -> Teacher:
    """The teacher whose parameters are in the file that the config names, under our names or those of other code.

    It is taken at its word that it knows the classes in the order that the config says, or in the dataset's: whoever
    uses it calls `require_known_classes`.

    Raises:
        ConfigError: there is no such file, or the network has no batch norm.
        ArtefactError: the file cannot be read, or the parameters are those of another network.
    """
    require_batch_norm(network)
    assert config.weights is not None
    state = given_weights.parameters(config.weights, config.class_order, data.class_names)
    module = _untrained(network, data.shape, data.num_classes, Key.root(0))
    networks.load_state(module, state)
    recipe = given_weights.identity(config.weights, config.class_order)
    return _finished(module.to(device), network, data, recipe, seed=None, train_accuracy=None)


def _untrained(network: NetworkConfig, shape: networks.Shape, num_classes: int, key: Key) -> Network:
    with keyed_random.seeded(key):
        return networks.build(network, shape, num_classes)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers now, on the CPU."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}


def _require_epoch(epoch: int, card: TeacherCard, artefact: Artefact) -> None:
    """See that a stored teacher can be opened as it was after an epoch that was not its last."""
    if card.epochs is None:
        raise ConfigError(
            "stages.teacher_conditions",
            "the teacher was taken from teacher.weights and has no epochs: leave teacher_epoch out, or train one",
        )
    if _EARLY.format(epoch) not in artefact.names():
        raise ArtefactError(
            f"{artefact.folder.uri}: what the teacher was after epoch {epoch} was not kept; run `raydd teacher` again"
        )


def _frozen(module: Network) -> Network:
    return module.eval().requires_grad_(False)


def _finished(
    module: Network,
    network: NetworkConfig,
    data: PreparedData,
    recipe: Mapping[str, Any],
    seed: int | None,
    train_accuracy: float | None,
) -> Teacher:
    """The teacher with its card."""
    card = TeacherCard(
        network=asdict(network),
        dataset=data.name,
        fingerprint=data.fingerprint,
        class_names=data.class_names,
        shape=data.shape,
        preprocessing=data.preprocessing.describe(),
        recipe=recipe,
        seed=seed,
        test_accuracy=accuracy(predict(module, data.test.images), data.test.labels),
        train_accuracy=train_accuracy,
        check_accuracy=_check_accuracy(module, data.test),
    )
    return Teacher(_frozen(module), card)


def _check_accuracy(module: Network, test: LabelledImages) -> float:
    count = min(CHECK_IMAGES, len(test))
    rows = torch.arange(count) * len(test) // count
    return accuracy(predict(module, test.images[rows]), test.labels[rows])
