"""`raydd auto`: mistakes end with one message before anything is written, and a config lends its data."""

from pathlib import Path

import pytest
import yaml

from raydd.pipeline.auto.decide import Request
from tests.pipeline.auto.pictures import pictures
from tests.support.small import raydd


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ((), (), "there are no class folders"),
        ((8,), (), "there is one class folder, class0"),
        ((2, 2), (), "class 'class0' has 1 images to learn from, and 5 are needed to hold some out"),
        ((40, 3), (), "class 'class1' has 2 images to learn from"),
        ((10, 10), ("--images-per-class", "7"), "--images-per-class: 7 asked for, but class 'class0' has 6 images"),
        ((10, 10), ("--images-per-class", "0"), "--images-per-class: must be at least 1, is 0"),
        ((10, 10), ("--labels", "soft-ish"), "--labels: must be one of hard, soft, any, is soft-ish"),
        ((10, 10), ("--hours", "0"), "--hours: must be positive, is 0"),
        ((10, 10), ("--hours", "nan"), "--hours: must be positive, is nan"),
        ((10, 10), ("--hours", "1e-6"), "--hours: 1e-06 are too few; the least that can be done"),
        ((10, 10), ("--hour", "1", "--surprise"), "there is no option --surprise"),
    ],
)
def test_a_mistake_ends_with_one_message(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    counts: tuple[int, ...],
    options: tuple[str, ...],
    message: str,
) -> None:
    root, out = tmp_path / "things", tmp_path / "auto"
    root.mkdir()
    pictures(root, counts)
    asked = options if "--images-per-class" in options else ("--images-per-class", "1", *options)
    assert raydd("auto", root, *asked, "--no-ray", "--quiet", "--out", out) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and error.count("error:") == 1
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("source", ["nowhere", "nowhere.yaml"])
def test_what_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    assert raydd("auto", tmp_path / source, "--images-per-class", "1", "--no-ray") == 2
    assert source in capsys.readouterr().err


def test_the_data_of_a_config_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "data": {"source": "digits", "train_limit_per_class": 9}}))
    request = Request.of(str(file), 1)
    assert (request.data.source, request.data.train_limit_per_class, request.out) == ("digits", 9, "runs/auto-mine-1")


def test_a_folder_gives_its_name(tmp_path: Path) -> None:
    (tmp_path / "things").mkdir()
    request = Request.of(str(tmp_path / "things"), 5)
    assert (request.data.source, request.data.root) == ("imagefolder", str(tmp_path / "things"))
    assert (request.out, request.labels, request.hours) == ("runs/auto-things-5", "hard", 0.5)
