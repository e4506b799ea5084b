"""The product's training loop against the loop of the papers' code, on the same networks, batches and draws.

Letters: N images, B batch, C H W, P flat parameters.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from raydd import networks
from raydd.bench.comparison import compare, here
from raydd.core import keyed_random, process
from raydd.core.keyed_random import Key
from raydd.networks.config import NetworkConfig
from raydd.training.dsa import augmentation
from raydd.training.loop import Training
from raydd.training.recipe import Recipe

KEY = Key.root(0)
SHAPE, NUM_CLASSES = (3, 32, 32), 10


@dataclass(frozen=True, kw_only=True)
class TrainingBench:
    """Networks in training on random colour images of 32x32 pixels and ten classes."""

    network: NetworkConfig
    recipe: Recipe
    num_images: int
    """N, one epoch of which is timed."""
    soft_labels: bool
    compiled: bool
    pack: int
    """Networks that the product trains at once; the plain loop trains them one after the other."""
    threads: int
    pairs: int

    def run(self) -> dict[str, float]:
        """Measure one epoch of all networks; see `compare`.

        `step_error` is the relative difference of the first step.
        """
        process.set_up(self.threads)
        measured = compare(TrainingProblem, self, compiled=self.compiled, threads=self.threads, pairs=self.pairs)
        images = self.pack * self.num_images
        return {
            **measured,
            "images_per_second": images / measured["seconds"],
            "plain_images_per_second": images / measured["plain_seconds"],
            "step_error": self._step_error(),
        }

    def _step_error(self) -> float:
        """|ours - plain| / |plain - start| after one step."""
        batch_size = min(self.recipe.batch_size, self.num_images)
        problem = TrainingProblem(replace(self, num_images=batch_size))
        start = problem.parameters("plain")
        problem.ours()
        problem.plain()
        ours, plain = problem.parameters("ours"), problem.parameters("plain")
        return float((ours - plain).norm() / (plain - start).norm())


class TrainingProblem:
    """Images, labels, and on both sides networks that start alike."""

    def __init__(self, bench: TrainingBench) -> None:
        """Draw everything from fixed keys."""
        self.bench, self.device = bench, here()
        with keyed_random.seeded(KEY):
            self.images = torch.randn(bench.num_images, *SHAPE)
            classes = torch.randint(NUM_CLASSES, (bench.num_images,))
            self.targets = torch.randn(bench.num_images, NUM_CLASSES) if bench.soft_labels else classes
        self.keys = [KEY.child("network", number) for number in range(bench.pack)]
        self.modules = {side: [self._module(key) for key in self.keys] for side in ("ours", "plain")}
        self._training = Training(
            self.modules["ours"], self.images, self.targets, bench.recipe, self.keys, compiled=bench.compiled
        )
        self._loops = [
            _PlainLoop(module, bench.recipe, key) for module, key in zip(self.modules["plain"], self.keys, strict=True)
        ]

    def ours(self) -> None:
        """One epoch by the product."""
        self._training.run_epoch(0)

    def plain(self) -> None:
        """One epoch by the papers' loop, network after network."""
        for loop in self._loops:
            loop.run_epoch(0, self.images, self.targets, self.device)

    def parameters(self, side: str) -> Tensor:
        """Of all networks of a side, a copy."""
        return torch.cat([p.detach().flatten() for module in self.modules[side] for p in module.parameters()]).cpu()

    def _module(self, key: Key) -> nn.Module:
        with keyed_random.seeded(key):
            return networks.build(self.bench.network, SHAPE, NUM_CLASSES).to(self.device)


class _PlainLoop:
    """One network's training as the papers' code writes it, GSAM in its published form with closures left out."""

    def __init__(self, module: nn.Module, recipe: Recipe, key: Key) -> None:
        assert recipe.lr is not None
        self.module, self.recipe, self.key = module, recipe, key
        self.optimizer = torch.optim.SGD(
            module.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def run_epoch(self, epoch: int, images: Tensor, targets: Tensor, device: torch.device) -> tuple[float, float]:
        """Mean loss and accuracy."""
        loss_sum, correct = 0.0, 0
        order = keyed_random.permutation(self.key.child("order", epoch), len(images))
        self.module.train()
        for step, rows in enumerate(order.split(self.recipe.batch_size)):
            draw = augmentation(self.recipe.augmentation).draw(self.key.child("augment", epoch, step), rows)
            batch, labels = draw(images[rows].float().to(device)), targets[rows].to(device)
            logits, loss = self._backward(batch, labels)
            if self.recipe.is_gsam:
                self._sharpen(batch, labels)
            self.optimizer.step()
            classes = labels.argmax(1) if labels.is_floating_point() else labels
            predicted = np.argmax(logits.cpu().data.numpy(), axis=-1)
            correct += int(np.sum(np.equal(predicted, classes.cpu().data.numpy())))
            loss_sum += loss.item() * len(rows)
        return loss_sum / len(images), correct / len(images)

    def _backward(self, batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(batch)
        if labels.is_floating_point():
            loss = (-labels.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        else:
            loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        return logits, loss

    @torch.no_grad()
    def _sharpen(self, batch: Tensor, labels: Tensor) -> None:
        rho, alpha = self.recipe.gsam_rho, self.recipe.gsam_alpha
        weights = list(self.module.parameters())
        before, first = [w.clone() for w in weights], [_grad(w).clone() for w in weights]
        scales = [w.square() if self.recipe.gsam_adaptive else torch.ones_like(w) for w in weights]
        length = _norm([s.sqrt() * g for s, g in zip(scales, first, strict=True)])
        for weight, scale, gradient in zip(weights, scales, first, strict=True):
            weight.add_(rho / (length + 1e-12) * scale * gradient)
        with torch.enable_grad():
            self._backward(batch, labels)
        second = [_grad(w) for w in weights]
        norms = _norm(first), _norm(second)
        inner = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
        cosine = inner / (norms[0] * norms[1] + 1e-12)
        for weight, old, a, b in zip(weights, before, first, second, strict=True):
            weight.copy_(old)
            b.sub_(alpha * (a - cosine * norms[0] * b / (norms[1] + 1e-12)))


def _grad(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.stack([t.norm() for t in tensors]).norm()
    return norm
