"""Records: what one student was trained on and how well it did, or what a probe found, one small Parquet file each.

A record's identity covers everything that determines the student and nothing else, so that the same student is never
trained twice: whoever is about to train one looks it up by `find` first.

Letters: K classes.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydd.core.errors import ArtefactError
from raydd.storage import Artefact, Folder, content_key
from raydd.storage.readable import legible

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

_ORDER = (
    "probe",
    "variant",
    "stage",
    "method",
    "images_per_class",
    "network",
    "recipe",
    "distill_seed",
    "student_seed",
    "record_id",
)


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


_SET: Final = "synthetic"
"""The folder of a run's distilled set, beside that of its records."""
_NEEDED: Final = frozenset(f.name for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING) - {
    "learned_lr"
}
"""What no record may lack."""
_SHARES: Final = ("train_accuracy", "validation_accuracy", "test_accuracy", "best_test_accuracy")

Confusion = Sequence[Sequence[int]]
"""How many test images of each class were taken for each: K rows, one a true class, of K counts."""

_DIGEST, _BLANK = b"raydd.sha256", b"0" * 64
"""Where a part file says its own sha256, and what stands there while that is computed."""
_CONFUSION = b"raydd.confusion"
"""Where a part file keeps a student's confusion, beside its columns."""
CONFUSION_CLASSES = 100
"""The most classes of which a confusion is kept."""


def record_id(identity: Mapping[str, Any]) -> str:
    """Name the record of the student that `identity`, a JSON mapping, determines: 16 hexadecimal digits."""
    return content_key(identity)


def write(
    folder: Folder,
    record: Record,
    parameters: Mapping[str, float | str] | None = None,
    confusion: Confusion | None = None,
) -> None:
    """Write a record as its own part file, replacing an earlier one of the same id.

    Args:
        folder: where the parts lie, `<out>/results`.
        record: the record.
        parameters: what a sweep set for this student, by dotted path; kept as columns `param.<dotted.path>`.
        confusion: of the student, for `read_confusion`; not kept of more than a hundred classes.
    """
    table = pa.Table.from_pylist([asdict(record) | {"metrics": list(record.metrics.items())}], SCHEMA)
    for path, value in (parameters or {}).items():
        column = pa.array([value], pa.string() if isinstance(value, str) else pa.float64())
        table = table.append_column(f"param.{path}", column)
    sink = pa.BufferOutputStream()
    kept = {_CONFUSION: _packed(confusion)} if confusion is not None and len(confusion) <= CONFUSION_CLASSES else {}
    pq.write_table(table.replace_schema_metadata({_DIGEST: _BLANK, **kept}), sink)
    blank = sink.getvalue().to_pybytes()
    folder.write(_part(record.record_id), blank.replace(_BLANK, _digest(blank)))


def find(folder: Folder, record_id: str) -> Record | None:
    """Look up one record; None where that student has not been trained yet.

    Raises:
        ArtefactError: its part file is damaged.
    """
    if not folder.has(_part(record_id)):
        return None
    return _record(_read_part(folder, _part(record_id)).to_pylist()[0])


def read_confusion(folder: Folder, record_id: str) -> Confusion | None:
    """What a student took the test images for; None where nobody kept it, as with versions before there was any.

    Raises:
        ArtefactError: its part file is damaged.
    """
    name = _part(record_id)
    if not folder.has(name):
        return None
    _read_part(folder, name)
    metadata = pq.read_schema(pa.BufferReader(folder.read(name))).metadata or {}
    return _unpacked(metadata[_CONFUSION]) if _CONFUSION in metadata else None


def read(*folders: Folder) -> pa.Table:
    """Read the records of all students in all folders as one table, in an order that depends on the records alone.

    Columns that a part lacks are null there. Of records of one id, a finished one is kept, and of those the latest.

    Raises:
        ArtefactError: a part file is damaged.
    """
    table = _read(folders)
    return table.filter(pc.is_null(table["probe"]))


def read_probes(*folders: Folder) -> pa.Table:
    """Read what probes found, as `read` reads students.

    Raises:
        ArtefactError: a part file is damaged.
    """
    table = _read(folders)
    return table.filter(pc.is_valid(table["probe"]))


def verify(folder: Folder) -> int:
    """Read every record in a folder; returns how many there are.

    Raises:
        ArtefactError: naming the first that is not as it was written.
    """
    return sum(_read_part(folder, name).num_rows for name in folder.files() if _is_part(name))


def keys(folder: Folder) -> list[tuple[str, str]]:
    """The file of every record in a folder, and the content key of the set that its student is of.

    Raises:
        ArtefactError: a part file is damaged.
    """
    parts = ((name, _read_part(folder, name)) for name in folder.files() if _is_part(name))
    return [(name, str(part["config_key"][0].as_py())) for name, part in parts]


def require_own(folder: Folder, table: pa.Table) -> None:
    """See that records of a run's folder are of the set that lies beside them; of other folders nothing is known.

    Args:
        folder: the run's.
        table: what `read` or `read_probes` found in it.

    Raises:
        ArtefactError: naming one that is of students of another set, or of another run's.
    """
    artefact = Artefact.find(folder / _SET)
    if artefact is None:
        return
    own, last = artefact.manifest.key, pc.equal(table["stage"], pc.max(table["stage"]))
    others = table.filter(pc.and_(last, pc.not_equal(table["config_key"], own)))
    for row in others.select(["record_id", "config_key"]).to_pylist():
        raise ArtefactError(
            f"{folder.uri}/results/{_part(row['record_id'])}: is of students of another set ({row['config_key']}) than "
            f"the one in {folder.uri}/{_SET} ({own}); move it out of the results"
        )


def _read(folders: Sequence[Folder]) -> pa.Table:
    """All records."""
    parts = [_read_part(folder, name) for folder in folders for name in folder.files() if _is_part(name)]
    table = pa.concat_tables([SCHEMA.empty_table(), *_agreeing(parts)], promote_options="permissive")
    table = table.sort_by([("record_id", "ascending"), ("status", "descending"), ("time", "descending")])
    best: dict[str, int] = {}
    for row, name in enumerate(table["record_id"].to_pylist()):
        best.setdefault(name, row)
    table = table.take(pa.array(best.values(), pa.int64()))
    extra = sorted(set(table.column_names) - set(SCHEMA.names))
    return table.select([*SCHEMA.names, *extra]).sort_by([(name, "ascending") for name in _ORDER])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _packed(confusion: Confusion) -> bytes:
    return base64.b64encode(zlib.compress(json.dumps(confusion, separators=(",", ":")).encode()))


def _unpacked(packed: bytes) -> Confusion:
    found: list[list[int]] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def _part(record_id: str) -> str:
    return f"part-{record_id}.parquet"


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def _read_part(folder: Folder, name: str) -> pa.Table:
    """Read a part and cast the columns of SCHEMA to their types; other columns stay as they are."""
    content = folder.read(name)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        digest = (file.metadata.metadata or {}).get(_DIGEST)
        if digest is None:
            raise OSError("it says no sha256 of itself")
        if _digest(content.replace(digest, _BLANK)) != digest:
            raise OSError("its sha256 is not the one in it")
        table = file.read().replace_schema_metadata(None)
        for place, column in enumerate(table.schema.names):
            if column in SCHEMA.names:
                known = SCHEMA.field(column)
                table = table.set_column(place, known, table[column].cast(known.type))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtefactError(f"{folder.uri}/{name}: damaged record ({error}); delete it and evaluate again") from error
    if "record_id" not in table.column_names or table.num_rows != 1:
        raise ArtefactError(f"{folder.uri}/{name}: not one student's record; move it out of the results")
    if name != (own := _part(str(table["record_id"][0].as_py()))):
        raise ArtefactError(f"{folder.uri}/{name}: is {own} under another name; delete it and evaluate again")
    with legible(f"{folder.uri}/{name}"):
        _record(table.to_pylist()[0])
    return table


def _record(row: Mapping[str, Any]) -> Record:
    """A row as it is written; TypeError or ValueError where something is missing, or is not what it should be."""
    values: dict[str, Any] = {f.name: row.get(f.name) for f in fields(Record)}
    if lacking := [f.name for f in fields(Record) if values[f.name] is None and f.name in _NEEDED]:
        raise ValueError(f"has no {', '.join(lacking)}")
    if odd := [name for name in _SHARES if (share := values[name]) is not None and not 0 <= share <= 1]:
        raise ValueError(f"{odd[0]} is {values[odd[0]]}, not a fraction")
    classes = values["class_accuracy"]
    values |= {"metrics": dict(values["metrics"] or ()), "class_accuracy": None if classes is None else tuple(classes)}
    return Record(**values)


def _agreeing(parts: list[pa.Table]) -> Iterator[pa.Table]:
    """Give a column as text wherever its type differs from part to part (a parameter that was 0.5, then "auto")."""
    types: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for column in part.schema:
            types.setdefault(column.name, set()).add(column.type)
    mixed = {name for name, found in types.items() if len(found) > 1}
    for part in parts:
        schema = pa.schema([pa.field(c.name, pa.string() if c.name in mixed else c.type) for c in part.schema])
        yield part.cast(schema)
