"""Statistics of the real data as a teacher sees them: the moments of its layers' inputs, of all images and by class.

Methods that match them (WMDD, https://arxiv.org/abs/2311.18531; G-VBSM, https://arxiv.org/abs/2311.17950) need more
than the running statistics of batch norms: moments by class, of other layers, and what the last layer sees. One pass
over the training images makes them, in pieces of some rows of one class: a file of float64 sums each, so that work that
was broken off goes on at the first piece that is missing or damaged. Sums are added class by class and piece by piece,
in that order whoever made them: the bytes do not depend on workers, kills or order.

Layers are named norm.NAME (inputs of batch norms), conv.NAME and blocks.NAME (of convolutions) after the network's own
names.

Letters: N images, K classes, P sets of images, C channels, D channels or blocks, F features, H W.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from raydd.core.errors import ArtefactError, ConfigError, RunError
from raydd.data.prepared import LabelledImages
from raydd.ingredients.moments import Moments, block_moments, channel_moments, moments_of, summed
from raydd.ingredients.teacher import Teacher
from raydd.networks import Network
from raydd.networks.layer_inputs import told_of_inputs
from raydd.storage import Artefact, Folder, new_artefact, self_checked
from raydd.storage.readable import legible

KIND: Final = "statistics"
BATCH: Final = 256
"""Images that are shown to the teacher together."""
PIECE: Final = 2_048
"""Images of a piece, at most."""
CLASSES_A_FILE: Final = 64
_CARD, _WHOLE = "card.json", "global.safetensors"
_CLASSES, _FEATURES = "class-{:05d}.safetensors", "features-{:05d}.safetensors"
_KEPT, _LOGITS = "features", "logits"
"""Names that no layer has."""


@dataclass(frozen=True, kw_only=True)
class StatisticsWanted:
    """What is measured."""

    norms: bool = True
    """The inputs of batch norms, by channel."""
    block: int | None = None
    """Of the inputs of convolutions, by channel and by blocks of so many pixels a side; null leaves them out."""
    features: bool = False
    """Whether what the last layer sees of every image is kept."""

    def __post_init__(self) -> None:
        """Refuse blocks without pixels."""
        if self.block is not None and self.block < 1:
            raise ConfigError("method.block", f"must be at least 1, is {self.block}")

    def layers(self, module: nn.Module) -> dict[str, nn.Module]:
        """The layers of a network whose inputs are measured, by name, in the order in which they were registered."""
        found: dict[str, nn.Module] = {}
        for name, layer in module.named_modules():
            if self.norms and isinstance(layer, nn.BatchNorm2d):
                found[f"norm.{name}"] = layer
            elif self.block is not None and isinstance(layer, nn.Conv2d):
                found[f"conv.{name}"] = layer
        return found

    def sums(self, name: str, inputs_NCHW: Tensor) -> dict[str, Tensor]:
        """The sums of an input, float64 [3, D], by what is measured of the layer of that name."""
        found = {name: summed(channel_moments(inputs_NCHW))}
        if self.block is not None and name.startswith("conv."):
            found[name.replace("conv.", "blocks.", 1)] = summed(block_moments(inputs_NCHW, self.block))
        return found


@torch.no_grad()
def measured(module: Network, batches: Iterable[Tensor], asked: StatisticsWanted) -> dict[str, Tensor]:
    """Show images to a network in evaluation mode.

    Args:
        module: the network.
        batches: images [N, C, H, W] in network space, on any device.
        asked: what is measured.

    Returns:
        On the CPU, float64: of each layer S1, S2 and Sv [3, D]; `logits`, the sum of their squared norms [1]. Where
        they are asked for, `features`, float32 [N, F].

    Raises:
        RunError: what the network sees is not finite.
    """
    found: dict[str, Tensor] = {}
    kept: list[Tensor] = []

    def add(sums: Mapping[str, Tensor]) -> None:
        for name, tensor in sums.items():
            found[name] = found[name] + tensor.cpu() if name in found else tensor.cpu()

    with told_of_inputs(asked.layers(module), lambda name, inputs: add(asked.sums(name, inputs))):
        for batch in batches:
            features_NF = module.features(batch.to(module.head.weight.device))
            add({_LOGITS: module.head(features_NF).double().square().sum().reshape(1)})
            if asked.features:
                kept.append(features_NF.float().cpu())
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise RunError("what the teacher sees is not finite: train it anew, with a lower teacher.training.lr")
    return found | ({_KEPT: torch.cat(kept)} if asked.features else {})


@dataclass(frozen=True)
class Pieces:
    """The sums of the training images, in files of some rows of one class; each is written whole, by anybody the same.

    A file that is damaged, or is that of another teacher or other rows, counts as missing.
    """

    folder: Folder
    labels: Tensor
    """int64 [N]"""
    class_names: Sequence[str]
    size: int = PIECE

    def __post_init__(self) -> None:
        """Refuse classes without images."""
        counts = self.labels.bincount(minlength=len(self.class_names))
        if not counts.all():
            name = self.class_names[int(counts.argmin())]
            raise ConfigError("data", f"class {name!r} has no training image, so that it has no statistics")

    @cached_property
    def by_class(self) -> tuple[tuple[tuple[str, Tensor], ...], ...]:
        """Name and rows, int64, of every piece of every class, in order."""
        counts = self.labels.bincount(minlength=len(self.class_names)).tolist()
        return tuple(
            tuple(
                (f"class-{label:05d}-{number:05d}.safetensors", rows)
                for number, rows in enumerate(rows_of_class.split(self.size))
            )
            for label, rows_of_class in enumerate(self.labels.argsort(stable=True).split(counts))
        )

    @cached_property
    def all(self) -> tuple[tuple[str, Tensor], ...]:
        """The same of all classes, one after the other."""
        return tuple(piece for pieces in self.by_class for piece in pieces)

    def missing(self) -> list[int]:
        """The pieces, by their place among all, that are not there as they were written."""
        there = set(self.folder.files())
        return [place for place, (name, _) in enumerate(self.all) if name not in there or not self._is_whole(name)]

    def measure(self, place: int, teacher: Teacher, train: LabelledImages, asked: StatisticsWanted) -> None:
        """Make a piece."""
        name, rows = self.all[place]
        batches = train.images.batches(rows.split(BATCH))
        self_checked.write(self.folder, name, measured(teacher.module, batches, asked))

    def merged(self, label: int) -> dict[str, Tensor]:
        """What `measured` would say of all images of a class.

        Raises:
            ArtefactError: a piece is missing or damaged.
        """
        return joined(self_checked.read(self.folder, name)[0] for name, _ in self.by_class[label])

    def _is_whole(self, name: str) -> bool:
        try:
            self_checked.read(self.folder, name)
        except ArtefactError:
            return False
        return True


def joined(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of disjoint sets of images, one after the other: sums are added, features put side by side."""
    found: dict[str, Tensor] = {}
    kept: list[Tensor] = []
    for part in parts:
        kept += [part[_KEPT]] if _KEPT in part else []
        sums = {name: tensor for name, tensor in part.items() if name != _KEPT}
        found = {name: found[name] + tensor if found else tensor for name, tensor in sums.items()}
    return found | ({_KEPT: torch.cat(kept)} if kept else {})


@dataclass(frozen=True, kw_only=True)
class StatisticsCard:
    """What was measured, and of which images."""

    teacher: str
    """The teacher's content key."""
    fingerprint: str
    """Of the training images."""
    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    """Images of each class."""
    asked: StatisticsWanted
    layers: Mapping[str, int]
    """Channels, or blocks, of each layer, by name."""
    logit_norm: float
    """Root of the mean squared norm of the teacher's logits."""

    def dump(self) -> bytes:
        """The card as JSON."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def parse(cls, data: bytes) -> "StatisticsCard":
        """Read what `dump` wrote."""
        values = json.loads(data)
        own = {"asked": StatisticsWanted(**values["asked"]), "counts": tuple(values["counts"])}
        return cls(**values | own | {"class_names": tuple(values["class_names"])})


@dataclass(frozen=True, eq=False)
class DataStatistics:
    """The statistics of the training images; each is read when it is asked for."""

    artefact: Artefact
    card: StatisticsCard

    @classmethod
    def save(cls, folder: Folder, key: str, pieces: Pieces, asked: StatisticsWanted, sources: tuple[str, str]) -> None:
        """Merge all pieces into one artefact: card, sums of all images, of classes, and features class by class.

        Args:
            folder: of the artefact.
            key: its own.
            pieces: all there.
            asked: what was measured.
            sources: the key of the teacher and the fingerprint of the images.

        Raises:
            ArtefactError: a piece is missing or damaged.
        """
        counts = pieces.labels.bincount(minlength=len(pieces.class_names))
        whole: dict[str, Tensor] = {}
        with new_artefact(folder, KIND, key) as writer:
            for labels in torch.arange(len(counts)).split(CLASSES_A_FILE):
                together: list[dict[str, Tensor]] = []
                for label in labels.tolist():
                    sums = pieces.merged(label)
                    if asked.features:
                        writer.write(_FEATURES.format(label), save_tensors({_KEPT: sums.pop(_KEPT)}))
                    whole = joined([whole, sums] if whole else [sums])
                    together.append(sums)
                stacked = {name: torch.stack([sums[name] for sums in together]) for name in together[0]}
                writer.write(_CLASSES.format(int(labels[0]) // CLASSES_A_FILE), save_tensors(stacked))
            writer.write(_WHOLE, save_tensors(whole))
            card = StatisticsCard(
                teacher=sources[0],
                fingerprint=sources[1],
                class_names=tuple(pieces.class_names),
                counts=tuple(counts.tolist()),
                asked=asked,
                layers={name: sums.shape[1] for name, sums in sorted(whole.items()) if name != _LOGITS},
                logit_norm=float((whole[_LOGITS] / counts.sum()).sqrt()),
            )
            writer.write(_CARD, card.dump())

    @classmethod
    def load(cls, folder: Folder) -> "DataStatistics":
        """Open what `save` wrote.

        Raises:
            ArtefactError: there is nothing, or the card was altered.
        """
        artefact = Artefact.require(folder, KIND)
        with legible(folder.uri):
            return cls(artefact, StatisticsCard.parse(artefact.read(_CARD)))

    def of_all(self) -> dict[str, Moments]:
        """The moments of each layer's input over all images, each [D]."""
        count = torch.tensor(sum(self.card.counts))
        return {name: moments_of(sums, count) for name, sums in self._read(_WHOLE).items() if name != _LOGITS}

    def of_classes(self, labels_P: Tensor) -> dict[str, Moments]:
        """The moments of each layer's input over the images of each of these classes, int64 [P]: each [P, D]."""
        files, places = labels_P // CLASSES_A_FILE, labels_P % CLASSES_A_FILE
        read = {number: self._read(_CLASSES.format(number)) for number in files.unique().tolist()}
        chosen = list(zip(files.tolist(), places.tolist(), strict=True))
        counts = torch.tensor(self.card.counts)[labels_P]
        return {
            name: moments_of(torch.stack([read[number][name][place] for number, place in chosen]), counts)
            for name in self.card.layers
        }

    def features(self, label: int) -> Tensor:
        """What the last layer sees of the images of a class in the order of their rows, float32 [n, F].

        Raises:
            ArtefactError: it was not asked for, or the file is damaged.
        """
        return self._read(_FEATURES.format(label))[_KEPT]

    def _read(self, name: str) -> dict[str, Tensor]:
        with legible(self.artefact.folder.uri):
            return load_tensors(self.artefact.read(name))
