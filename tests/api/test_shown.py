"""Progress as text: what it says, how often, and to whom."""

import threading
from collections.abc import Sequence

import pytest

from raydd.api import shown as shown_module
from raydd.api.shown import MOST_BARS, TextProgress, clock, in_notebook, shown
from raydd.core.progress import ACCURACY, NoProgress, Work, result, step
from tests.api.test_api import Counting


class Told:
    """Texts that were shown, and a clock that stands until it is moved."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.texts: list[str] = []
        self.now = 0.0
        self.progress = TextProgress(self.texts.append, seconds, lambda: self.now)

    @property
    def lines(self) -> Sequence[str]:
        return self.texts[-1].splitlines()


def test_steps_bars_and_what_is_finished() -> None:
    told, first, second = Told(), step(1, 2, "experts"), step(2, 2, "distill")
    told.progress.update(first, 0, 1)
    assert told.lines == ["step 1 of 2: experts"]
    expert = Work("expert", "0")
    told.progress.update(expert, 0, 4)
    told.now = 30.0
    told.progress.update(expert, 1, 4, "loss 0.5")
    assert told.lines[1] == f"[{'#' * 5}{'.' * 15}] 1/4, 1:30 left  expert 0, loss 0.5"
    told.now = 50.0
    told.progress.update(expert, 4, 4, "loss 0.1")
    assert told.lines[1] == "expert: 1 finished"
    told.now = 65.0
    told.progress.update(first, 1, 1)
    assert told.lines == ["step 1 of 2: experts: done in 1:05"]
    told.progress.update(second, 0, 1)
    assert told.lines == ["step 1 of 2: experts: done in 1:05", "step 2 of 2: distill"]


def test_results_of_students_are_a_line_for_each_set() -> None:
    told, evaluating = Told(seconds=0.0), step(1, 1, "evaluate")
    told.progress.update(evaluating, 0, 1)
    for number, accuracy in enumerate((0.5, 0.7)):
        told.progress.update(result(number, 2, "synthetic, hard labels, mlp"), 1, 1, "", {ACCURACY: accuracy})
    lines = ["test accuracy of mlp:", "  synthetic, hard labels: 60.0 ± 14.1 % (2 students)"]
    assert told.lines == ["step 1 of 1: evaluate", *lines]
    told.progress.update(result(0, 2, "full, hard labels, mlp"), 1, 1, "", {ACCURACY: 0.9})
    told.progress.update(evaluating, 1, 1)
    rest = "  full, hard labels: 90.0 % (1 of 2 students)"
    assert told.lines == ["step 1 of 1: evaluate: done in 0:00", *lines, rest]


def test_not_oftener_than_so_many_seconds_but_in_the_end() -> None:
    told = Told(seconds=2.0)
    for tenth in range(50):
        told.now = tenth / 10
        told.progress.update(Work("distil"), tenth, 50, f"loss {tenth}")
    assert [text.rpartition(" ")[2] for text in told.texts] == ["0", "20", "40"]
    told.progress.show()
    assert told.lines[0].endswith("loss 49") and len(told.texts) == 4
    told.progress.update(Work("distil"), 49, 50, "loss 49")
    told.progress.show()
    assert len(told.texts) == 4


def test_many_pieces_and_long_lines() -> None:
    told = Told(seconds=0.0)
    for number in range(MOST_BARS + 3):
        told.progress.update(Work("student", f"{number} " + "x" * 200), 1, 2)
    assert len(told.lines) == MOST_BARS + 1 and told.lines[-1] == "and 3 more"
    assert {len(line) for line in told.lines[:-1]} == {100}


def test_nothing_is_shown_of_nothing() -> None:
    told = Told()
    told.progress.show()
    assert told.texts == []


def test_threads_may_tell_at_the_same_time() -> None:
    told = Told(seconds=0.0)

    def work(number: int) -> None:
        for done in range(101):
            told.progress.update(Work("student", str(number)), done, 100)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.progress.show()
    assert told.lines == ["student: 8 finished"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (7265, "2:01:05")]
)
def test_durations(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_who_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    given = Counting()
    with shown(given) as told:
        assert told is given
    for choice in (None, False):
        with shown(choice) as told:
            assert isinstance(told, NoProgress)
    with shown(True) as told:
        told.update(Work("training"), 1, 2)
        told.update(Work("training"), 2, 2)
    seen = capsys.readouterr()
    assert seen.err.splitlines() == ["[##########..........] 1/2  training", "training: 1 finished"] and seen.out == ""
    texts: list[str] = []
    monkeypatch.setattr(shown_module, "in_notebook", lambda: True)
    monkeypatch.setattr(shown_module, "notebook_cell", lambda: texts.append)
    with pytest.raises(RuntimeError), shown(None) as told:
        told.update(Work("training"), 2, 2)
        raise RuntimeError
    with shown(False) as told:
        told.update(Work("training"), 2, 2)
    assert texts == ["training: 1 finished"]
