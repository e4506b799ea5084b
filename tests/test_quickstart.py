"""The quickstart does what the README says of it."""

from dataclasses import replace
from pathlib import Path

import raydd
from raydd import config
from raydd.evaluation.summary import SummaryRow, difference, summarise

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def test_distilled_digits_beat_random_ones_and_the_starting_state(tmp_path: Path) -> None:
    chosen = replace(config.load(str(QUICKSTART)), out=str(tmp_path / "run"))
    raydd.run(chosen, ray=False)
    rows = {(row.subject, row.labels): row for row in summarise(raydd.results(tmp_path / "run"))}
    distilled = rows["synthetic", "stored"]
    assert distilled.n == 5 and rows["random", "hard"].n == rows["random", "stored"].n == 15
    for baseline in (rows["random", "hard"], rows["random", "stored"], rows["init", "stored"]):
        assert_clearly_above(distilled, baseline)
    assert rows["full", "hard"].mean > distilled.mean
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def assert_clearly_above(ours: SummaryRow, other: SummaryRow) -> None:
    found = difference(ours, other)
    assert found.standard_error is not None
    assert found.mean > 3 * found.standard_error, (ours.subject, other.subject, other.labels, found)
