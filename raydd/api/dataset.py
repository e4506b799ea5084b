"""A distilled set as torch takes it, with all that it takes to train on it and to test what was trained.

Letters: M training images, B batch, K classes, C H W.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import Dataset

from raydd.api.fitting import require_fit
from raydd.api.loader import EpochLoader
from raydd.api.places import Data, data_of
from raydd.api.real_images import Pixels, transformed
from raydd.api.shown import Shown, shown
from raydd.core.errors import ArtefactError, ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.core.progress import Work
from raydd.data.images import Images
from raydd.data.prepared import apply
from raydd.evaluation.students.of_set import Lesson, recipe_of, student_key
from raydd.evaluation.students.training import training_on
from raydd.networks.losses import squared_error
from raydd.sets.preview import preview
from raydd.sets.synthetic import SyntheticSet
from raydd.training import loop, optimizers
from raydd.training.fit import Told, Watcher, fit
from raydd.training.loop import EpochResult, Training
from raydd.training.recipe import Recipe

TestImages = Data | tuple[Pixels, Any]
"""What `accuracy` takes: a dataset, of which the test split is meant, or images and their classes."""


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What was measured while a network was trained on a set. Accuracies are fractions."""

    loss: float
    """Mean of the last epoch, under augmentation."""
    train_accuracy: float
    """The same; of mixed images as far as their own class goes."""
    test_accuracy: float | None
    """On the real images that were named, if any."""
    curve: tuple[EpochResult, ...] = field(repr=False)
    """Loss and accuracy of every epoch."""

    def __repr__(self) -> str:
        """The last epoch, and the test."""
        tested = "" if self.test_accuracy is None else f", test accuracy {100 * self.test_accuracy:.1f} %"
        trained = f"loss {self.loss:.3f}, training accuracy {100 * self.train_accuracy:.1f} %"
        return f"TrainingOutcome({len(self.curve)} epochs, {trained}{tested})"


class DistilledDataset(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set as torch's loaders take it: pairs of an image in network space and its target.

    Images that are stored as mosaics (IDC) are decoded; `synthetic` holds them as they are stored.
    Targets are class indices, or soft labels [K] where the set has them: logits or, as `synthetic.label_kind` says,
    what the squared loss compares with. `train` trains any network on the set
    as `recipe` says; for loops of one's own, `loss` fits the targets and `lr_at` follows the schedule. `transform`
    brings real images into the space of the set's.
    """

    def __init__(self, synthetic: SyntheticSet) -> None:
        """Wrap a set.

        Raises:
            ArtefactError: its card has no recipe.
            ConfigError: the recipe takes a softmax of regression labels.
        """
        recipe = recipe_of(synthetic)
        if recipe is None:
            raise ArtefactError("the card of the set has no recipe, so nobody knows how to train on it; add one")
        self.synthetic = synthetic
        self.decoded = synthetic.decoded()
        self.class_names = synthetic.class_names
        self.preprocessing = synthetic.preprocessing
        self.learned_lr = synthetic.learned_lr[-1]
        self.recipe: Recipe = recipe

    def __len__(self) -> int:
        """The number of images to train on, M."""
        return len(self.decoded)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """float32 [C, H, W], and int64 [] or float32 [K]."""
        return self.decoded.images[index], self.decoded.targets[index]

    def __repr__(self) -> str:
        """What it is, in a line."""
        channels, height, width = self.shape
        stored = "" if self.synthetic.formation is None else f" (stored as {len(self.synthetic)})"
        named = self.synthetic.card.get("run") or "no run"
        shape, labels = f"{channels}x{height}x{width}", self.synthetic.labels_in_words
        about = f"{len(self)} images{stored}, {shape}, {len(self.class_names)} classes, {labels}"
        return f"DistilledDataset({named}: {about}, {self.recipe.epochs} epochs to train)"

    def _repr_html_(self) -> str:
        """The line, and the images, a class a row, as notebooks show them."""
        png = b64encode(preview(self.synthetic.pixels(), self.synthetic.labels)).decode()
        return f'<p>{escape(repr(self))}</p><img alt="the images" src="data:image/png;base64,{png}">'

    def __dir__(self) -> list[str]:
        """The public names."""
        return [name for name in super().__dir__() if not name.startswith("_")]

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of the images."""
        _, channels, height, width = self.decoded.images.shape
        return channels, height, width

    def transform(self, image: Pixels) -> Tensor:
        """A real image, or several, as networks that are trained on the set take them: float32 in network space.

        Args:
            image: a PIL image, whose shorter side is resized to that of the set's and whose centre is cropped, as raydd
                does with `data.image_size`; pixels of the right size, uint8 or float in [0, 1]: a tensor [C, H, W] or
                [B, C, H, W], or a numpy array [H, W, C], [B, H, W, C], the same with channels in front, or of grey
                images [H, W] or [B, H, W]. One 8-bit array of another size is resized as a PIL image is.

        Raises:
            DataError: the image is of another size or type or has other channels, and cannot be brought to these.
        """
        return transformed(image, self.preprocessing, self.shape)

    def loss(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch against targets of this set: the recipe's, cross entropy or half the squared error.

        Cross entropy is at the recipe's temperature; classes have none, and classes of mixed images that `loader`
        yields have none either. The squared error is summed over the classes.
        """
        if self.recipe.loss == "squared":
            return squared_error(logits_BK, targets) / len(logits_BK)
        if not targets.is_floating_point():
            return F.cross_entropy(logits_BK, targets)
        temperature = self._lesson.recipe.temperature
        loss = F.cross_entropy(logits_BK / temperature, (targets / temperature).softmax(1))
        return loss * temperature**2 if self.recipe.squares_temperature else loss

    def lr_at(self, epoch: int) -> float:
        """The step size in an epoch, counted from 0: the recipe's, or the learned one, along the schedule.

        Raises:
            ConfigError: there is neither.
        """
        recipe = self.recipe
        lr = self.learned_lr if recipe.lr is None else recipe.lr
        if lr is None:
            raise ConfigError("recipe.lr", "neither the recipe nor the set has a step size; choose one")
        warmup, decay = recipe.warmup_epochs, recipe.decay_epoch
        return lr * optimizers.lr_factor(recipe.schedule, epoch, recipe.epochs, warmup, decay)

    def optimizer(self, network: nn.Module) -> Optimizer:
        """The recipe's optimiser, torch's own, at the step size of epoch 0; without the second gradient of GSAM.

        Raises:
            ConfigError: neither the recipe nor the set has a step size.
        """
        recipe, parameters = self.recipe, list(network.parameters())
        lr, decay = self.lr_at(0), recipe.weight_decay
        built = optimizers.build(recipe.optimizer, parameters, lr, recipe.momentum, decay, stacked=False)
        groups = built.param_groups
        return optim.SGD(groups) if recipe.optimizer == "sgd" else optim.AdamW(groups)

    def loader(self, batch_size: int | None = None, augment: bool = True, seed: int = 0) -> EpochLoader:
        """Batches of images and labels for `loss`: an epoch a pass, shuffled and augmented as the recipe says.

        With the seed of `train` these are the batches that it takes. Images are on the CPU.

        Args:
            batch_size: the recipe's by default.
            augment: whether images are augmented, seen in views and mixed by CutMix, where the recipe says so.
            seed: of order and augmentation, which differ from pass to pass.

        Raises:
            ConfigError: the batch size is not positive.
        """
        return EpochLoader(self._lesson, len(self.class_names), batch_size, augment, seed)

    def train(
        self,
        network: nn.Module,
        *,
        recipe: Recipe | None = None,
        seed: int = 0,
        data: TestImages | None = None,
        progress: Shown = None,
    ) -> TrainingOutcome:
        """Train a network on the set, in place and on the device where it is, as raydd trains its students.

        Where a teacher labelled the students of the run, the network learns the classes of the same views.

        Args:
            network: from images [B, C, H, W] in network space to logits [B, K]; left in evaluation mode.
            recipe: the set's own by default.
            seed: of the order of images and of their augmentation; the same as a student's `student_seed`.
            data: real images to test it on in the end; see `accuracy`.
            progress: is told after every epoch; see `raydd.api.shown`.

        Returns:
            Loss and accuracy, of every epoch and in the end.

        Raises:
            ConfigError: the network does not fit the set, or neither recipe nor set has a step size.
            DataError: the test images do not fit the set.
            RunError: the loss is not finite any more.
        """
        require_fit(network, self.decoded.images, len(self.class_names))
        tests = None if data is None else self._tests(data)
        lesson = self._lesson if recipe is None else Lesson.of(self.synthetic, self.decoded, recipe)
        training = training_on(lesson.training_set, lesson.recipe, [network], [student_key(seed)], 0, False)
        curve = _Curve()
        with shown(progress) as told:
            fit(training, watcher=curve, told=Told(told, [Work("training")]))
        network.eval()
        last = curve.results[-1]
        tested = None if tests is None else loop.accuracy(loop.predict(network, tests[0]), tests[1])
        return TrainingOutcome(
            loss=last.loss, train_accuracy=last.accuracy, test_accuracy=tested, curve=tuple(curve.results)
        )

    def accuracy(self, network: nn.Module, data: TestImages) -> float:
        """The part of real images that a network classifies correctly; it is left in the mode that it was in.

        Args:
            network: on any device.
            data: a `DataConfig`, or a run or config, whose data are taken: of these the test split; or a pair of
                images, as `transform` takes several, and their classes, int [B].

        Raises:
            ConfigError: the network does not fit the set.
            DataError: the images are not what the set was distilled from, or do not fit their classes.
        """
        require_fit(network, self.decoded.images, len(self.class_names))
        images, labels = self._tests(data)
        mode = network.training
        reached = loop.accuracy(loop.predict(network, images), labels)
        network.train(mode)
        return reached

    @cached_property
    def _lesson(self) -> Lesson:
        return Lesson.of(self.synthetic, self.decoded, self.recipe)

    def _tests(self, data: TestImages) -> tuple[Images | Tensor, Tensor]:
        """Images in network space, and int64 [B] classes."""
        if not isinstance(data, tuple):
            prepared = apply(data_of(data), self.preprocessing, self.shape, self.class_names, Key.root(0))
            return prepared.test.images, prepared.test.labels
        if len(data) != 2:
            raise DataError(f"images and their classes are a pair, not {len(data)} values")
        images, labels = self.transform(data[0]), torch.as_tensor(data[1])
        if images.ndim != 4 or labels.shape != (len(images),) or labels.is_floating_point():
            raise DataError(
                f"images {tuple(images.shape)} and classes {tuple(labels.shape)} of {labels.dtype}: "
                "give several images, and as many whole numbers"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_names):
            low, high = int(labels.min()), int(labels.max())
            raise DataError(f"classes are from 0 to {len(self.class_names) - 1}, these from {low} to {high}")
        if not len(labels):
            raise DataError("there are no images to test on")
        return images, labels.long()


class _Curve(Watcher):
    """Keeps what every epoch came to."""

    def __init__(self) -> None:
        self.results: list[EpochResult] = []

    def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
        self.results += results
