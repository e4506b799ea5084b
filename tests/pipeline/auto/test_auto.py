"""The whole of it on a few dozen pictures, in this process: decided once, made once, the same when it is repeated."""

import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

import raydd
from raydd import config as configs
from raydd.core.errors import ArtefactError
from raydd.pipeline.auto import record
from raydd.pipeline.auto.decide import Request
from raydd.pipeline.auto.portfolio import names
from raydd.pipeline.auto.record import Decision
from raydd.pipeline.auto.search import BEST
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from tests.pipeline.auto.pictures import little, pictures
from tests.support import small
from tests.support.small import State, state


@dataclass(frozen=True)
class Done:
    """A command that was carried out once."""

    root: Path
    out: Path
    decision: Decision
    shown: str

    def again(self, *changes: str, out: Path | None = None) -> int:
        """The exit code of the same command, with other options or in another folder."""
        asked = dict(zip(("--images-per-class", "--hours"), ("2", "0.5"), strict=True))
        asked |= dict(zip(changes[::2], changes[1::2], strict=True))
        words = [word for option in asked.items() for word in option]
        return small.raydd("auto", self.root, *words, "--no-ray", "--quiet", "--out", out or self.out)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("auto")
    root, out = pictures(folder / "things"), folder / "out"
    decision = little(Request.of(str(root), 2, str(out)))
    with redirect_stdout(StringIO()) as printed:
        assert Done(root, out, decision, "").again() == 0
    return Done(root, out, decision, printed.getvalue())


def kept(out: Path) -> State:
    """All files but those that are written anew every time."""
    return {name: seen for name, seen in state(out).items() if not name.endswith((".lock", BEST, record.RECORD))}


def test_a_folder_becomes_a_set(done: Done) -> None:
    decision = done.decision
    assert decision.side == 16 and not decision.mirror.keeps_classes and 0 < decision.hours <= 0.5
    for said in (*names("hard"), "random, as herding", "full, as herding", "chosen", "stopped early"):
        assert said in done.shown
    assert "planned:" in done.shown and "mirrored images: no" in done.shown and "held-out images" in done.shown
    best = configs.load(str(done.out / BEST))
    assert SyntheticSet.load(Folder.at(best.out) / "synthetic").labels.bincount().tolist() == [2, 2, 2]
    assert not [path for path in done.out.rglob("data/*") if path.parts[-3] == "work"]


def test_a_finished_one_is_not_made_again(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(done.out)
    assert done.again() == 0
    assert capsys.readouterr().out.splitlines()[-5:] == done.shown.splitlines()[-5:]
    assert kept(done.out) == before


def test_python_takes_what_auto_returns(done: Done) -> None:
    before = kept(done.out)
    result = raydd.auto(done.root, 2, hours=0.5, out=done.out, ray=False)
    assert repr(result) == f"AutoResult({done.out}: {result.verdict.sentence})"
    assert len(raydd.load(result)) == 6 and raydd.results(result).equals(raydd.results(result.best))
    assert kept(done.out) == before
    with pytest.raises(ArtefactError, match=f"what `raydd auto` wrote; name {result.best.uri}, which it chose"):
        raydd.load(done.out)


def test_the_config_makes_the_same_set_and_students(done: Done, tmp_path: Path) -> None:
    best = configs.load(str(done.out / BEST))
    assert small.raydd("run", done.out / BEST, "--out", tmp_path / "again", "--no-ray", "--quiet") == 0
    made, again = (SyntheticSet.load(Folder.at(out) / "synthetic") for out in (best.out, tmp_path / "again"))
    assert made.images.equal(again.images) and made.labels.equal(again.labels)
    tables = (raydd.results(out).sort_by("record_id") for out in (best.out, tmp_path / "again"))
    accuracies = [table.select(["record_id", "validation_accuracy", "test_accuracy"]) for table in tables]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
def test_what_is_lost_is_made_again_to_the_same_choice(done: Done, tmp_path: Path) -> None:
    """In another folder, by the same decision, without some of what was made, half a run and a teacher among it."""
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    for path in ("shared/teacher", "finished", "tried/rded/synthetic"):
        shutil.rmtree(out / path)
    for path in ("tried-rded.json", *(file.name for file in (out / "outcomes").glob("finished-*"))):
        (out / "outcomes" / path).unlink()
    (out / BEST).unlink()
    assert done.again(out=out) == 0
    texts = [(folder / BEST).read_text().replace(str(folder), "") for folder in (done.out, out)]
    assert texts[0] == texts[1]
    for one in sorted((done.out / "finished").iterdir()):
        sets = [
            SyntheticSet.load(Folder.at(folder / one.name / "synthetic")) for folder in (one.parent, out / "finished")
        ]
        assert sets[0].images.equal(sets[1].images)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--hours", "1", "--hours: is 1.0, but"),
        ("--images-per-class", "3", "--images-per-class: is 3, but"),
        ("--labels", "any", "--labels: is any, but"),
        ("--seed", "1", "--seed: is 1, but"),
    ],
)
def test_another_request_in_the_same_folder_is_refused(
    done: Done, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    before = state(done.out)
    assert done.again(option, value) == 2
    assert message in capsys.readouterr().err
    assert state(done.out) == before


def test_other_images_in_the_same_folder_are_refused(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = done.root / "class0" / "new.png"
    new.write_bytes((done.root / "class0" / "000.png").read_bytes())
    try:
        assert done.again() == 2
    finally:
        new.unlink()
    assert "--out: the images are not those with which" in capsys.readouterr().err


def test_a_decision_that_is_damaged_is_named(done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / record.RECORD).write_text(json.dumps({"arguments": {}}))
    assert done.again(out=tmp_path) == 2
    assert "auto.json: damaged; delete it to decide again" in capsys.readouterr().err
