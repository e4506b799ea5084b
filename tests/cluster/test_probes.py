"""Probes on Ray Tune: the same answers as in one process."""

from pathlib import Path
from typing import Any

import pytest

from raydd.evaluation import records
from raydd.storage import Folder
from tests.support.runs import CONFIG, run

PROBES: dict[str, Any] = {
    "probes": ["copies", "membership", "search"],
    "membership": {"shadows": 4, "images": 100, "pool": 200, "students": 1},
    "search": {"depths": [1], "widths": [4], "norms": ["none", "instance"], "sample": 4, "full_epochs": 1},
    "baselines": ["random", "full"],
    "labels": ["hard"],
}


def answers(out: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """Status and metrics of every answer."""
    rows = records.read_probes(Folder.at(out) / "results").to_pylist(maps_as_pydicts="strict")
    return {row["record_id"]: (row["status"], row["metrics"]) for row in rows}


@pytest.mark.slow
def test_ray_answers_what_one_process_answers(tmp_path: Path) -> None:
    config = {**CONFIG, "evaluate": {**CONFIG["evaluate"], **PROBES}}
    run(tmp_path / "alone", "--no-ray", config=config)
    printed = run(tmp_path / "ray", config=config)
    alone, on_ray = answers(tmp_path / "alone"), answers(tmp_path / "ray")
    assert len(alone) == 2 + 3 + 4 * 4 and {status for status, _ in alone.values()} == {"ok"}
    assert on_ray.keys() == alone.keys()
    for name, (status, metrics) in on_ray.items():
        assert status == "ok" and metrics == pytest.approx(alone[name][1], rel=1e-6, abs=1e-9)
    assert "probes of tiny: 21/21" in printed and "architecture search (tiny)" in printed
