"""One record: what one student was trained on and how well it did, or what a probe found.

A record's identity covers everything that determines the student and nothing else, so that the same student is never
trained twice.

Letters: K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from raydd.storage import content_key

Status = Literal["ok", "failed"]
Subject = Literal["synthetic", "ema", "init", "random", "k_center", "herding", "imported", "full"]
LabelRegime = Literal["hard", "stored", "replayed", "online"]
StageMode = Literal["single_shot", "chain", "new_only"]
Budget = Literal["reference", "matched"]
Probe = Literal["copies", "membership", "robustness", "continual", "search", "realism"]
"""What is asked of a set beside the accuracy of its students; see `raydd.evaluation.probes.probe`."""

SCHEMA = pa.schema(
    {
        "record_id": pa.string(),
        "probe": pa.string(),
        "variant": pa.string(),
        "run": pa.string(),
        "status": pa.string(),
        "error": pa.string(),
        "method": pa.string(),
        "dataset": pa.string(),
        "images_per_class": pa.int32(),
        "num_images": pa.int32(),
        "stage": pa.int32(),
        "subject": pa.string(),
        "labels": pa.string(),
        "mode": pa.string(),
        "budget": pa.string(),
        "network": pa.string(),
        "recipe": pa.string(),
        "augmentation": pa.string(),
        "optimizer": pa.string(),
        "student_seed": pa.int64(),
        "distill_seed": pa.int64(),
        "learned_lr": pa.float64(),
        "epochs": pa.int32(),
        "optimizer_steps": pa.int64(),
        "teacher_forwards": pa.int64(),
        "train_accuracy": pa.float64(),
        "validation_accuracy": pa.float64(),
        "test_accuracy": pa.float64(),
        "best_test_accuracy": pa.float64(),
        "class_accuracy": pa.list_(pa.float64()),
        "metrics": pa.map_(pa.string(), pa.float64()),
        "seconds": pa.float64(),
        "peak_memory_bytes": pa.int64(),
        "bytes_total": pa.int64(),
        "device": pa.string(),
        "config_key": pa.string(),
        "commit": pa.string(),
        "time": pa.timestamp("us", "UTC"),
    }
)
"""The columns of every part file; a sweep adds `param.<dotted.path>`, float64 or utf8."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One student. Accuracies are fractions; those of a failed student are None, and its `error` says why."""

    record_id: str
    probe: Probe | None = None
    """What was asked, where the record is not of a student; the answer is in `metrics`."""
    variant: str | None = None
    """Which of a probe's questions this is: the order of classes, the architecture."""
    run: str
    status: Status = "ok"
    error: str | None = None
    method: str
    dataset: str
    images_per_class: int
    num_images: int
    stage: int
    subject: Subject
    """What the student was trained on; `ema` is the average over the iterations, `init` where the method started."""
    labels: LabelRegime
    mode: StageMode
    budget: Budget
    network: str
    recipe: str
    augmentation: str
    optimizer: str
    student_seed: int
    distill_seed: int
    """The seed of the distillation; of a selection such as `random`, the number of the draw."""
    learned_lr: float | None
    epochs: int
    optimizer_steps: int
    teacher_forwards: int = 0
    train_accuracy: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    """At the last epoch: the number to report."""
    best_test_accuracy: float | None = None
    """At the best epoch, chosen on the test set: only to compare with papers that report it."""
    class_accuracy: tuple[float, ...] | None = None
    """Test accuracy of each class, K fractions."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float
    peak_memory_bytes: int | None = None
    bytes_total: int | None = None
    """What the student's training set takes to store: images, labels and step sizes."""
    device: str
    config_key: str
    commit: str
    time: datetime
    """When the student was finished; with a time zone."""

    def __post_init__(self) -> None:
        """Refuse a record that says both that the student finished and that it did not."""
        measured = (self.train_accuracy, self.validation_accuracy, self.test_accuracy, self.best_test_accuracy)
        answered = self.test_accuracy is not None or (self.probe is not None and self.metrics)
        if self.status == "ok" and (self.error is not None or not answered):
            raise ValueError("a record that is ok has a test accuracy, or a probe's metrics, and no error")
        if self.status == "failed" and (
            self.error is None or self.class_accuracy or any(a is not None for a in measured)
        ):
            raise ValueError("a failed record has an error and no accuracies")


_NEEDED: Final = frozenset(f.name for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING) - {
    "learned_lr"
}
"""What no record may lack."""
_SHARES: Final = ("train_accuracy", "validation_accuracy", "test_accuracy", "best_test_accuracy")
PAIRS: Final = pa.list_(pa.struct({"key": pa.string(), "value": pa.float64()}))
"""What the metrics of a record are as a list."""

Confusion = Sequence[Sequence[int]]
"""How many test images of each class were taken for each: K rows, one a true class, of K counts."""


def record_id(identity: Mapping[str, Any]) -> str:
    """Name the record of the student that `identity`, a JSON mapping, determines: 16 hexadecimal digits."""
    return content_key(identity)


def of_row(row: Mapping[str, Any]) -> Record:
    """The record of a table's row."""
    values: dict[str, Any] = {f.name: row.get(f.name) for f in fields(Record)}
    classes = values["class_accuracy"]
    values |= {"metrics": dict(values["metrics"] or ()), "class_accuracy": None if classes is None else tuple(classes)}
    return Record(**values)


def check(table: pa.Table) -> None:
    """See that all rows of a table, whose columns of SCHEMA have their types, are records.

    Raises:
        ValueError: something is missing, or is not what it should be.
    """
    found = {field.name: _column(table, field) for field in SCHEMA}
    if lacking := sorted(name for name in (*_NEEDED, "status") if found[name].null_count):
        raise ValueError(f"has no {', '.join(lacking)}")
    for name in _SHARES:
        fraction = pc.and_(pc.greater_equal(found[name], 0.0), pc.less_equal(found[name], 1.0))
        if odd := found[name].filter(pc.invert(fraction)).to_pylist():
            raise ValueError(f"{name} is {odd[0]}, not a fraction")
    is_ok, is_failed = (pc.equal(found["status"], status) for status in get_args(Status))
    if not _all(pc.or_(is_ok, is_failed)):
        raise ValueError("its status is neither ok nor failed")
    has = {name: pc.is_valid(column) for name, column in found.items()}
    has_metrics = pc.fill_null(pc.greater(pc.list_value_length(found["metrics"].cast(PAIRS)), 0), False)
    answered = pc.or_(has["test_accuracy"], pc.and_(has["probe"], has_metrics))
    measured = has["class_accuracy"]
    for name in _SHARES:
        measured = pc.or_(measured, has[name])
    is_whole = pc.and_(pc.invert(has["error"]), answered)
    if not _all(pc.or_(is_failed, is_whole)) or not _all(pc.or_(is_ok, pc.and_not(has["error"], measured))):
        raise ValueError("says both that the student finished and that it did not")


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    """A column, of nulls where a table lacks it."""
    if field.name in table.column_names:
        return table[field.name]
    return pa.chunked_array([pa.nulls(len(table), field.type)])


def _all(holds: pa.ChunkedArray) -> bool:
    """Whether something holds wherever it is known."""
    return pc.all(holds).as_py() in (True, None)
