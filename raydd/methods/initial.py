"""Starting images and labels, chosen from the real data, and those that earlier stages left.

Letters: N real images, M = images_per_class * K synthetic ones, F of earlier stages, K classes, C H W.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from raydd import networks
from raydd.core import keyed_random
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data.prepared import PreparedData
from raydd.methods.base import Start, Task
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import LabelKind
from raydd.training.loop import predict
from raydd.training.sampling import repeated


def class_labels(num_classes: int, images_per_class: int) -> Tensor:
    """int64 [M], class-major: 0 .. 0, 1 .. 1, and so on."""
    return torch.arange(num_classes).repeat_interleave(images_per_class)


def random_real(data: PreparedData, images_per_class: int, key: Key, repeat: bool = False) -> Tensor:
    """Rows int64 [M] of real training images drawn without replacement, class-major.

    Args:
        data: the real data.
        images_per_class: how many to draw.
        key: of the draws.
        repeat: whether a class with fewer images gives all of them, then the same again in their order.

    Raises:
        ConfigError: a class has fewer images, and they are not to be repeated.
    """
    require_images(data, images_per_class, repeat)
    classes = range(data.num_classes)
    return torch.cat([repeated(_shuffled(data, label, key), images_per_class) for label in classes])


def require_images(data: PreparedData, images_per_class: int, repeat: bool = False) -> None:
    """Raise ConfigError unless every class has that many training images, or, where they are repeated, one."""
    for label, count in enumerate(data.train.labels.bincount(minlength=data.num_classes).tolist()):
        _require(data, label, count, images_per_class, repeat, "images")


def correctly_predicted(
    task: Task, images_per_class: int, key: Key, epoch: int | None = None, repeat: bool = False
) -> Tensor:
    """Rows int64 [M] of random real images that an expert at an epoch (the last) classifies correctly, class-major.

    Expert 0 is asked first; where it knows too few images of a class, expert 1 adds those it knows, and so on
    (DATM, Guo et al. 2024, section 3.3; image_init `samples_predicted_correctly` of the published code). Where `repeat`
    allows it, all images that are known come first, then the same again.

    Raises:
        ConfigError: all experts together know too few images of a class, or none.
    """
    classes = range(task.data.num_classes)
    return torch.cat([_known(task, label, images_per_class, key, epoch, repeat) for label in classes])


def masked_mean_logits(task: Task, images_MCHW: Tensor, labels_M: Tensor, epoch: int | None = None) -> Tensor:
    """Soft labels [M, K]: for each image the mean logits of the experts that classify it correctly.

    Experts at their last epoch, unless another is given (DATM's code; the paper names a single pre-trained expert). An
    image that no expert classifies correctly gets the mean over all experts, where the published code divides by zero.
    Sums are float64, rounded once, where the code's are float32: labels differ from its own in the last digit.
    """
    total = torch.zeros(len(labels_M), task.data.num_classes, dtype=torch.float64)
    everyone, hits = total.clone(), torch.zeros(len(labels_M), 1, dtype=torch.float64)
    for network in _experts(task, epoch):
        logits = predict(network, images_MCHW).double()
        correct = (logits.argmax(1) == labels_M).unsqueeze(1)
        total += logits * correct
        hits += correct
        everyone += logits / task.num_experts
    return torch.where(hits > 0, total / hits.clamp(min=1), everyone).float()


def single_expert_logits(task: Task, images_MCHW: Tensor, epoch: int | None = None) -> Tensor:
    """Soft labels [M, K]: the logits of expert 0 at an epoch (the last), whether it is right or not."""
    return predict(next(_experts(task, epoch)), images_MCHW)


def earlier_images(task: Task, start: Start, soft: bool, kind: LabelKind = "logits") -> tuple[Tensor, Tensor]:
    """Images [F, C, H, W] of earlier stages and their labels, on the task's device: not copied if they lie there.

    Args:
        task: which says where, and in which precision.
        start: of the stage.
        soft: whether the stage has soft labels [F, K], and not classes [F].
        kind: what soft labels are.

    Raises:
        ConfigError: it is otherwise with those of earlier stages.
    """
    frozen, here = start.frozen, (task.device, task.dtype)
    if frozen is None:
        return torch.empty(0, *task.data.shape), torch.empty(0)
    if frozen.soft_labels is not None and frozen.label_kind != kind and soft:
        raise ConfigError(
            "stages.overrides",
            f"stage {start.stage} has {kind} labels, but the images of earlier stages have {frozen.label_kind} ones: "
            "let all stages have labels of one kind",
        )
    if soft != (frozen.soft_labels is not None):
        own, theirs = ("soft", "hard") if soft else ("hard", "soft")
        raise ConfigError(
            "stages.overrides",
            f"stage {start.stage} has {own} labels, but the images of earlier stages have {theirs} ones, and a batch "
            "of both needs one kind: let all stages have the same method.labels",
        )
    labels = frozen.labels.to(task.device) if frozen.soft_labels is None else frozen.soft_labels.to(*here)
    return frozen.images.to(*here), labels


def _known(task: Task, label: int, images_per_class: int, key: Key, epoch: int | None, repeat: bool) -> Tensor:
    rows = _shuffled(task.data, label, key)
    found = rows[:0]
    for network in _experts(task, epoch):
        for chunk in rows.split(256):
            hits = chunk[predict(network, task.data.train.images[chunk]).argmax(1) == label]
            found = torch.cat([found, hits[~torch.isin(hits, found)]])
            if len(found) >= images_per_class:
                return found[:images_per_class]
    _require(
        task.data,
        label,
        len(found),
        images_per_class,
        repeat,
        "images that an expert classifies correctly; train the experts for longer",
    )
    return repeated(found, images_per_class)


def _experts(task: Task, epoch: int | None) -> Iterator[torch.nn.Module]:
    """The experts at an epoch, the last by default, one after the other."""
    store = task.require_trajectories()
    module = networks.build(task.network, task.data.shape, task.data.num_classes).to(task.device)
    flat = FlatNetwork(module)
    for expert in range(task.num_experts):
        params = store.params(expert, task.last_epoch if epoch is None else epoch).to(task.device)
        module.load_state_dict(flat.unflatten(params), strict=False)
        yield module


def _shuffled(data: PreparedData, label: int, key: Key) -> Tensor:
    rows = (data.train.labels == label).nonzero().squeeze(1)
    return rows[keyed_random.permutation(key.child("class", label), len(rows))]


def _require(data: PreparedData, label: int, found: int, images_per_class: int, repeat: bool, what: str) -> None:
    if found < (1 if repeat else images_per_class):
        remedy = "; set method.repeat_images to true to take them more than once" if found else ""
        raise ConfigError(
            "method.images_per_class",
            f"{images_per_class} asked for, but class {data.class_names[label]!r} has only {found} {what}{remedy}",
        )
