"""What work takes on this machine: measured once, remembered, and played through as its processes do it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raydd import config as configs
from raydd.data import DataFacts
from raydd.plan import machine, measurement
from raydd.plan.jobs import works_of
from raydd.plan.machine import SpeedMemory, processes_here, seconds_here, speed_here
from raydd.plan.rates import Rates
from raydd.plan.simulation import side_by_side
from tests.support.small import CONFIG

FACTS = DataFacts(120, 50, (1, 8, 8), 10)
RUN = configs.from_mapping(CONFIG)


def alike(rate: float = 1e9) -> Rates:
    return Rates.equal(works_of(RUN, FACTS), rate)


def test_what_was_measured_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path))
    first = speed_here(RUN, FACTS)
    (file,) = (tmp_path / "speed").iterdir()
    known = json.loads(file.read_text())
    assert known["machine"]["torch"] and all(rate > 0 for rate in known["flops_per_second"].values())

    def never(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(measurement._Bench, "_seconds", never)
    assert speed_here(RUN, FACTS) == first
    longer = replace(RUN, seed=3, method=replace(RUN.method, iterations=400))  # type: ignore[call-arg]
    assert speed_here(longer, FACTS) == first
    with pytest.raises(AssertionError, match="measured again"):
        speed_here(replace(RUN, network=replace(RUN.network, width=9)), FACTS)
    with pytest.raises(AssertionError, match="measured again"):
        speed_here(RUN, replace(FACTS, shape=(3, 8, 8)))


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"flops_per_second": [1]}', b'{"flops_per_second": {"a": "x"}}'])
def test_a_memory_that_is_damaged_is_forgotten(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path))
    memory = SpeedMemory(torch.device("cpu"), 1)
    memory.write({"work": 2e9})
    assert memory.read() == {"work": 2e9} and SpeedMemory(torch.device("cpu"), 2).read() == {}
    (file,) = (tmp_path / "speed").iterdir()
    file.write_bytes(content)
    assert memory.read() == {}


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "file"))
    SpeedMemory(torch.device("cpu"), 1).write({"work": 1.0})
    assert SpeedMemory(torch.device("cpu"), 1).read() == {}


def test_parts_add_up_and_processes_share_what_can_be_shared() -> None:
    one, two = (seconds_here(RUN, FACTS, alike(), processes) for processes in (1, 2))
    assert list(one) == ["experts", "distill", "evaluate"]
    assert two["distill"] == pytest.approx(one["distill"])  # a processor more makes no second worker
    assert two["experts"] == pytest.approx(one["experts"] / 2)
    assert one["evaluate"] / 2 <= two["evaluate"] < one["evaluate"]
    half = seconds_here(RUN, FACTS, alike(5e8), 1)
    assert half == pytest.approx({part: 2 * seconds for part, seconds in one.items()})


def test_processes_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [processes_here(True, threads) for threads in (1, 2, 4, 12)] == [6, 3, 1, 1]
    assert processes_here(False) == 1


@pytest.mark.parametrize(("processes", "wanted"), [(1, 9.0), (2, 5.0), (3, 4.0)])
def test_pieces_begin_where_a_process_is_free(processes: int, wanted: float) -> None:
    assert side_by_side([4.0, 2.0, 2.0, 1.0], processes) == wanted
