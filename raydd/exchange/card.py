"""What the exported files cannot say themselves: `card.json` for programs, `README.md` for people."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import TypeAdapter
from safetensors.torch import save_file

from raydd.core.version import __version__
from raydd.data.preprocessing import Preprocessing
from raydd.evaluation.tables.summary import SummaryRow
from raydd.exchange.licence import UNKNOWN
from raydd.exchange.measured import sentence
from raydd.exchange.source import ExportSource
from raydd.exchange.words import in_words
from raydd.training.recipe import Recipe

CARD: Final = "card.json"
README: Final = "README.md"
WHITENING: Final = "whitening.safetensors"

_ALWAYS = ("subject", "images_per_class", "epochs")
_WHERE_THEY_DIFFER = ("dataset", "method", "network", "recipe", "optimizer", "augmentation", "mode", "budget", "stage")
_HEADINGS = {"subject": "trained on", "images_per_class": "images per class"}
_REGIMES = {
    "stored": "The set's own soft labels",
    "hard": "The classes as labels",
    "online": "A teacher's labels of each view, asked for in every step",
    "replayed": "A teacher's labels of each view, stored beforehand",
}


def write_whitening(preprocessing: Preprocessing, folder: Path) -> None:
    """Write the large part of a preprocessing, where it has one."""
    tensors = preprocessing.tensors()
    if tensors:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WHITENING)


def write_readme(
    source: ExportSource, form: str, folder: Path, *, whitening: str = WHITENING, front_matter: str = ""
) -> None:
    """Write the README of a format.

    Args:
        source: what is exported.
        form: the format, whose template is `<form>.md.jinja`.
        folder: the export.
        whitening: where the large part of the preprocessing is, in the folder.
        front_matter: YAML for the head of the README.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    card = source.stored.card
    recipe = TypeAdapter(Recipe).validate_python(card["recipe"]) if "recipe" in card else None
    named = {} if recipe is None else {name: value for name, value in recipe.identity().items() if value}
    text = environment.get_template(f"{form}.md.jinja").render(
        source=source,
        card=card,
        preprocessing=source.synthetic.preprocessing.describe(),
        shape=list(source.synthetic.images.shape[1:]),
        recipe=recipe,
        temperature=1.0 if recipe is None else recipe.temperature,
        accuracy=sentence(source),
        words={} if recipe is None else in_words(recipe, source.learned_lr, len(source.synthetic)),
        recipe_yaml=yaml.safe_dump(named, sort_keys=False),
        results=results_tables(source.results),
        version=__version__,
        whitening=whitening,
        front_matter=front_matter,
    )
    (folder / README).write_text(text)


def write_card(source: ExportSource, form: str, folder: Path) -> None:
    """Write the card, as the last file: it lists the others with their sizes and SHA-256 sums."""
    synthetic, stored = source.synthetic, source.stored
    card = {
        "format": form,
        "versions": {"raydd": __version__, "torch": torch.__version__},
        "source": {"run": stored.card.get("run"), "key": source.key},
        "num_images": len(synthetic),
        "num_stored_images": len(stored),
        "formation": None if stored.formation is None else asdict(stored.formation),
        "image_shape": list(synthetic.images.shape[1:]),
        "class_names": list(synthetic.class_names),
        "images_of_class": source.counts,
        "label_regime": "hard" if synthetic.soft_labels is None else "stored",
        "label_kind": synthetic.label_kind,
        "value_space": "network" if form == "pt" else "pixels",
        "quantisation": None if form == "pt" else asdict(source.quantisation),
        "preprocessing": synthetic.preprocessing.describe(),
        "learned_lr": list(stored.learned_lr),
        "accuracy": None if source.written is None else asdict(source.written),
        "license": source.license or UNKNOWN,
        "set": dict(stored.card),
        "results": [asdict(row) for row in source.results],
        "files": _files(folder),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256}
    return found


def results_tables(rows: Sequence[SummaryRow]) -> dict[str, str]:
    """A Markdown table of the students under each regime of labels, by what it is called; of finished ones only."""
    finished = [row for row in rows if row.mean is not None]
    present = {row.labels for row in finished}
    order = [*(labels for labels in _REGIMES if labels in present), *sorted(present - _REGIMES.keys())]
    return {_REGIMES.get(own, own): _table([row for row in finished if row.labels == own]) for own in order}


def _table(finished: Sequence[SummaryRow]) -> str:
    """A row for each group of students; what all of them have in common is said once, below the table."""
    varying = [name for name in _WHERE_THEY_DIFFER if len({getattr(row, name) for row in finished}) > 1]
    names = [*_ALWAYS, *varying]
    heads = [*(_HEADINGS.get(name, name) for name in names), "test accuracy, %", "students"]
    lines = [heads, ["---"] * len(heads), *([*_values(row, names), _accuracy(row), str(row.n)] for row in finished)]
    constant = [name for name in _WHERE_THEY_DIFFER if name not in varying and name != "stage"]
    common = ", ".join(f"{name} {value}" for name, value in zip(constant, _values(finished[0], constant), strict=True))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\nAll of them: {common}."


def _values(row: SummaryRow, names: Sequence[str]) -> list[str]:
    return [str(getattr(row, name)).replace("|", "\\|") for name in names]


def _accuracy(row: SummaryRow) -> str:
    assert row.mean is not None
    spread = "" if row.std is None else f" ± {100 * row.std:.1f}"
    return f"{100 * row.mean:.1f}{spread}"
