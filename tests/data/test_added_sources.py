"""Datasets of other packages, as the table of sources sees them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raydd import data
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig
from raydd.data.facts import DataFacts
from raydd.data.fit_preprocessing import literature_constants
from raydd.data.image_sizes import shorter_side
from tests.support import plugins

KEY = Key.root(0)


@pytest.fixture(autouse=True)
def discs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example package."""
    yield from plugins.installed(plugins.FOLDER, monkeypatch)


def test_it_is_loaded_like_our_own() -> None:
    config = DataConfig(source="discs:3", validation_fraction=0.1, train_limit_per_class=20)
    splits = data.load(config, KEY)
    assert splits.validation is not None
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [54, 6, 18]
    assert splits.train.class_names == ("size 0", "size 1", "size 2") and splits.train.images.shape[1:] == (1, 12, 12)
    sizes = [splits.train.images[splits.train.labels == label].gt(150).float().mean() for label in range(3)]
    assert sizes == sorted(sizes) and not data.has_files("discs:3")


def test_its_size_its_side_and_its_constants_are_known() -> None:
    config = DataConfig(source="discs:2", validation_fraction=0.1)
    assert data.size_of(config) == DataFacts(54, 12, (1, 12, 12), 2, 6)
    assert shorter_side(config) == 12
    assert torch.equal(literature_constants("discs:2", 1).mean_C, torch.tensor([0.25]).double())


def test_its_version_tells_one_state_from_another() -> None:
    before = data.signature(DataConfig(source="discs:2"))
    assert before == data.signature(DataConfig(source="discs:2"))
    assert before != data.signature(DataConfig(source="digits"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("discs", r"^data\.source: must be discs:<name>, is 'discs'$"),
        ("disks:3", r"'disks:3' is not one of digits, .*, discs:<name>; "),
        ("disc", "; did you mean discs"),
    ],
)
def test_what_is_not_there_is_named(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(source=source)


def test_what_is_none_or_has_our_name_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    about = tmp_path / "others-2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 2\n")
    points = [
        "digits = raydd_discs:DISCS",
        "discs = raydd_discs:DISCS",
        "wrong = raydd_discs:discs",
        "gone = nowhere:x",
    ]
    (about / "entry_points.txt").write_text("\n".join(["[raydd.sources]", *points]))
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.forget()
    with caplog.at_level(logging.WARNING):
        assert data.load(DataConfig(source="digits"), KEY).train.name == "digits"
        with pytest.raises(ConfigError, match="'wrong' is not one of"):
            DataConfig(source="wrong")
    said = " ".join(caplog.messages)
    for part in ("digits of others 2 (raydd.sources) is left out: raydd has", "it is no Source", "No module named"):
        assert part in said
    assert "discs of " in said and "has this name" in said
