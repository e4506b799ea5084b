"""k-center and herding against naive restatements, and runs that compare with what they choose."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import raydd
from raydd import config as configs
from raydd import networks
from raydd.core.errors import ArtefactError, RunError
from raydd.core.keyed_random import Key, seeded
from raydd.core.progress import NoProgress, Numbers, Progress, Work
from raydd.ingredients.base import Ingredient, in_order, make_here
from raydd.ingredients.coreset import KIND, Selection, herding, k_center, selection_identity
from raydd.pipeline import execution
from raydd.pipeline.runs.inputs import RunInputs
from raydd.pipeline.runs.run import Run
from raydd.pipeline.verifying import verify
from raydd.pipeline.work.training_sets import training_set
from raydd.storage import Folder, content_key
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from tests.pipeline.test_execution import Recording
from tests.reference import coreset as reference
from tests.support import tiny
from tests.support.small import SmallRun, flip, small_run

KEY = Key.root(3)
RECIPE = Recipe(epochs=3, lr=0.05, momentum=0.9, batch_size=8, augmentation="none")
CORESETS = ["k_center", "herding"]
SELECTOR = {"epochs": 2, "lr": 0.1, "batch_size": 32, "augmentation": "none"}

sizes = st.tuples(st.integers(3, 30), st.integers(1, 6), st.integers(0, 10_000))
"""Of two images both are as near to the mean."""


@st.composite
def tied(draw: st.DrawFn) -> tuple[list[list[float]], int]:
    """Points many of which are equal or equally far, and how many to choose."""
    width = draw(st.integers(1, 3))
    point = st.lists(st.integers(-2, 2).map(float), min_size=width, max_size=width)
    points = draw(st.lists(point, min_size=1, max_size=8))
    return points, draw(st.integers(1, len(points)))


# choosing


@given(sizes)
def test_both_choose_what_the_restatements_choose(size: tuple[int, int, int]) -> None:
    count, width, seed = size
    points = tiny.randn(seed, count, width)
    assert k_center(points, count).tolist() == reference.farthest_first(points.tolist(), count)
    assert herding(points, count).tolist() == reference.herded(points.tolist(), count)


@given(tied())
def test_every_choice_is_as_good_as_the_best(case: tuple[list[list[float]], int]) -> None:
    points, count = case
    for choose in (k_center, herding):
        chosen = choose(torch.tensor(points), count).tolist()
        assert len({*chosen}) == count and {*chosen} <= {*range(len(points))}
        assert choose(torch.tensor(points), 1).tolist() == chosen[:1]
        for number, row in enumerate(chosen):
            before, left = chosen[:number], [other for other in range(len(points)) if other not in chosen[:number]]
            if choose is k_center and before:
                worth = {other: min(math.dist(points[other], points[one]) for one in before) for other in left}
            else:
                worth = {other: -reference.off_mean(points, [*before, other]) for other in left}
            assert worth[row] == pytest.approx(max(worth.values()), abs=1e-7)


@given(tied())
@settings(max_examples=50)
def test_no_choice_of_centers_is_twice_as_good(case: tuple[list[list[float]], int]) -> None:
    """The bound of the greedy choice (Gonzalez, 1985)."""
    points, count = case
    found = reference.radius(points, k_center(torch.tensor(points), count).tolist())
    assert found <= 2 * reference.least_radius(points, count) + 1e-9


def test_centers_reach_out_and_herds_stay_in_the_middle() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [10.0]])  # their mean is 10 / 3
    assert k_center(points, 4).tolist() == [3, 5, 0, 1]  # then 1 and 2 are each one away from the next
    assert herding(points, 2).tolist() == [3, 4]  # (3 + 4) / 2 = 3.5


def test_classes_choose_for_themselves() -> None:
    features = tiny.randn(1, 40, 4)
    labels = torch.arange(40)[torch.randperm(40, generator=torch.Generator().manual_seed(0))] % 3
    asked: list[Tensor] = []

    def of(rows: Tensor) -> Tensor:
        asked.append(rows)
        return features[rows]

    found = Selection.of(of, labels, 3, 5)
    assert [int(labels[rows].unique()) for rows in asked] == [0, 1, 2]
    for name, naive in (("k_center", reference.farthest_first), ("herding", reference.herded)):
        wanted = []
        for label in range(3):
            rows = [row for row in range(40) if labels[row] == label]
            wanted += [rows[place] for place in naive(features[rows].tolist(), 5)]
        assert found.rows[name].tolist() == wanted and found.rows[name].dtype == torch.int64


def test_a_selection_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Selection({name: torch.randperm(2**20)[:50] for name in CORESETS})
    folder = Folder.at(tmp_path)
    with pytest.raises(ArtefactError, match="there is no finished selection here"):
        Selection.load(folder)
    written.save(folder, "key")
    found = Selection.load(folder)
    assert found.rows.keys() == written.rows.keys()
    assert all(torch.equal(found.rows[name], rows) for name, rows in written.rows.items())
    flip(tmp_path / "selection.parquet")
    with pytest.raises(ArtefactError, match="selection.parquet: the content is not what was written"):
        Selection.load(folder)


def test_whatever_determines_a_selection_is_in_its_key() -> None:
    data = tiny.data()
    base: tuple[Any, ...] = (RECIPE, tiny.NETWORK, data, 0, 1)
    others: list[tuple[Any, ...]] = [
        (replace(RECIPE, epochs=4), *base[1:]),
        (RECIPE, replace(tiny.NETWORK, width=5), *base[2:]),
        (*base[:2], replace(data, fingerprint="1" * 64), 0, 1),
        (*base[:3], 1, 1),
        (*base[:4], 2),
    ]
    assert len({content_key(selection_identity(*arguments)) for arguments in [base, *others]}) == 6


# the network


def trained(work: Path, recipe: Recipe = RECIPE, progress: Progress | None = None) -> nn.Module:
    return tiny.real_training(work, recipe, KEY).run(Work(KIND), progress or NoProgress())


def test_the_network_is_trained_on_all_real_images(tmp_path: Path) -> None:
    data = tiny.data()
    with seeded(KEY.child("init")):
        module = networks.build(tiny.NETWORK, data.shape, data.num_classes)
    training = Training([module], data.train.images, data.train.labels, RECIPE, [KEY.child("training")])
    for epoch in range(RECIPE.epochs):
        training.run_epoch(epoch)
    state = torch.get_rng_state()
    tiny.assert_equal(trained(tmp_path).state_dict(), module.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


class Stop(NoProgress):
    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        assert (task, total) == (Work(KIND), RECIPE.epochs) and note.startswith("accuracy ")
        if done == 2:
            raise InterruptedError


def test_a_training_that_was_broken_off_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole").state_dict()
    with pytest.raises(InterruptedError):
        trained(tmp_path / "broken", progress=Stop())
    told: list[float] = []

    class Told(NoProgress):
        def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
            told.append(done)

    tiny.assert_equal(trained(tmp_path / "broken", progress=Told()).state_dict(), whole)
    assert told == [3]


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the training loss is (nan|inf)"):
        trained(tmp_path, replace(RECIPE, lr=1e30))


# runs


class Asked(Recording):
    """Notes when it is asked to choose, too."""

    def make(
        self,
        run: RunInputs,
        wanted: Sequence[Ingredient[Any]],
        progress: Progress,
        others: Sequence[Ingredient[Any]] = (),
    ) -> None:
        if run.selection in wanted:
            self.asked.append(("select", 1))
        super().make(run, wanted, progress, others)


def asked(config: configs.RunConfig) -> list[tuple[str, int]]:
    executor = Asked()
    execution.execute(config, executor, NoProgress(), "evaluate")
    return executor.asked


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A run whose students are compared with random images and both selections, and its distilled set; no students."""
    evaluate = {"evaluate.baselines": ["random", *CORESETS], "evaluate.selector": SELECTOR}
    run = small_run(tmp_path_factory.mktemp("selected"), {**evaluate, "method.images_per_class": 2})
    assert run.does("distill") == 0
    return run


def test_students_learn_from_selections_and_a_second_run_makes_nothing(small: SmallRun) -> None:
    config = configs.load(str(small.file))
    assert not (small.out / "selection").exists()
    assert asked(config) == [("check", 0), ("select", 1), ("evaluate", 8)]
    rows = raydd.results(small.out).to_pylist()
    assert sorted((row["subject"], row["labels"]) for row in rows) == sorted(
        (subject, labels) for subject in ("synthetic", "random", *CORESETS) for labels in ("stored", "hard")
    )
    for row in rows:
        assert (row["status"], row["num_images"], row["images_per_class"]) == ("ok", 20, 2)
    assert len({row["test_accuracy"] for row in rows}) > 4
    assert not list((small.out / "work" / "checkpoints").glob("selection-*"))
    before = small.artefacts()
    assert asked(config) == [] and small.artefacts() == before
    verify(Folder.at(small.out))


def test_the_images_are_those_that_the_network_tells_apart(small: SmallRun, tmp_path: Path) -> None:
    config = configs.load(str(small.file))
    run = Run(config, Folder.at(tmp_path))
    for ingredient in in_order([run.selection]):
        make_here(ingredient, NoProgress())
    train, key = run.data.train, Key.root(config.experts_seed).child("selection")
    training = tiny.real_training(tmp_path / "again", Recipe(**SELECTOR), key, run.data, config.network)
    network = training.run(Work(KIND), NoProgress()).eval()
    for name, naive in (("k_center", reference.farthest_first), ("herding", reference.herded)):
        wanted: list[int] = []
        for label in range(10):
            own = (train.labels == label).nonzero()[:, 0]
            with torch.no_grad():
                seen = torch.cat([network.features(train.images[row][None]) for row in own])
            wanted += own[naive(seen.tolist(), 2)].tolist()
        assert run.selection.open().rows[name].tolist() == wanted
        for labels in ("stored", "hard"):
            (trial,) = (trial for trial in run.trials() if (trial.subject, trial.labels) == (name, labels))
            made = training_set(Run(config, Folder.at(small.out)), trial)
            assert torch.equal(made.images, train.images[wanted])
            soft = labels == "stored"
            assert made.targets.is_floating_point() == soft and (made.classes is not None) == soft
            classes = made.classes if soft else made.targets
            assert classes.tolist() == [label for label in range(10) for _ in range(2)]
            assert not soft or (made.targets.argmax(1) == classes).double().mean() > 0.5


def test_a_selection_is_made_only_where_a_missing_student_needs_it(small: SmallRun, tmp_path: Path) -> None:
    again = SmallRun(small.file, tmp_path / "run")
    shutil.copytree(small.out, again.out)
    config = replace(configs.load(str(small.file)), out=str(again.out))
    asked(config)
    (folder,) = (again.out / "selection").iterdir()
    before = (folder / "selection.parquet").read_bytes()
    shutil.rmtree(folder)
    assert asked(config) == []
    some = replace(config, evaluate=replace(config.evaluate, baselines=("random",), num_students=2))
    assert asked(some) == [("check", 0), ("evaluate", 4)] and not folder.exists()
    more = replace(config, evaluate=replace(config.evaluate, baselines=("herding",), num_students=2))
    assert asked(more) == [("check", 0), ("select", 1), ("evaluate", 2)]
    assert (folder / "selection.parquet").read_bytes() == before
    flip(folder / "selection.parquet")
    third = replace(config, evaluate=replace(config.evaluate, num_students=3))
    with pytest.raises(ArtefactError, match="selection.parquet: the content is not what was written"):
        asked(third)


def test_students_of_selections_are_named_by_what_chose(small: SmallRun) -> None:
    config = configs.load(str(small.file))

    def names(**changes: Any) -> dict[tuple[str, str], str]:
        run = Run(replace(config, **changes), Folder.at(small.out))
        return {(trial.subject, trial.labels): run.record_id(trial) for trial in run.trials()}

    selector = replace(config.evaluate.selector, epochs=3)
    before, after = names(), names(evaluate=replace(config.evaluate, selector=selector))
    assert len({*before.values()}) == len(before) == 8
    assert {subject for subject, labels in before if before[subject, labels] != after[subject, labels]} == {*CORESETS}
