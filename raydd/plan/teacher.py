"""The work of a teacher: its training, its ranking of real images, the labels that it gives views.

Letters: N real images, M synthetic images.
"""

from raydd.config import RunConfig
from raydd.data import DataFacts
from raydd.data.size import data_bytes
from raydd.evaluation.students.trials import LabelStore
from raydd.ingredients.teacher import CHECK_IMAGES
from raydd.ingredients.teacher_epochs import teacher_epochs
from raydd.ingredients.view_labels import label_bytes
from raydd.plan.sizes import num_synthetic, set_bytes
from raydd.plan.step import Step
from raydd.plan.students import pixel_bytes, trials_of
from raydd.training.cost import SAVE_FACTOR, TENSOR_HEADER_BYTES, network_size, shown, slots, state_size, training

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


def teacher(config: RunConfig, facts: DataFacts) -> Step:
    """Its training, or none where it is taken from a file, and its test; what it was earlier, where stages need it."""
    network, recipe, taken = config.teacher_network, config.teacher.training, config.teacher.weights is not None
    tested = facts.num_test + min(CHECK_IMAGES, facts.num_test)
    one = shown(network, facts, tested) if taken else training(network, recipe, facts, facts.num_train, tested)
    stored = state_size(network, facts) + TEACHER_HEADER_BYTES + CLASS_NAME_BYTES * facts.num_classes
    parameters, tensors = network_size(network, facts)
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
        peak_memory_bytes=data_bytes(config.data, facts) + max(one.memory_bytes, SAVE_FACTOR * (checkpoint + early)),
    )


def rank(config: RunConfig, facts: DataFacts) -> Step:
    """The teacher's scores of all training images."""
    one = shown(config.teacher_network, facts, facts.num_train)
    return Step(
        work="rank",
        makes="training images ranked",
        units=facts.num_train,
        flops=one.flops,
        disk_bytes=RANKING_ROW_BYTES * facts.num_train + RANKING_HEADER_BYTES,
        working_disk_bytes=4 * facts.num_train,
        peak_tensor_bytes=one.tensor_bytes,
        peak_memory_bytes=data_bytes(config.data, facts) + one.memory_bytes,
    )


def relabel(config: RunConfig, facts: DataFacts) -> Step:
    """The teacher's labels of all views that students replay."""
    stores = LabelStore.needed(trials_of(config, facts), config.evaluate.label_epochs)
    num_images, floats = num_synthetic(config, facts), set_bytes(config, facts)
    epochs = sum(store.epochs for store in stores)
    one = shown(config.teacher_network, facts, epochs * num_images)
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
        peak_memory_bytes=data_bytes(config.data, facts) + floats + max(kept + one.memory_bytes, making),
    )
