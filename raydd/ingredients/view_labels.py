"""What students of the decoupled family are told about the views of a set: three kinds of targets.

All are `ViewLabels`, which `raydd.training.loop.Training` takes for `views`. `OnlineLabels` ask the teacher in every
step (RDED, https://arxiv.org/abs/2312.03526; DELT, https://arxiv.org/abs/2411.19946), `StoredLabels` asked it
beforehand (SRe2L, https://arxiv.org/abs/2306.13092, after FKD, https://arxiv.org/abs/2112.01528), `HardLabels` do
without it.

Unlike in FKD nothing but logits is stored, addressed by epoch and image: the views are drawn again.

Letters: M images, B batch, K classes, C H W.
"""

import json
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raydd.core.errors import ArtefactError
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress, Work
from raydd.storage import Artefact, Folder, new_artefact, self_checked
from raydd.training.views import ImageViews

KIND = "labels"
HEADER_BYTES = 256
"""The most that the file of an epoch takes beside its logits."""
_CARD, _LOGITS = "card.json", "logits"


class ViewLabels(Protocol):
    """Views of a set's images with targets for them."""

    @property
    def teacher_forwards(self) -> int:
        """Images that a teacher has been shown for them."""

    def __call__(self, key: Key, epoch: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed views float32 [B, C, H, W] of images (ids int64 [B]) in an epoch, and label logits float32 [B, K]."""


class OnlineLabels:
    """Logits of the teacher for every mixed view that a student sees."""

    def __init__(self, views: ImageViews, teacher: nn.Module) -> None:
        """Label `views` with a network on their device, which is put into evaluation mode."""
        self.teacher_forwards = 0
        """Images that the teacher has been shown."""
        self._views = views
        self._teacher = teacher.eval()

    def __call__(self, key: Key, epoch: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed views float32 [B, C, H, W] of images (ids int64 [B]) in an epoch, and logits float32 [B, K]."""
        images = self._views.mix(key, epoch, rows).images
        self.teacher_forwards += len(rows)
        with torch.no_grad():
            return images, self._teacher(images).float()


class HardLabels:
    """The classes of the mixed images, each as far as it is seen; for recipes of temperature 1."""

    teacher_forwards = 0

    def __init__(self, views: ImageViews, labels_M: Tensor, num_classes: int) -> None:
        """Label `views` with the classes of their images."""
        self._views = views
        self._labels = labels_M.to(views.device)
        self._num_classes = num_classes

    def __call__(self, key: Key, epoch: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed views float32 [B, C, H, W] of images (ids int64 [B]) in an epoch, and log probabilities [B, K]."""
        mixed = self._views.mix(key, epoch, rows)
        own, other = self._labels[rows.to(self._views.device)], self._labels[mixed.partners]
        return mixed.images, mixed_classes(own, other, mixed.shares, self._num_classes)


def mixed_classes(own_B: Tensor, other_B: Tensor, shares_B: Tensor, num_classes: int) -> Tensor:
    """Logits [B, K] whose softmax is `share` for an image's own class and the rest for the other's.

    They are log probabilities, where a probability of 0 counts as float32's smallest normal number: -87.3 stands for
    minus infinity, which a softmax and its gradient could not take.

    Args:
        own_B: int64 [B].
        other_B: int64 [B].
        shares_B: float32 [B].
        num_classes: K.
    """
    probabilities = torch.zeros(len(own_B), num_classes, device=own_B.device)
    probabilities.scatter_add_(1, torch.stack([own_B, other_B], 1), torch.stack([shares_B, 1 - shares_B], 1))
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


class StoredLabels:
    """Logits of the teacher for the mixed views of some epochs, half precision, replayed as often as needed.

    An artefact of one file [M, K] an epoch. Student epochs beyond the stored ones begin from the first again, which is
    how labels are pruned (https://arxiv.org/abs/2410.15919): the views of an epoch come with its labels.
    """

    def __init__(self, artefact: Artefact, views: ImageViews) -> None:
        """Open stored labels of `views`.

        Raises:
            ArtefactError: they are of another number of images or were drawn otherwise, or the card is damaged.
        """
        try:
            card = json.loads(artefact.read(_CARD))
            self.epochs = int(card["epochs"])
            self._key = Key(int(card["views_key"]))
            described = card["num_images"], card["views"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{artefact.folder.uri}/{_CARD}: damaged ({error!r}); delete the folder") from error
        if described != (len(views), views.config.identity()):
            raise ArtefactError(
                f"{artefact.folder.uri}: labels of {described[0]} images under the views {described[1]}, "
                f"wanted {len(views)} under {views.config.identity()}; label the set again"
            )
        self._artefact = artefact
        self._views = views
        self._loaded: tuple[int, Tensor] | None = None

    @property
    def teacher_forwards(self) -> int:
        """Images that the teacher was shown to make them."""
        return self.epochs * len(self._views)

    def __call__(self, key: Key, epoch: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed views float32 [B, C, H, W] of images (ids int64 [B]), and logits float32 [B, K].

        Args:
            key: is not used: views are drawn with the key under which they were labelled.
            epoch: of the student.
            rows: ids of the images.
        """
        epoch %= self.epochs
        images = self._views.mix(self._key, epoch, rows).images
        return images, self._logits(epoch)[rows.to(images.device)].float()

    def _logits(self, epoch: int) -> Tensor:
        """float16 [M, K] of an epoch, mapped from its file, or copied to a GPU once an epoch."""
        if self._loaded is None or self._loaded[0] != epoch:
            path = self._artefact.local(_name(epoch))
            try:
                self._loaded = epoch, load_file(path, device=str(self._views.device))[_LOGITS]
            except (SafetensorError, KeyError) as error:
                raise ArtefactError(f"{path}: damaged ({error}); delete the file and label again") from error
        return self._loaded[1]


def make(
    folder: Folder,
    key: str,
    views: ImageViews,
    teacher: nn.Module,
    views_key: Key,
    epochs: int,
    progress: Progress,
) -> StoredLabels:
    """The labels of some epochs, made where they are not stored yet.

    Args:
        folder: where they are or will be.
        key: the content key of all that determines them: images, views and their key, teacher, epochs.
        views: what is labelled.
        teacher: on the device of the views.
        views_key: of the draws.
        epochs: how many.
        progress: told after every epoch.

    Raises:
        ArtefactError: the folder holds other labels.
    """
    artefact = Artefact.find(folder, KIND)
    if artefact is None:
        for epoch in range(epochs):
            label_epoch(folder, key, views, teacher, views_key, epoch)
            progress.update(Work("labels"), epoch + 1, epochs)
        artefact = _publish(folder, key, views, views_key, epochs)
    if artefact.manifest.key != key:
        raise ArtefactError(f"{folder.uri}: labels of key {artefact.manifest.key}, wanted {key}; name another folder")
    return StoredLabels(artefact, views)


def label_epoch(
    folder: Folder, key: str, views: ImageViews, teacher: nn.Module, views_key: Key, epoch: int, batch_size: int = 256
) -> None:
    """Store the labels of one epoch, unless they are; whoever else does the same writes the same file.

    See `make`; the images go through the teacher in batches of `batch_size`.
    """
    name = _name(epoch)
    if folder.has(name) and _key_of(folder, name) == key:
        return
    ask = OnlineLabels(views, teacher)
    logits = [ask(views_key, epoch, rows)[1].half().cpu() for rows in torch.arange(len(views)).split(batch_size)]
    folder.write(name, self_checked.pack({_LOGITS: torch.cat(logits)}, key))


def _publish(folder: Folder, key: str, views: ImageViews, views_key: Key, epochs: int) -> Artefact:
    """Make an artefact of the epochs' files, which are all there; see `make`."""
    card: dict[str, Any] = {
        "epochs": epochs,
        "num_images": len(views),
        "views": views.config.identity(),
        "views_key": views_key.value,
    }
    with new_artefact(folder, KIND, key) as writer:
        for epoch in range(epochs):
            writer.adopt(_name(epoch))
        writer.write(_CARD, json.dumps(card, indent=2).encode())
    return Artefact.require(folder, KIND)


def label_bytes(epochs: int, num_images: int, num_classes: int) -> int:
    """What stored labels take on disk, but for at most `HEADER_BYTES` an epoch and the card."""
    return 2 * epochs * num_images * num_classes


def _name(epoch: int) -> str:
    return f"epoch-{epoch:05d}.safetensors"


def _key_of(folder: Folder, name: str) -> object:
    """The key under which a file's labels were made; None where it is damaged."""
    try:
        return self_checked.unpack(folder.read(name), name)[1]
    except ArtefactError:
        return None
