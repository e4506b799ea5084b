"""The matrix of a set's accuracies in networks that it was not distilled for."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pyarrow as pa

from raydd.evaluation.tables.scores import evaluated, on_all_data

SCHEMA = pa.schema(
    {
        "run": pa.string(),
        "parameters": pa.map_(pa.string(), pa.string()),
        "method": pa.string(),
        "subject": pa.string(),
        "dataset": pa.string(),
        "images_per_class": pa.int32(),
        "recipe": pa.string(),
        "augmentation": pa.string(),
        "labels": pa.string(),
        "mode": pa.string(),
        "budget": pa.string(),
        "source": pa.string(),
        "accuracy": pa.map_(pa.string(), pa.float64()),
        "drop": pa.map_(pa.string(), pa.float64()),
        "others_accuracy": pa.float64(),
        "others_drop": pa.float64(),
    }
)
"""The columns of `architectures`. `source` is the network that the set was made with; `accuracy` has the mean test
accuracy in each network, by its label; `drop` by how much it is below that of the same network trained on all the data,
where that was. `others_accuracy` and `others_drop` are means over all networks but the source."""

_TOLD_APART = ("subject", "method", "dataset", "images_per_class", "recipe", "augmentation", "labels", "mode", "budget")


def architectures(table: pa.Table, sources: Mapping[str, str]) -> pa.Table:
    """Set the accuracies of each training set, under each regime, beside one another by network.

    Args:
        table: records, as `records.read` gives them, of any number of runs.
        sources: the label of the network that each run's set was made with, by the run's name; runs may be missing.

    Returns:
        A row (see `SCHEMA`) for each set, regime, recipe and augmentation, but for those on all the data.
    """
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for named, groups in evaluated(table):
        for group in groups:
            if group.row.subject == "full":
                continue
            values = {name: getattr(group.row, name) for name in _TOLD_APART}
            place = (named["run"], *named["parameters"], group.row.optimizer, group.row.epochs, *values.values())
            line = lines.setdefault(place, named | values | {"accuracy": {}, "drop": {}})
            line["accuracy"][group.row.network] = group.mean
            full = on_all_data(group, groups)
            if full is not None:
                line["drop"][group.row.network] = full.mean - group.mean
    return pa.Table.from_pylist([_with_means(line, sources.get(line["run"])) for line in lines.values()], SCHEMA)


def _with_means(line: dict[str, Any], source: str | None) -> dict[str, Any]:
    """A row with the means over the networks that are not the source, where that is known."""
    means: dict[str, float | None] = {}
    for name in ("accuracy", "drop"):
        others = [value for network, value in line[name].items() if source not in (None, network)]
        means[f"others_{name}"] = fmean(others) if others else None
    return {**line, **means, "source": source, **{name: list(line[name].items()) for name in ("accuracy", "drop")}}
