"""Queries: conditions such as `images_per_class>=10` on the columns of records."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from raydd.core.errors import UserError

_COMPARISONS = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    ">": pc.greater,
    "<=": pc.less_equal,
    ">=": pc.greater_equal,
}
_CONDITION = re.compile(r"\s*([^=!<>]*[^=!<>\s])\s*(<=|>=|!=|=|<|>)\s*([^=!<>\s][^=!<>]*?|)\s*")
_METRICS = "metrics"
_NULL = "null"


@dataclass(frozen=True)
class Condition:
    """One comparison that a record passes or does not."""

    column: str
    """A column of the records, `param.<dotted.path>` of a sweep, or `metrics.<name>`."""
    comparison: str
    value: str

    def __str__(self) -> str:
        """The way it is written."""
        return f"{self.column}{self.comparison}{self.value}"


def parse(text: str) -> Condition:
    """Read `column OP value` with one of `=`, `!=`, `<`, `>`, `<=`, `>=`; spaces around them do not count.

    Raises:
        UserError: it is not of this form.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UserError(f"--where {text!r}: write COLUMN OP VALUE, OP one of {', '.join(_COMPARISONS)}")
    return Condition(*found.groups())


def select(table: pa.Table, conditions: Sequence[Condition]) -> pa.Table:
    """The records that pass all conditions.

    `null` stands for a value that is not there: it can be asked for with `=` and `!=`. What is not there passes no
    other condition but `!=`.

    Raises:
        UserError: there is no such column, or the value does not fit it.
    """
    passed = pa.repeat(pa.scalar(True), table.num_rows)
    for condition in conditions:
        passed = pc.and_(passed, _passed(_column(table, condition), condition))
    return table.filter(passed)


def _passed(values: pa.Array, condition: Condition) -> pa.Array:
    """Whether each value passes; bool, without nulls."""
    if condition.value == _NULL:
        if condition.comparison not in ("=", "!="):
            raise UserError(f"--where {condition}: null has no order; take = or !=")
        return pc.is_null(values) if condition.comparison == "=" else pc.is_valid(values)
    compared = _COMPARISONS[condition.comparison](values, _value(values.type, condition))
    return pc.fill_null(compared, condition.comparison == "!=")


def _column(table: pa.Table, condition: Condition) -> pa.Array:
    """The values of a condition's column, as one array."""
    name = condition.column
    metrics = _metric_names(table)
    if name in metrics:
        key = name.removeprefix(f"{_METRICS}.")
        values = (dict(entries or ()).get(key) for entries in table[_METRICS].to_pylist())
        return pa.array(values, pa.float64())
    names = [column for column in table.column_names if column != _METRICS]
    if name in names:
        return table[name].combine_chunks()
    near = get_close_matches(name, [*names, *metrics], n=3, cutoff=0.5)
    words = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join([*names, *metrics])}"
    raise UserError(f"--where {condition}: there is no column {name}; {words}")


def _metric_names(table: pa.Table) -> list[str]:
    found = {name for entries in table[_METRICS].to_pylist() for name, _ in entries or ()}
    return [f"{_METRICS}.{name}" for name in sorted(found)]


def _value(kind: pa.DataType, condition: Condition) -> pa.Scalar:
    """The value of a condition, to be compared with what the column holds.

    Raises:
        UserError: it does not hold such values, or they have no order.
    """
    try:
        if pa.types.is_integer(kind):
            return pa.scalar(int(condition.value), pa.int64())
        if pa.types.is_floating(kind):
            return pa.scalar(float(condition.value))
        if pa.types.is_timestamp(kind):
            moment = datetime.fromisoformat(condition.value)
            return pa.scalar(moment if moment.tzinfo else moment.replace(tzinfo=UTC), kind)
    except (ValueError, OverflowError):
        held = f"{condition.column} holds {_in_words(kind)}, not {condition.value!r}"
        raise UserError(f"--where {condition}: {held}") from None
    if not pa.types.is_string(kind):
        raise UserError(f"--where {condition}: {condition.column} holds lists; they can be compared with null alone")
    if condition.comparison not in ("=", "!="):
        raise UserError(f"--where {condition}: {condition.column} holds text, which has no order; take = or !=")
    return pa.scalar(condition.value)


def _in_words(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "whole numbers"
    return "numbers" if pa.types.is_floating(kind) else "times (2026-11-20, or 2026-11-20T12:00, UTC)"
