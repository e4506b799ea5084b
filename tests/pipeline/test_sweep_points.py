"""What a sweep tries, and which point it finds the best."""

import json
import math
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raydd import config as configs
from raydd.config.sweep import Range, SweepConfig, columns, described, with_values
from raydd.core.errors import ConfigError
from raydd.evaluation import records
from raydd.evaluation.record import Record
from raydd.evaluation.tables import best
from raydd.evaluation.tables.best import Tried
from raydd.storage import Folder
from tests.evaluation.test_records import make_failure, make_record
from tests.support.small import raydd, small_run

LR, NETWORKS = "evaluate.recipe.lr", "evaluate.networks"


def test_a_grid_has_all_combinations_the_last_field_changing_fastest() -> None:
    networks = [[{"name": "convnet"}], [{"name": "resnet18"}, {"name": "vgg11"}]]
    points = SweepConfig(parameters={NETWORKS: networks, LR: [0.1, 0.01, None], "seed": [4]}).points(0)
    assert [(point[NETWORKS], point[LR]) for point in points] == list(product(networks, [0.1, 0.01, None]))
    assert all(point["seed"] == 4 for point in points)


@pytest.mark.parametrize("search", ["grid", "random"])
def test_another_space_is_another_sweep(search: Any) -> None:
    def name(parameters: dict[str, Any], seed: int = 0, **changes: Any) -> str:
        return SweepConfig(parameters=parameters, **{"search": search, **changes}).name(seed)

    one = name({LR: [0.1, 0.2], "seed": [1]})
    assert one == name({"seed": [1], LR: [0.1, 0.2]}) and one.startswith(search)
    others = [
        name({LR: [0.1, 0.3], "seed": [1]}),
        name({LR: [0.1], "seed": [1]}),
        name({LR: [0.1, 0.2]}),
        name({LR: [0.1, 0.2], "seed": [1]}, scheduler="asha"),
        name({LR: [0.1, 0.2], "seed": [1]}, search="random" if search == "grid" else "grid"),
    ]
    assert len({one, *others}) == 6
    assert (name({LR: [0.1, 0.2], "seed": [1]}, seed=1) == one) == (search == "grid")


def test_more_samples_go_on_from_those_that_there_are() -> None:
    space: dict[str, Any] = {LR: Range(low=1e-4, high=1.0, scale="log"), "evaluate.labels": [["hard"], ["stored"]]}
    few, many = (SweepConfig(parameters=space, search="random", num_samples=count) for count in (7, 40))
    assert few.name(3) == many.name(3)
    assert many.points(3)[:7] == few.points(3) and len(many.points(3)) == 40
    assert few.points(4) != few.points(3)
    assert {json.dumps(point["evaluate.labels"]) for point in many.points(3)} == {'["hard"]', '["stored"]'}


def test_a_point_that_is_drawn_twice_is_tried_once() -> None:
    points = SweepConfig(parameters={"seed": [1, 2, 3]}, search="random", num_samples=200).points(0)
    assert sorted(point["seed"] for point in points) == [1, 2, 3]


@given(
    st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.sampled_from(["linear", "log"]), st.floats(0, 1, exclude_max=True)
)
def test_draws_stay_within_their_range(low: float, factor: float, scale: Any, fraction: float) -> None:
    among = Range(low=low, high=low * factor, scale=scale)
    assert among.low <= among.at(fraction) <= among.high
    whole = Range(low=math.ceil(low), high=math.ceil(low) + math.ceil(factor), scale=scale, integers=True)
    assert whole.low <= whole.at(fraction) <= whole.high and isinstance(whole.at(fraction), int)


@pytest.mark.parametrize(
    ("scale", "law"), [("log", stats.loguniform(1e-4, 10.0)), ("linear", stats.uniform(1e-4, 10.0 - 1e-4))]
)
def test_numbers_are_drawn_by_the_law_of_their_scale(scale: Any, law: Any) -> None:
    config = SweepConfig(parameters={LR: Range(low=1e-4, high=10.0, scale=scale)}, search="random", num_samples=500)
    drawn = [point[LR] for point in config.points(0)]
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3


def test_whole_numbers_are_drawn_with_both_ends() -> None:
    among = Range(low=1, high=4, integers=True)
    drawn = [among.at(number / 4000) for number in range(4000)]
    assert [drawn.count(number) for number in (1, 2, 3, 4)] == [1000] * 4
    wide = Range(low=1, high=7, scale="log", integers=True)
    counts = [sum(wide.at(n / 30_000) == number for n in range(30_000)) for number in range(1, 8)]
    assert counts == pytest.approx([30_000 * math.log2((n + 1) / n) / 3 for n in range(1, 8)], abs=2)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"parameters": {"evaluate.recipe.lrr": [1]}}, "sweep.parameters.evaluate.recipe.lrr: there is no field "
         "evaluate.recipe.lrr; did you mean evaluate.recipe.lr?"),
        ({"parameters": {"out": ["a", "b"]}}, "sweep.parameters.out: determines no student: it cannot be swept"),
        ({"parameters": {LR: 0.1}}, f"sweep.parameters.{LR}: Input should be a valid list, got 0.1"),
        ({"parameters": {LR: []}}, f"sweep.parameters.{LR}: name at least one value"),
        ({"parameters": {LR: [1, 2, 1]}}, f"sweep.parameters.{LR}: has 1 twice"),
        ({"parameters": {}}, "sweep.parameters: name at least one field, as in `evaluate.recipe.lr: [0.01, 0.1]`"),
        ({"parameters": {LR: {"low": 1, "high": 2}}}, f"sweep.parameters.{LR}: a grid takes lists of values; ranges "
         "are for search: random or optuna"),
        ({"parameters": {LR: {"low": 2, "high": 1}}}, f"sweep.parameters.{LR}.low: must be less than high (1), is 2"),
        ({"parameters": {LR: {"low": 0, "high": 1, "scale": "log"}}}, f"sweep.parameters.{LR}.low: must be positive "
         "on a log scale, is 0"),
        ({"parameters": {LR: {"low": 1}}}, f"sweep.parameters.{LR}.high: Field required, got {{'low': 1}}"),
        ({"parameters": {LR: [1]}, "search": "gird"}, "sweep.search: Input should be 'grid', 'random' or 'optuna', "
         "got 'gird'"),
        ({"parameters": {LR: [1]}, "num_samples": 0}, "sweep.num_samples: must be at least 1, is 0"),
        ({"parameters": {LR: [1]}, "search": "optuna"}, "sweep.search: optuna goes by a validation split: set "
         "data.validation_fraction"),
        ({"parameters": {LR: [1]}, "search": "optuna", "scheduler": "asha"}, "sweep.scheduler: asha is for grid and "
         "random: optuna learns from students at their end"),
        ({"parameters": {LR: [1]}, "scheduler": "asha"}, "sweep.scheduler: asha goes by a validation split: set "
         "data.validation_fraction"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_is_refused(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        configs.from_mapping({"sweep": sweep})
    assert str(refusal.value) == message


def test_values_replace_fields_and_whole_parts() -> None:
    plain = configs.to_mapping(configs.RunConfig())
    before = json.dumps(plain)
    changed = with_values(plain, {LR: 0.5, NETWORKS: [{"name": "convnet"}], "method": {"name": "mtt"}})
    assert changed["evaluate"]["recipe"]["lr"] == 0.5 and changed["method"] == {"name": "mtt"}
    assert changed["evaluate"]["networks"] == [{"name": "convnet"}]
    assert json.dumps(plain) == before
    configs.from_mapping(changed)
    with pytest.raises(ConfigError, match=r"^evaluate\.recipe\.lr: there is no such field where the other values"):
        with_values(plain, {"evaluate.recipe": {"epochs": 1}, LR: 0.5})


def test_a_point_as_columns_and_in_words() -> None:
    point = {LR: 0.5, "seed": 3, "evaluate.protocol": None, "method.name": "mtt", "evaluate.labels": ["hard"]}
    kept = columns(point)
    assert kept == {LR: 0.5, "seed": 3.0, "evaluate.protocol": "null", "method.name": "mtt",
                    "evaluate.labels": '["hard"]'}  # fmt: skip
    assert described(point) == 'lr 0.5, seed 3, protocol null, name mtt, labels ["hard"]'


def test_the_space_comes_from_the_file_or_from_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path, {"sweep": {"parameters": {LR: [0.1]}, "search": "grid"}})
    space = '{"seed": [5, 6], "evaluate.labels": [["hard"]]}'
    assert raydd("show", run.file, "--config", "--sweep.parameters", space) == 0
    shown = configs.parse(capsys.readouterr().out.encode(), "shown").sweep
    assert shown == SweepConfig(parameters={"seed": [5, 6], "evaluate.labels": [["hard"]]})
    assert raydd("show", run.file, "--help", "sweep") == 0
    assert "--sweep.parameters JSON" in capsys.readouterr().out


ACCURACIES = {
    # subject, labels, point: validation accuracies, test accuracies
    ("synthetic", "stored", 0): ((0.50, 0.60), (0.70, 0.80)),
    ("synthetic", "stored", 1): ((0.58, 0.56), (0.40, 0.50)),
    ("synthetic", "hard", 0): ((0.30, 0.32), (0.31, 0.33)),
    ("synthetic", "hard", 1): ((0.29, 0.32), (0.90, 0.92)),
    ("random", "hard", 0): ((0.20, 0.20), (0.21, 0.25)),
    ("random", "hard", 1): ((0.20, 0.20), (0.50, 0.70)),
}


def table(folder: Folder, *students: Record) -> pa.Table:
    for student in students:
        records.write(folder, student)
    return records.read(folder)


def students_of(key: tuple[str, str, int]) -> list[Record]:
    subject, labels, point = key
    return [
        make_record(
            record_id=f"{subject}-{labels}-{point}-{seed}",
            subject=subject,
            labels=labels,
            student_seed=seed,
            validation_accuracy=validation,
            test_accuracy=test,
        )
        for seed, (validation, test) in enumerate(zip(*ACCURACIES[key], strict=True))
    ]


def tried(*record_ids: list[str]) -> list[Tried]:
    return [Tried(number=n, parameters={LR: float(n)}, record_ids=tuple(ids)) for n, ids in enumerate(record_ids)]


def test_every_set_and_regime_has_its_own_best_point(tmp_path: Path) -> None:
    every = [student for key in ACCURACIES for student in students_of(key)]
    points = tried(*([student.record_id for key in ACCURACIES if key[2] == point for student in students_of(key)]
                     for point in (0, 1)))  # fmt: skip
    found = best.scores(points, table(Folder.at(tmp_path), *every))
    assert {(score.subject, score.labels, score.point) for score in found} == set(ACCURACIES)
    for score in found:
        validations, tests = ACCURACIES[score.subject, score.labels, score.point]
        assert score.validation == pytest.approx(mean(validations))
        assert (score.mean, score.std) == (pytest.approx(mean(tests)), pytest.approx(stdev(tests)))
        assert (score.n, score.failed) == (2, 0)
    chosen = {(score.subject, score.labels): score.point for score in best.best(found)}
    assert chosen == {("synthetic", "stored"): 1, ("synthetic", "hard"): 0, ("random", "hard"): 0}
    assert [score.subject for score in found] == ["synthetic"] * 4 + ["random"] * 2


def test_a_point_of_which_a_student_failed_is_never_the_best(tmp_path: Path) -> None:
    good = [make_record(record_id=f"good-{n}", validation_accuracy=0.9, test_accuracy=0.9) for n in (0, 1)]
    failed = make_failure(record_id="failed")
    weak = make_record(record_id="weak", validation_accuracy=0.1, test_accuracy=0.1)
    points = tried(["good-0", "failed"], ["weak", "good-1"], ["weak"], ["not there"])
    found = best.scores(points, table(Folder.at(tmp_path), *good, failed, weak))
    assert [(score.point, score.n, score.failed, score.validation) for score in found] == [
        (0, 1, 1, None),
        (1, 2, 0, pytest.approx(0.5)),
        (2, 1, 0, pytest.approx(0.1)),
    ]
    assert found[0].errors == ("RunError: the loss is nan",)
    assert [score.point for score in best.best(found)] == [1]


def test_students_under_two_augmentations_are_not_averaged(tmp_path: Path) -> None:
    students = [
        make_record(record_id=name, augmentation=name, validation_accuracy=accuracy, test_accuracy=accuracy)
        for name, accuracy in (("dsa", 0.4), ("none", 0.6))
    ]
    found = best.scores(tried(["dsa", "none"]), table(Folder.at(tmp_path), *students))
    assert [(score.augmentation, score.mean) for score in found] == [("dsa", 0.4), ("none", 0.6)]
    assert [score.augmentation for score in best.best(found)] == ["none"]


def test_nothing_is_the_best_without_validation_accuracies(tmp_path: Path) -> None:
    found = best.scores(tried(["a"]), table(Folder.at(tmp_path), make_record(record_id="a", test_accuracy=0.9)))
    assert len(found) == 1 and best.best(found) == []
