"""The work of methods that distil a teacher.

Letters: N real images, M synthetic images, K classes, D values of an image.
"""

import math

import torch
from torch import Tensor

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.evaluation.students.trials import LabelStore
from raydd.ingredients.teacher import CHECK_IMAGES
from raydd.ingredients.teacher_epochs import teacher_epochs
from raydd.ingredients.view_labels import label_bytes
from raydd.methods import RDEDConfig
from raydd.methods.decoupled.family import RecoverConfig
from raydd.plan.cost import Cost, network_size, predicting, recover_step, slots, state_size, training
from raydd.plan.sizes import (
    METRICS_ROW_BYTES,
    SAVE_FACTOR,
    TENSOR_HEADER_BYTES,
    data_bytes,
    header_bytes,
    num_synthetic,
    part_bytes,
    set_bytes,
    synthetic_bytes,
)
from raydd.plan.step import Step
from raydd.plan.students import pixel_bytes, trials_of, whole_set

TEACHER_HEADER_BYTES = 2_600
"""Of a teacher: card, without the names of the classes, and manifest."""
CLASS_NAME_BYTES = 17
"""Of one class's name in the card."""
LABELS_HEADER_BYTES = 900
"""Of stored labels: card and manifest."""
EPOCH_HEADER_BYTES = 250
"""Of an epoch of stored labels: its file's header, and its place in the manifest."""
RANKING_HEADER_BYTES = 1_500
"""Of a ranking: Parquet schema and footer, and manifest."""
RANKING_ROW_BYTES = 11
"""Of one image in a ranking: class, row, path and score (measured 10.1 to 11.6)."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GATHER_FACTOR = 8
"""Copies of the whole set, float32, that are held at once when its class groups are put together (measured 7.9)."""


def teacher(config: RunConfig, facts: DataFacts) -> Step:
    """Its training, or none where it is taken from a file, and its test; what it was earlier, where stages need it."""
    network, recipe, taken = config.teacher_network, config.teacher.training, config.teacher.weights is not None
    tested = facts.num_test + min(CHECK_IMAGES, facts.num_test)
    one = _tested(config, facts, tested) if taken else training(network, recipe, facts, facts.num_train, tested)
    parameters, tensors = network_size(network, facts)
    stored = state_size(network, facts) + TEACHER_HEADER_BYTES + CLASS_NAME_BYTES * facts.num_classes
    checkpoint = 0 if taken else stored + slots(recipe) * (4 * parameters + tensors * TENSOR_HEADER_BYTES)
    early = 0
    if "teacher_epoch" in config.stages.teacher_conditions:
        epochs = {*teacher_epochs(recipe.epochs, config.stages.count)} - {recipe.epochs}
        early = len(epochs) * state_size(network, facts)
    how = "taken from a file" if taken else f"of {recipe.epochs} epochs"
    return Step(
        work="teacher",
        makes=f"teacher {how} ({network.label})",
        units=1,
        optimizer_steps=0 if taken else recipe.steps(facts.num_train),
        flops=one.flops,
        disk_bytes=stored + early,
        working_disk_bytes=2 * (checkpoint + early),
        peak_tensor_bytes=one.tensor_bytes,
        peak_memory_bytes=data_bytes(config, facts) + max(one.memory_bytes, SAVE_FACTOR * (checkpoint + early)),
    )


def rank(config: RunConfig, facts: DataFacts) -> Step:
    """The teacher's scores of all training images."""
    one = _tested(config, facts, facts.num_train)
    return Step(
        work="rank",
        makes="training images ranked",
        units=facts.num_train,
        flops=one.flops,
        disk_bytes=RANKING_ROW_BYTES * facts.num_train + RANKING_HEADER_BYTES,
        working_disk_bytes=4 * facts.num_train,
        peak_tensor_bytes=one.tensor_bytes,
        peak_memory_bytes=data_bytes(config, facts) + one.memory_bytes,
    )


def distill(config: RunConfig, facts: DataFacts) -> Step:
    """Class groups, `cluster.groups_at_once` side by side, and their union."""
    method, groups = config.method, config.method.num_groups(facts.num_classes)
    assert isinstance(method, RecoverConfig | RDEDConfig)
    pack = min(config.cluster.groups_at_once, groups)
    images = pack * len(_group(config, facts))
    one = _recovering(config, facts, images) if isinstance(method, RecoverConfig) else _choosing(config, facts)
    begun = 4 * images * facts.values
    state = 3 * begun if method.iterations else 0
    checkpoint = state + method.iterations * METRICS_ROW_BYTES
    metrics = math.ceil(groups / pack) * method.iterations * METRICS_ROW_BYTES
    done = f", {one.images:.4g} image-iterations" * (method.iterations > 0)
    return Step(
        work="distill",
        makes=f"class groups of {method.name} ({num_synthetic(config, facts)} images{done})",
        units=groups,
        flops=one.flops,
        disk_bytes=2 * _groups_bytes(config, facts) + 3 * synthetic_bytes(config, facts, exact=True) + metrics,
        working_disk_bytes=2 * checkpoint,
        peak_tensor_bytes=state + max(one.tensor_bytes, state),
        peak_memory_bytes=data_bytes(config, facts)
        + max(begun + state + one.memory_bytes, SAVE_FACTOR * checkpoint, GATHER_FACTOR * set_bytes(config, facts)),
    )


def relabel(config: RunConfig, facts: DataFacts) -> Step:
    """The teacher's labels of all views that students replay."""
    stores = LabelStore.needed(trials_of(config, facts), config.evaluate.label_epochs)
    num_images, floats = whole_set(config, facts)
    epochs = sum(store.epochs for store in stores)
    one = _tested(config, facts, epochs * num_images)
    kept, making = (max(sizes) for sizes in zip(*(pixel_bytes(store.views, floats) for store in stores), strict=True))
    return Step(
        work="relabel",
        makes="epochs of labels",
        units=epochs,
        flops=one.flops,
        disk_bytes=label_bytes(epochs, num_images, facts.num_classes)
        + epochs * EPOCH_HEADER_BYTES
        + len(stores) * LABELS_HEADER_BYTES,
        working_disk_bytes=0,
        peak_tensor_bytes=max(kept + one.tensor_bytes, making),
        peak_memory_bytes=data_bytes(config, facts) + floats + max(kept + one.memory_bytes, making),
    )


def disagreement(config: RunConfig, facts: DataFacts, pool_size: int) -> int:
    """FLOPs of asking the networks of a pool what they know.

    They are shown all training images, once for each pack of class groups, or the crops that are chosen from; so is the
    teacher where its ranking does not say it.
    """
    student, method = predicting(config.network, facts), config.method
    if isinstance(method, RDEDConfig):
        return pool_size * student.flops_of(_choosing(config, facts).images)
    packs = math.ceil(method.num_groups(facts.num_classes) / config.cluster.groups_at_once)
    known = 0 if method.uses_ranking else predicting(config.teacher_network, facts).flops_of(facts.num_train)
    return packs * (pool_size * student.flops_of(facts.num_train) + known)


def _group(config: RunConfig, facts: DataFacts) -> Tensor:
    """The labels of the largest class group, the first."""
    method = config.method
    if isinstance(method, RecoverConfig):
        return method.rows(0, facts.num_classes).labels
    return torch.zeros(method.images_per_class, dtype=torch.int64)


def _groups_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The sets of all class groups, each with a preview of its own."""
    groups, classes = config.method.num_groups(facts.num_classes), len(_group(config, facts).unique())
    together = part_bytes(config, facts, num_synthetic(config, facts), groups * classes, exact=True)
    return together + (groups - 1) * header_bytes(facts)


def _tested(config: RunConfig, facts: DataFacts, num_images: int) -> Cost:
    """So many images shown to the teacher."""
    network = config.teacher_network
    one, resident = predicting(network, facts), state_size(network, facts)
    return Cost(num_images, one.flops_of(num_images), resident + one.tensor_bytes, resident + one.memory_bytes)


def _recovering(config: RunConfig, facts: DataFacts, rows: int) -> Cost:
    """All image-iterations, so many images at a time."""
    method, network = config.method, config.teacher_network
    assert isinstance(method, RecoverConfig)
    one = recover_step(network, facts, rows, config.cluster.groups_at_once, DTYPES[method.precision])
    resident, images = state_size(network, facts), method.image_iterations(facts.num_classes)
    return Cost(images, one.flops_of(images), resident + one.tensor_bytes, resident + one.memory_bytes)


def _choosing(config: RunConfig, facts: DataFacts) -> Cost:
    """All crops that RDED's teacher is shown; those of a class are held at once."""
    method = config.method
    assert isinstance(method, RDEDConfig)
    candidates = min(method.candidates, facts.num_train // facts.num_classes)
    one = _tested(config, facts, facts.num_classes * candidates * method.crops)
    held = 4 * candidates * facts.values
    return Cost(one.images, one.flops, one.tensor_bytes, held + one.memory_bytes)
