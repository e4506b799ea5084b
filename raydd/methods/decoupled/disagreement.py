"""What networks that were trained on earlier stages' images do not know yet, and the teacher does.

In the spirit of CUDD (Ma et al., https://arxiv.org/abs/2405.09150), where a student that was trained on the images so
far says what the next ones should teach. The measure is ours: how much surer of a real image's class the teacher is,
p_teacher - p_student. Where it is large the next images start, and classes that have much of it weigh more in the cross
entropy.

Letters: N real images, K classes, C H W.
"""

import torch
from torch import Tensor

from raydd import networks
from raydd.core.errors import RunError
from raydd.data.images import Images
from raydd.ingredients.network_pool import NetworkStates
from raydd.ingredients.ranking import BATCH, score
from raydd.methods.base import Task
from raydd.training.loop import predict


def disagreement(task: Task, pool: NetworkStates) -> Tensor:
    """How much surer of every real training image's class the teacher is than the pool's networks, float64 [N]."""
    train = task.data.train
    return teacher_probabilities(task) - student_probabilities(task, pool, train.images, train.labels)


def teacher_probabilities(task: Task) -> Tensor:
    """The teacher's probability of every real training image's class, float64 [N]; the ranking's where there is one.

    Raises:
        RunError: one is not finite.
    """
    if task.ranking is not None:
        assert len(task.ranking.p_true) == len(task.data.train)
        return task.ranking.p_true.double()
    train, teacher = task.data.train, task.require_teacher()
    batches = zip(train.images.split(BATCH), train.labels.split(BATCH), strict=True)
    return torch.cat([score(teacher, images, labels) for images, labels in batches]).double()


def student_probabilities(task: Task, pool: NetworkStates, images_NCHW: Images | Tensor, labels_N: Tensor) -> Tensor:
    """The mean over a pool's networks of the probability of each image's class, float64 [N] on the CPU.

    Args:
        task: what the networks are of (`network`), and where they compute.
        pool: their states, which are asked in evaluation mode, one network after the other; at least one.
        images_NCHW: in network space.
        labels_N: int64 [N].

    Raises:
        ArtefactError: a state is not that of such a network.
        RunError: a network's output is not finite.
    """
    with torch.device("meta"):
        module = networks.build(task.network, task.data.shape, task.data.num_classes)
    module.to_empty(device=task.device)
    sum_N = torch.zeros(len(labels_N), dtype=torch.float64)
    for state in pool:
        networks.load_state(module, state)
        batches = zip(images_NCHW.split(BATCH), labels_N.split(BATCH), strict=True)
        sum_N += torch.cat([true_class(predict(module, images), labels) for images, labels in batches])
    if not sum_N.isfinite().all():
        raise RunError("the output of a network of the pool is not finite: lower the step size that it is trained with")
    return sum_N / len(pool)


def true_class(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """The probability of each image's class, float64 [N]."""
    return logits_NK.double().softmax(1).gather(1, labels_N[:, None]).squeeze(1)


def class_weights(disagreement_N: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """The weight of each class, float64 [K]; 1 on average.

    Half of it is the same for all, that no class is left out; half is in proportion to the mean of max(disagreement, 0)
    over the class's images. All are 1 where the students are nowhere less sure than the teacher.
    """
    sum_K = labels_N.bincount(disagreement_N.clamp(min=0), num_classes)
    mean_K = sum_K / labels_N.bincount(minlength=num_classes).clamp(min=1)
    average = mean_K.mean()
    return (1 + mean_K / average) / 2 if average > 0 else torch.ones_like(mean_K)
