"""What a run takes, ahead of it: FLOPs, disk and memory.

Nothing is read, trained or allocated: sizes follow from the shapes of what is written, FLOPs and activations from
walking one step of each kind on torch's meta device (`cost.py`).

Letters: N real images, M synthetic images, B batch, K classes, C H W, D = C * H * W, P parameters, T inner steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from raydd.config import RunConfig
from raydd.evaluation.trials import plan_trials
from raydd.experts import epochs_stored
from raydd.methods.matching import draw_batches, inner_gradient
from raydd.plan.cost import DataFacts, gradient_step, kept_bytes, matching_step, network_size, predicting, training
from raydd.random import Key

__all__ = [
    "DataFacts",
    "Plan",
    "Step",
    "checkpoint_bytes",
    "data_bytes",
    "make_plan",
    "synthetic_bytes",
    "trajectory_bytes",
]

SAVE_FACTOR = 4
"""State, its copy, and the two serialised forms that safetensors holds at once (measured 4.0)."""
EIGEN_FACTOR = 6
"""D x D float64 matrices that fitting a whitening holds at once (measured 5.3 at D = 3072)."""
TENSOR_HEADER_BYTES = 85
"""Of one tensor in a safetensors file."""
EPOCH_HEADER_BYTES = 432
"""Of one epoch in a trajectory file: two Arrow messages and their place in the footer."""
TRAJECTORY_HEADER_BYTES = 3_000
"""Of one trajectory: its card, in the schema at the head and again at the foot, and the JSON file beside it."""
METRICS_ROW_BYTES = 240
"""Of one outer iteration, in the metrics file and again in the checkpoint."""
RECORD_BYTES = 11_000
"""Of one student's Parquet part."""
SYNTHETIC_HEADER_BYTES = 6_500
"""Of one synthetic set: Parquet schema and footer, card and manifest."""
FLOAT_BYTES = 3.7
"""Of one float32 of image noise under zstd, which finds something in the exponents only."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One kind of work."""

    work: str
    """data, experts, distill, evaluate; total."""
    makes: str
    units: int
    """How many of what it makes: images, trajectories, outer iterations, students."""
    flops: int
    """Of all units, skipping and failing nothing."""
    disk_bytes: int
    """Of what stays."""
    working_disk_bytes: int
    """Of what lies under `work/` meanwhile: prepared data; the epochs of one pack of experts; checkpoints."""
    peak_tensor_bytes: int
    """Most bytes of tensors alive at once where the network is: what a GPU needs besides its context and workspaces."""
    peak_memory_bytes: int
    """Most memory of one process on a CPU, above what it takes once everything is imported; see `make_plan`."""
    seconds: float | None = None
    """In one process, where a measured rate was given."""


@dataclass(frozen=True)
class Plan:
    """All work of a run, in order."""

    steps: tuple[Step, ...]

    @property
    def total(self) -> Step:
        """FLOPs, disk and seconds added up; the largest of the memory peaks."""
        seconds = [step.seconds for step in self.steps if step.seconds is not None]
        return Step(
            work="total",
            makes="the run",
            units=1,
            flops=sum(step.flops for step in self.steps),
            disk_bytes=sum(step.disk_bytes for step in self.steps),
            working_disk_bytes=sum(step.working_disk_bytes for step in self.steps),
            peak_tensor_bytes=max(step.peak_tensor_bytes for step in self.steps),
            peak_memory_bytes=max(step.peak_memory_bytes for step in self.steps),
            seconds=sum(seconds) if seconds else None,
        )

    def rows(self) -> list[dict[str, str | int | float]]:
        """Plain data, one row a kind of work and one for the total; `seconds` only where known."""
        rows = (asdict(step) for step in (*self.steps, self.total))
        return [{name: value for name, value in row.items() if value is not None} for row in rows]


def make_plan(config: RunConfig, facts: DataFacts, flops_per_second: Mapping[str, float] | None = None) -> Plan:
    """What each kind of work will take.

    Memory of one process on a CPU is the sum of

    - the prepared data, in full, though processes of one node share the pages that they map;
    - what is resident: networks and momenta; when distilling, T + 1 parameter vectors, and five times the synthetic
      set (images and labels, their momenta, both of the last good state, and the gradient), seven with an average;
    - what is alive at the peak of one step (when distilling, of its double backward) on the meta device, times
      `HEAP_FACTOR` for tensors below `HEAP_LIMIT_BYTES`; or of a prediction, or of saving, where that is more.

    Left out of memory are decoding the source's files, augmentation (below a tenth of a step), pages of trajectories
    that the system may take back, and Ray's own processes; out of FLOPs, the experts' search for starting images and
    the assigning of labels (one prediction of the set in each iteration).

    Args:
        config: the run.
        facts: the dataset's size.
        flops_per_second: measured rates of one process, by `Step.work`; a kind without one gets no `seconds`.

    Raises:
        ConfigError: the images are smaller than a network can pool.
    """
    rates = flops_per_second or {}
    steps = [make(config, facts) for make in (_data, _experts, _distill, _evaluate)]
    return Plan(
        tuple(replace(step, seconds=step.flops / rates[step.work]) if step.work in rates else step for step in steps)
    )


def data_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The prepared data: float32 images and int64 labels of all splits, and the whitening."""
    return facts.num_images * (4 * facts.values + 8) + _whitening_bytes(config, facts)


def trajectory_bytes(num_parameters: int, num_epochs: int) -> int:
    """One expert's files: P float32 for every epoch that is stored."""
    return num_epochs * (4 * num_parameters + EPOCH_HEADER_BYTES) + TRAJECTORY_HEADER_BYTES


def synthetic_bytes(config: RunConfig, facts: DataFacts) -> int:
    """One synthetic set: float32 tensors, PNGs and label logits in Parquet, whitening, and preview.

    Distilled images are noise to a compressor; what looks more like photographs takes less.
    """
    png = 1.02 * facts.values + 70
    labels = 4 * facts.num_classes * config.method.has_soft_labels + 2
    preview = 1.2 * png * facts.num_classes * min(config.method.images_per_class, 10)
    images = _num_synthetic(config, facts) * (FLOAT_BYTES * facts.values + png + labels)
    return round(images + preview) + _whitening_bytes(config, facts) + SYNTHETIC_HEADER_BYTES


def checkpoint_bytes(config: RunConfig, facts: DataFacts) -> int:
    """The last checkpoint of distilling: what is learned, its momenta and average, now and when last good; metrics."""
    average = config.method.has_average
    tensors = 4 * (2 + config.method.has_soft_labels) + 2 * average
    state = 4 * (_set_bytes(config, facts) + 4) + 2 * average * _set_bytes(config, facts)
    return state + tensors * TENSOR_HEADER_BYTES + config.method.iterations * METRICS_ROW_BYTES


def _data(config: RunConfig, facts: DataFacts) -> Step:
    """Whitening takes the covariance, its eigenvectors (9 D^3, Golub and Van Loan, section 8.3) and three products."""
    size, whitens = facts.values, config.data.preprocess == "zca"
    stored = data_bytes(config, facts)
    return Step(
        work="data",
        makes=f"prepared images ({config.data.source}, {config.data.preprocess})",
        units=facts.num_images,
        flops=whitens * (13 * size**3 + 2 * size**2 * (facts.num_train + facts.num_images)),
        disk_bytes=0,
        working_disk_bytes=stored,
        peak_tensor_bytes=0,
        peak_memory_bytes=stored + facts.num_images * size + whitens * EIGEN_FACTOR * 8 * size**2,
    )


def _experts(config: RunConfig, facts: DataFacts) -> Step:
    """The training, and a test every `test_every` epochs and after the last."""
    recipe, count = config.experts.training, config.experts.count
    pack = 1 if config.cluster.pack == "auto" else min(config.cluster.pack, count)
    tests = math.ceil(recipe.epochs / (config.experts.test_every or recipe.epochs))
    one = training(config.network, recipe, facts, facts.num_train, tests * facts.num_test)
    size, tensors = network_size(config.network, facts)
    snapshot = (2 if recipe.momentum else 1) * (4 * size + tensors * TENSOR_HEADER_BYTES)
    return Step(
        work="experts",
        makes=f"trajectories of {recipe.epochs} epochs ({config.network.label})",
        units=count,
        flops=count * one.flops,
        disk_bytes=count * trajectory_bytes(size, len(epochs_stored(config.experts, config.method))),
        working_disk_bytes=pack * (recipe.epochs + 1) * snapshot,
        peak_tensor_bytes=pack * one.tensor_bytes,
        peak_memory_bytes=data_bytes(config, facts) + pack * max(one.memory_bytes, SAVE_FACTOR * snapshot),
    )


def _distill(config: RunConfig, facts: DataFacts) -> Step:
    """The outer iterations and, where labels are learned, the experts' logits that those start from."""
    method, soft = config.method, config.method.has_soft_labels
    num_images, learned = _num_synthetic(config, facts), _set_bytes(config, facts)
    batch_size = min(method.synthetic_batch_size or num_images, num_images)
    batches = draw_batches(Key.root(config.seed), num_images, batch_size, method.synthetic_steps)
    workers = 1 if config.cluster.num_workers == "auto" else config.cluster.num_workers
    curvature, last_steps = inner_gradient(method.gradient)
    rows = math.ceil(batch_size / workers)
    if config.cluster.rows_at_once != "auto":
        rows = min(rows, config.cluster.rows_at_once)
    step = matching_step(config.network, facts, rows, soft, curvature)
    differentiated = min(last_steps or method.synthetic_steps, method.synthetic_steps)
    vector = 4 * network_size(config.network, facts)[0]
    kept = 0
    if config.cluster.compile != "off":
        kept = min(config.cluster.kept_steps, differentiated) * kept_bytes(config.network, facts, rows)
    resident = kept + (5 + 2 * method.has_average) * learned + (method.synthetic_steps + 1) * vector
    passed, images = _images(batches, differentiated), _images(batches, len(batches))
    flops = step.flops_of(passed)
    flops += gradient_step(config.network, facts, rows).flops_of(images - passed)
    start, checkpoint = predicting(config.network, facts), checkpoint_bytes(config, facts)
    work = max(
        resident + step.memory_bytes,
        soft * (vector + start.memory_bytes),
        SAVE_FACTOR * checkpoint,
    )
    return Step(
        work="distill",
        makes=f"outer iterations of {method.name} ({num_images} images)",
        units=method.iterations,
        flops=method.iterations * flops + soft * _labelling(config, facts),
        disk_bytes=(3 + 2 * method.has_average) * synthetic_bytes(config, facts)
        + method.iterations * METRICS_ROW_BYTES,
        working_disk_bytes=2 * checkpoint,
        peak_tensor_bytes=max(resident + step.tensor_bytes, soft * (vector + start.tensor_bytes), 8 * learned),
        peak_memory_bytes=data_bytes(config, facts) + work,
    )


def _evaluate(config: RunConfig, facts: DataFacts) -> Step:
    """All students, and the experts' logits for each that learns from random images with stored labels."""
    trials = plan_trials(config.evaluate, config.network, config.method.has_soft_labels, config.method.has_average)
    labelled = sum(trial.subject == "random" and trial.labels == "stored" for trial in trials)
    num_images, num_predicted = _num_synthetic(config, facts), facts.num_test + facts.num_validation
    sizes = (facts.num_train if trial.subject == "full" else num_images for trial in trials)
    students = [
        training(trial.network, trial.recipe, facts, size, num_predicted)
        for trial, size in zip(trials, sizes, strict=True)
    ]
    resident = data_bytes(config, facts) + 2 * _set_bytes(config, facts)
    return Step(
        work="evaluate",
        makes="students",
        units=len(trials),
        flops=sum(student.flops for student in students) + labelled * _labelling(config, facts),
        disk_bytes=len(trials) * RECORD_BYTES,
        working_disk_bytes=0,
        peak_tensor_bytes=max(student.tensor_bytes for student in students),
        peak_memory_bytes=resident + max(student.memory_bytes for student in students),
    )


def _images(batches: Sequence[Tensor], last: int) -> int:
    """How many images the last so many inner steps take."""
    return sum(map(len, batches[len(batches) - last :]))


def _num_synthetic(config: RunConfig, facts: DataFacts) -> int:
    return config.method.images_per_class * facts.num_classes


def _set_bytes(config: RunConfig, facts: DataFacts) -> int:
    """What is learned: images and, where they are soft, labels."""
    return 4 * _num_synthetic(config, facts) * (facts.values + facts.num_classes * config.method.has_soft_labels)


def _whitening_bytes(config: RunConfig, facts: DataFacts) -> int:
    return 4 * (2 * facts.values**2 + facts.values) if config.data.preprocess == "zca" else 0


def _labelling(config: RunConfig, facts: DataFacts) -> int:
    """FLOPs of the logits of every expert for as many images as the synthetic set has."""
    return predicting(config.network, facts).flops_of(config.experts.count * _num_synthetic(config, facts))
