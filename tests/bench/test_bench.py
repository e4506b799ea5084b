"""The benches: both sides do the same work, and the command writes what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raydd.bench import ceilings, recover, scaling, timing
from raydd.bench.ceilings import measure_ceilings
from raydd.bench.recover import RecoverBench
from raydd.bench.scaling import ScalingBench
from raydd.bench.teams import Done, team
from raydd.bench.training import TrainingBench, TrainingProblem
from raydd.methods import DELTConfig
from raydd.methods.decoupled.recover import Recover
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.training.recipe import Recipe
from tests.support.small import raydd

CPU = torch.device("cpu")
BENCH = TrainingBench(
    network=NetworkConfig(width=4),
    recipe=Recipe(batch_size=8, lr=0.05),
    num_images=20,
    soft_labels=False,
    compiled=False,
    pack=1,
    threads=1,
    pairs=1,
)
GSAM = replace(BENCH.recipe, gsam_rho=0.05, gsam_alpha=0.3)
STUDENT = replace(BENCH, recipe=replace(BENCH.recipe, momentum=0.9, weight_decay=5e-4), soft_labels=True)


@pytest.mark.parametrize(
    "bench",
    [
        BENCH,
        replace(BENCH, pack=2),
        replace(BENCH, recipe=GSAM),
        replace(BENCH, recipe=replace(GSAM, gsam_adaptive=False)),
        STUDENT,
    ],
    ids=["experts", "pack", "gsam", "gsam, not adaptive", "students"],
)
def test_both_sides_train_the_same_networks(bench: TrainingBench) -> None:
    problem = TrainingProblem(bench)
    start = problem.parameters("plain")
    assert torch.equal(problem.parameters("ours"), start)
    for _ in range(2):
        problem.ours()
        problem.plain()
    ours, plain = problem.parameters("ours"), problem.parameters("plain")
    assert float((ours - plain).norm()) < 1e-3 * float((plain - start).norm())
    assert float((plain - start).norm()) > 1e-3


def test_pairs_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours takes 1, 3 and 2 s, the plain way 4 s each time."""
    done: list[str] = []
    clock = iter([0, 1, 0, 4, 0, 3, 0, 4, 0, 2, 0, 4])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    measured = timing.paired(lambda: done.append("ours"), lambda: done.append("plain"), 3)
    assert done == ["ours", "plain"] * 3
    assert measured == {
        "seconds": 2.0,
        "plain_seconds": 4.0,
        "time_ratio": 0.5,
        "time_ratio_min": 0.25,
        "time_ratio_max": 0.75,
    }


def test_ceilings_count_flops_and_both_ways_of_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "COPIED_BYTES", 4_000)
    monkeypatch.setattr(ceilings, "MATRIX_SIDE", 100)
    monkeypatch.setattr(ceilings, "seconds", lambda work: work() or 0.5)
    measured = measure_ceilings(CPU)
    assert (measured.flops_per_second, measured.bytes_per_second) == (4e6, 16e3)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--width", 32, "--batch-size", 64, "--steps", 1, "--pairs", 1, "--no-compile"]
    assert raydd("bench", "experts", *flags, "--json", tmp_path / "measured.json") == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert shown.keys() == measured.keys()
    assert measured["step_error"] < 1e-4 and measured["compile_seconds"] == 0
    assert 0.2 < measured["time_ratio"] < 5 and 0.3 < measured["memory_ratio"] < 3
    assert measured["plain_peak_bytes"] > 2 * 4 * 64 * 32 * 32 * 32  # two maps of the first block
    assert 0 < measured["share_of_matmul"] < 1
    first, second, third = 3 * 32 * 32**2, 32 * 32 * 16**2, 32 * 32 * 8**2  # by 9 weights, forwards and backwards
    assert measured["flops"] == 64 * 2 * (2 * 9 * first + 3 * 9 * (second + third) + 3 * 512 * 10)


RECOVER = RecoverBench(width=4, depth=1, images_per_class=8, iterations=8, round_iterations=1, pairs=1)


def test_recovering_by_both_schedules() -> None:
    problem = recover.RecoverProblem(RECOVER)
    begun = [problem.recovered(config, [0], 0).result().images for config in (problem.delt, problem.uniform)]
    assert torch.equal(*begun)
    ours, plain = problem.ours(), problem.plain()
    assert ours.iteration == plain.iteration == 8
    done = [method.result().card["image_iterations"] for method in (ours, plain)]
    assert done == [problem.delt.image_iterations(2), problem.delt.uniform_iterations(2)] == [2 * 36, 2 * 64]


def test_what_recovering_reports() -> None:
    measured = RECOVER.run()
    assert measured["saving_formula"] == 1 - 36 / 64 and "packed_seconds" not in measured
    assert measured["saving_measured"] == 1 - measured["time_ratio"] < 1
    assert measured["image_iterations_per_second"] * measured["seconds"] == pytest.approx(72)
    assert measured["plain_image_iterations_per_second"] * measured["plain_seconds"] == pytest.approx(128)


def test_the_bench_saves_as_much_as_the_papers_schedule() -> None:
    problem = recover.RecoverProblem(RecoverBench())
    assert 1 - problem.delt.image_iterations(2) / problem.delt.uniform_iterations(2) == pytest.approx(0.4225)


def test_packed_groups_are_compared_with_the_groups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = replace(RECOVER, groups_at_once=3).run()
    assert max(measured["packed_gradient_error"], measured["packed_image_error"]) < 1e-4
    assert measured["packed_seconds"] / measured["unpacked_seconds"] == pytest.approx(measured["packed_time_ratio"])
    recovered = recover.RecoverProblem.recovered

    def otherwise(problem: recover.RecoverProblem, config: DELTConfig, groups: list[int], iterations: int) -> Recover:
        return recovered(problem, replace(config, bn_weight=float(len(groups))), groups, iterations)

    monkeypatch.setattr(recover.RecoverProblem, "recovered", otherwise)
    assert recover._error(recover.RecoverProblem(replace(RECOVER, groups_at_once=2)), "first_moment", 1) > 0.1


SCALING = ScalingBench(width=4, batch_size=20, synthetic_steps=2, seconds=0.1, pairs=2)


def test_what_scales_is_what_the_product_does(tmp_path: Path) -> None:
    """Iterations of a class group and of a whole batch by the product's loop, which goes on from round to round."""
    scaling.write_trajectories(SCALING, Folder.at(tmp_path))
    for make, images in ((scaling.delt, 20), (scaling.matching, 20)):
        stage = make(SCALING, str(tmp_path), 0)
        seconds = [stage.do(3), stage.do(1)]
        assert stage._method.iteration == 5 + 3 and min(seconds) > 0
        assert len(stage._method.result().images) == images
    begun, ended = scaling.matching(SCALING, str(tmp_path), 0)._method.result(), stage._method.result()
    assert torch.allclose(begun.images, ended.images, atol=1e-6)


def test_together_is_what_all_do() -> None:
    """Independent processes add up; those that share units are as fast as the slowest."""
    done = [Done(10, 2.0, 4.0, 1.0), Done(10, 5.0, 5.0, 4.0)]
    assert scaling._together(done, joined=False) == 7
    assert scaling._together(done, joined=True) == 2
    assert scaling._summing(done) == 0.8


@pytest.mark.slow
def test_the_command_of_the_scaling_bench(tmp_path: Path) -> None:
    flags = ["--width", 4, "--batch-size", 20, "--synthetic-steps", 2, "--seconds", 0.5, "--pairs", 1]
    assert raydd("bench", "scaling", *flags, "--json", tmp_path / "measured.json") == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    for name in ("matrices", "experts", "delt", "matching"):
        ratio = measured[f"{name}_together_per_second"] / measured[f"{name}_per_second"]
        assert ratio == pytest.approx(measured[f"{name}_speed_up"]) and ratio > 0
    assert 0 < measured["matching_summing"] < 1 and "experts_summing" not in measured


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_of_a_bench_is_told() -> None:
    with pytest.raises(ZeroDivisionError), team(1, False, divmod, (1,), 1):
        pass
