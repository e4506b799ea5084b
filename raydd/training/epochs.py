"""What the steps of an epoch are on: order, shares, augmentation and mixing of batches, every draw keyed.

Letters: N images, B batch and b a worker's share of it, K classes, C H W, E networks.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.core.distributed import shard
from raydd.core.keyed_random import Key
from raydd.data.images import Images
from raydd.training import cutmix
from raydd.training.batches import Batch
from raydd.training.cutmix import Mix
from raydd.training.dsa import augmentation
from raydd.training.recipe import Recipe
from raydd.training.sampling import epoch_order

Views = Callable[[Key, int, Tensor], tuple[Tensor, Tensor]]
"""`(key, epoch, rows int64 [B])` to what a step trains on in place of augmented images: images [B, C, H, W] in network
space and targets, int64 [B] classes or [B, K] label logits, on the device."""


@dataclass(frozen=True)
class _Part:
    """What one network is shown in one step, by this worker."""

    key: Key
    """Of the network's draws."""
    own: Tensor
    """int64 [b]: the rows that it is trained on."""
    size: int
    """B, of all workers together."""
    mixed: tuple[Mix, Tensor] | None = None
    """Where boxes are pasted: which, and int64 [b], the rows that they are from."""

    @property
    def rows(self) -> Tensor:
        """int64 [b], or [2 b] where boxes are pasted: whose images are looked at."""
        return self.own if self.mixed is None else torch.cat([self.own, self.mixed[1]])


class Epochs:
    """The batches of any epoch, for networks side by side that each have draws of their own."""

    def __init__(
        self,
        images: Images,
        targets: Tensor,
        recipe: Recipe,
        keys: Sequence[Key],
        *,
        views: Views | None = None,
        shared: bool = False,
    ) -> None:
        """Draw from these images.

        Args:
            images: N, in network space, on the device of the targets.
            targets: int64 [N] classes, or [N, K] label logits.
            recipe: batch size, sampling, augmentation and CutMix.
            keys: of each network's draws.
            views: what steps are on in place of augmented images, which are not looked at then.
            shared: whether the workers of `torch.distributed` have a share of every batch each.
        """
        self._images, self._targets, self._recipe, self._keys = images, targets, recipe, tuple(keys)
        self._augmentation = augmentation(recipe.augmentation)
        self._views = views
        self._shared = shared

    def batches(self, epoch: int) -> Generator[Batch, None, None]:
        """What each step of an epoch is on, or this worker's share of it; images are asked for ahead."""
        parts = self._parts(epoch)
        if self._views is not None:
            for step in parts:
                yield Batch.stacked([Batch(*self._views(p.key.child("views"), epoch, p.own), p.size) for p in step])
            return
        images = self._images.batches([part.rows for step in parts for part in step])
        for number, step in enumerate(parts):
            yield Batch.stacked([self._batch(part, next(images), epoch, number) for part in step])

    def _parts(self, epoch: int) -> list[list[_Part]]:
        """For each step of an epoch what each network is shown."""
        device, sampling = self._targets.device, self._recipe.sampling
        orders = [epoch_order(key.child("order", epoch), self._targets, sampling, device) for key in self._keys]
        steps = zip(*(order.split(self._recipe.batch_size) for order in orders), strict=True)
        return [
            [self._part(epoch, number, rows_B, key) for rows_B, key in zip(step, self._keys, strict=True)]
            for number, step in enumerate(steps)
        ]

    def _part(self, epoch: int, step: int, rows_B: Tensor, key: Key) -> _Part:
        size, own, mix = len(rows_B), self._share(rows_B), None
        if self._recipe.cutmix:
            mix = cutmix.draw(key.child("cutmix", epoch, step), self._recipe.cutmix, size, *self._images.shape[2:])
        if mix is None:
            return _Part(key, own, size)
        return _Part(key, own, size, (mix, self._share(rows_B[mix.partners.to(rows_B.device)])))

    def _share(self, rows_B: Tensor) -> Tensor:
        return shard(rows_B) if self._shared else rows_B

    def _batch(self, part: _Part, images: Tensor, epoch: int, step: int) -> Batch:
        """What a network is trained on, from the images of its rows."""
        images = self._augmentation.draw(part.key.child("augment", epoch, step), part.rows)(images)
        targets = self._targets[part.own]
        if part.mixed is None:
            mixed = (targets, images.new_tensor(1.0)) if self._recipe.cutmix else ()
            return Batch(images, targets, part.size, mixed)
        mix, other = part.mixed
        return Batch(
            mix.paste(*images.chunk(2)), targets, part.size, (self._targets[other], images.new_tensor(mix.kept))
        )
