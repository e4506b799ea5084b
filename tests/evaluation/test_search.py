"""Architecture search: a proxy that is the truth, early stopping, and rank correlations against scipy."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from raydd.config.evaluate import EvaluateConfig
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import NoProgress, Progress
from raydd.data.images import SelectedImages, as_images
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.evaluation import records
from raydd.evaluation.probes.probe import Answer, Question, View
from raydd.evaluation.probes.rank_correlation import estimate, kendall, spearman
from raydd.evaluation.probes.search import EARLY, SearchConfig, regret, searched
from raydd.evaluation.record import Record
from raydd.evaluation.students.training import TrainingSet, student_training
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.training.loop import accuracy, predict
from raydd.training.recipe import Recipe
from tests.support.small import small_run
from tests.support.tiny import CPU, data

KEY = Key.root(0)
RECIPE = Recipe(epochs=3, lr=0.05, momentum=0.9, batch_size=8, augmentation="none")
SMALL = SearchConfig(depths=(1, 2), widths=(4,), norms=("none", "group"), activations=("relu", "sigmoid"), sample=5)


def trial(subject: str, draw: int = 0, **changes: object) -> Trial:
    values = {"labels": "hard", "network": NetworkConfig(), "recipe": RECIPE, "student_seed": 0, **changes}
    return Trial(subject=subject, draw=draw, **values)


@dataclass(frozen=True)
class Tiny(View):
    """The tiny data; `synthetic` holds the first so many of them, in their order, and so does `random`."""

    images: int
    data: PreparedData = data()
    device: torch.device = CPU
    key: Key = KEY

    def training_set(self, trial: Trial) -> TrainingSet:
        real = self.data.train
        is_full = trial.subject == "full"
        count = len(real) if is_full else self.images
        return TrainingSet(
            images=real.images if is_full else real.images[:count],
            targets=real.labels[:count],
            learned_lr=0.02,
            images_per_class=count // 3,
            bytes_total=1,
        )

    def student(self, trial: Trial, progress: Progress) -> Network:
        return trained(self, trial)


@dataclass(frozen=True, eq=False)
class Watched(SelectedImages):
    """Says which rows were asked for, batch by batch."""

    seen: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device) -> "Watched":
        return self

    def batches(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        self.seen.extend(rows)
        return super().batches(rows)


def trained(view: View, trial: Trial) -> Network:
    training = student_training([trial], view.data, view.training_set(trial), CPU, compiled=False)
    for epoch in range(trial.recipe.epochs):
        training.run_epoch(epoch)
    return training.modules[0].eval()


def recorded(question: Question, answer: Answer, view: View) -> Record:
    own, learned = question.trial, view.training_set(question.trial)
    return Record(
        record_id=f"{question.variant}-{own.subject}-{own.draw}-{own.network.label}-{own.student_seed}",
        probe=question.probe,
        variant=question.variant,
        run="tiny",
        method="dm",
        dataset="tiny",
        images_per_class=learned.images_per_class,
        num_images=len(learned.images),
        stage=0,
        subject=own.subject,
        labels=own.labels,
        mode="single_shot",
        budget="reference",
        network=own.network.label,
        recipe="tiny",
        augmentation="none",
        optimizer="sgd",
        student_seed=own.student_seed,
        distill_seed=own.draw,
        learned_lr=own.recipe.lr,
        epochs=own.recipe.epochs,
        optimizer_steps=own.recipe.steps(len(learned.images)),
        test_accuracy=answer.test_accuracy,
        metrics=answer.metrics,
        seconds=2.0,
        device="cpu",
        config_key="0",
        commit="0",
        time=datetime.now(UTC),
    )


def answered(folder: Folder, config: SearchConfig, view: View) -> pa.Table:
    """What is found about the truth, the set and a random one."""
    trials = [trial("synthetic"), trial("random"), trial("init"), trial("full")]
    for question in config.questions(trials):
        records.write(folder, recorded(question, config.answer(question, view, NoProgress()), view))
    return records.read_probes(folder)


def test_a_proxy_that_is_all_the_data_ranks_as_the_truth_and_loses_nothing(tmp_path) -> None:
    config = replace(SMALL, full_epochs=RECIPE.epochs)
    rows = searched(answered(Folder.at(tmp_path), config, Tiny(images=36)))
    assert [row.proxy for row in rows] == ["synthetic", "random", EARLY]
    for row in rows:
        accuracies = [truth for _, _, truth in row.pairs]
        assert len(set(accuracies)) > 2 and row.count == 5
        assert all(proxy == truth for _, proxy, truth in row.pairs)
        assert row.spearman.value == pytest.approx(1) and row.kendall.value == pytest.approx(1)
        assert row.spearman.low == pytest.approx(1) and row.kendall.high == pytest.approx(1)
        assert row.regret == 0 and row.pick == row.best and row.seconds == 2


@pytest.mark.parametrize(
    ("images", "epochs", "sizes"),
    [(24, 3, [8, 8, 8, 8, 4, 8, 8, 8, 8]), (6, 6, [6] * 6), (6, 2, [6, 6]), (36, 2, [8, 8, 8, 8, 4] * 2)],
)
def test_early_stopping_takes_as_many_steps_as_the_set_and_of_its_size(
    images: int, epochs: int, sizes: list[int]
) -> None:
    watched = Watched(as_images(data().train.images), torch.arange(36))
    view = Tiny(images, replace(data(), train=LabelledImages(watched, data().train.labels)))
    first, *_ = early(replace(SMALL, epochs=epochs))
    SMALL.answer(first, view, NoProgress())
    assert [len(rows) for rows in watched.seen] == sizes
    for epoch in (watched.seen[:5], watched.seen[5:]):
        assert len(torch.cat([torch.empty(0), *epoch]).unique()) == sum(map(len, epoch))


def test_early_stopping_after_whole_epochs_is_a_student_of_all_the_data_and_before_of_some() -> None:
    real, view = data().train, Tiny(images=6)
    rows = permutation(view.key.child("search", EARLY), 36)[:12]
    for epochs, kept in ((12, torch.arange(36)), (2, rows)):
        first, *_ = early(replace(SMALL, epochs=epochs))
        own = replace(first.trial, recipe=replace(first.trial.recipe, epochs=max(1, epochs // 6), batch_size=6))
        seen = replace(view.training_set(trial("full")), images=real.images[kept], targets=real.labels[kept])
        training = student_training([own], data(), seen, CPU, compiled=False)
        for epoch in range(own.recipe.epochs):
            training.run_epoch(epoch)
        wanted = accuracy(predict(training.modules[0], data().test.images), data().test.labels)
        assert SMALL.answer(first, view, NoProgress()).test_accuracy == wanted


def test_progress_is_told_of_a_probe_and_of_which_student() -> None:
    asked = trial("synthetic")
    assert asked.work.kind == "student" and str(asked.work).startswith("student 0: synthetic, hard labels, ")
    for variant, title in (("", "search: "), (EARLY, "search early_stopping: ")):
        work = Question(probe="search", trial=asked, variant=variant).work
        assert work.kind == "search" and str(work) == title + str(asked.work)


def early(config: SearchConfig) -> list[Question]:
    return [q for q in config.questions([trial("synthetic"), trial("full")]) if q.variant == EARLY]


def test_questions_are_about_every_architecture_on_every_set_to_search_with() -> None:
    config = replace(SMALL, students=2, epochs=5, full_epochs=7, lr=0.03)
    stored = trial("synthetic", labels="stored", recipe=replace(RECIPE, temperature=2.0))
    trials = [stored, trial("synthetic"), trial("random"), trial("random", draw=1), trial("init"), trial("full")]
    asked = config.questions(trials)
    labels = {network.label for network in config.architectures()}
    assert len(labels) == 5
    sets = {}
    for question in asked:
        own = question.trial
        place = (own.subject, own.draw, own.labels, own.recipe.epochs, own.recipe.temperature, question.variant)
        sets.setdefault(place, []).append((own.network.label, own.student_seed))
        assert own.recipe.lr == 0.03
    assert list(sets) == [
        ("full", 0, "hard", 7, 1.0, ""),
        ("synthetic", 0, "stored", 5, 2.0, ""),
        ("random", 0, "hard", 5, 1.0, ""),
        ("random", 1, "hard", 5, 1.0, ""),
        ("synthetic", 0, "stored", 5, 1.0, EARLY),
    ]
    assert all(sorted(own) == sorted((label, seed) for label in labels for seed in range(2)) for own in sets.values())
    replayed = config.questions([trial("synthetic", labels="replayed"), trial("full")])
    assert {q.trial.recipe.epochs for q in replayed if q.trial.subject == "synthetic"} == {RECIPE.epochs}


def test_the_default_sample_is_of_the_grid_and_kept() -> None:
    config = SearchConfig()
    grid = replace(config, sample=None).architectures()
    assert len(grid) == len({network.label for network in grid}) == 3 * 3 * 5 * 3 * 3
    assert len(config.architectures()) == 20 and config.architectures() == SearchConfig().architectures()
    places = [grid.index(network) for network in config.architectures()]
    assert places == sorted(places) and places != list(range(20))
    assert replace(config, seed=1).architectures() != config.architectures()


def test_dcs_720_architectures_are_a_grid() -> None:
    config = SearchConfig(depths=(1, 2, 3, 4), widths=(32, 64, 128, 256), sample=None)
    assert len({network.label for network in config.architectures()}) == 720


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": ()}, r"evaluate\.search\.depths: must name something"),
        ({"widths": (8, 8)}, r"evaluate\.search\.widths: .* nothing twice"),
        ({"widths": (6,)}, r"evaluate\.search\.widths: must be a multiple of 4 for norm: group, not 6"),
        ({"depths": (0,)}, r"evaluate\.search\.depths: must be at least 1, not 0"),
        ({"sample": 2}, r"evaluate\.search\.sample: must be from 3 to the 405"),
        ({"sample": 406}, r"evaluate\.search\.sample: must be from 3 to the 405"),
        ({"students": 0}, r"evaluate\.search\.students: must be at least 1"),
        ({"lr": 0.0}, r"evaluate\.search\.lr: must be positive"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        SearchConfig(**changes)


def test_a_search_without_the_truth_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^evaluate\.baselines: evaluate\.search needs the truth"):
        EvaluateConfig(probes=("search",), baselines=("random",))
    assert EvaluateConfig(probes=("search",)).askers() == {"search": SearchConfig()}


PROXY = {"a": 0.5, "b": 0.8, "c": 0.8, "d": 0.1}
TRUTH = {"a": 0.6, "b": 0.7, "c": 0.5, "d": 0.2, "e": 0.9}


def test_regret_is_what_the_pick_lacks_and_ties_are_averaged() -> None:
    assert regret(PROXY, TRUTH) == pytest.approx(0.9 - (0.7 + 0.5) / 2)
    assert regret(TRUTH, TRUTH) == 0


def test_rows_are_means_over_seeds_by_the_selection_accuracy_and_failures_stay_out(tmp_path) -> None:
    view, folder = Tiny(images=6), Folder.at(tmp_path)
    made: list[Record] = []
    for subject, accuracies in (("full", TRUTH), ("synthetic", PROXY)):
        for label, measured in accuracies.items():
            for seed, offset in ((0, 0.1), (1, -0.1)):
                own = trial(subject, student_seed=seed)
                is_proxy = subject == "synthetic"
                answer = Answer(
                    metrics={"selection_accuracy": measured + offset if is_proxy else 0.0},
                    test_accuracy=0.0 if is_proxy else measured + offset,
                )
                record = recorded(Question(probe="search", trial=own), answer, view)
                made.append(replace(record, network=label, record_id=f"{subject}-{label}-{seed}"))
    failed = replace(made[-1], network="e", record_id="e", status="failed", error="e", test_accuracy=None, metrics={})
    other = replace(made[-1], run="other", record_id="other")
    for record in (*made, failed, other):
        records.write(folder, record)
    (row,) = searched(records.read_probes(folder), top=0.75)
    x, y = list(PROXY.values()), [TRUTH[label] for label in PROXY]
    assert row.count == 4 and row.pick in "bc" and row.best == "e" and row.proxy == "synthetic"
    assert row.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert row.kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert row.top_spearman == pytest.approx(stats.spearmanr([0.8, 0.5, 0.8], [0.7, 0.6, 0.5]).statistic, abs=1e-12)
    assert row.regret == pytest.approx(0.3)
    for label, found, truth in row.pairs:
        assert (found, truth) == (pytest.approx(PROXY[label]), pytest.approx(TRUTH[label]))
    (usual,) = searched(records.read_probes(folder))
    assert usual.top_spearman is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12), st.randoms())
@settings(max_examples=30, deadline=None)
def test_coefficients_of_samples_are_scipys(pairs: list[tuple[int, int]], random) -> None:
    x, y = np.array(pairs, dtype=float).T
    samples = [np.arange(len(x)), *(np.array(random.choices(range(len(x)), k=len(x))) for _ in range(3))]
    weights = torch.from_numpy(np.stack([np.bincount(own, minlength=len(x)) for own in samples]).astype(float))
    for coefficient, reference in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        found = coefficient(torch.from_numpy(x), torch.from_numpy(y), weights)
        for own, value in zip(samples, found.tolist(), strict=True):
            if len(set(x[own])) == 1 or len(set(y[own])) == 1:
                assert math.isnan(value)
            else:
                assert value == pytest.approx(reference(x[own], y[own]).statistic, abs=1e-12)


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=40)
    y = x + draw.normal(size=40)
    found = estimate(spearman, torch.from_numpy(x), torch.from_numpy(y), KEY, resamples=2000)

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return float(stats.spearmanr(a, b).statistic)

    wanted = stats.bootstrap(
        (x, y), statistic, paired=True, vectorized=False, n_resamples=500, method="percentile", rng=1
    ).confidence_interval
    assert found.value == pytest.approx(statistic(x, y))
    assert (found.low, found.high) == (pytest.approx(wanted.low, abs=0.05), pytest.approx(wanted.high, abs=0.05))
    assert found.low < found.value < found.high


def test_equal_accuracies_have_no_correlation() -> None:
    none = estimate(kendall, torch.ones(4).double(), torch.arange(4).double(), KEY)
    assert (none.value, none.low, none.high) == (None, None, None)
    assert estimate(spearman, torch.ones(1).double(), torch.ones(1).double(), KEY).value is None


@pytest.mark.slow
def test_a_run_answers_and_does_not_ask_again(tmp_path) -> None:
    searching = {"depths": [1], "widths": [4], "norms": ["none", "layer"], "poolings": ["max", "none"], "sample": 4}
    changes = {"evaluate.probes": ["search"], "evaluate.search": {**searching, "activations": ["leaky_relu"]}}
    run = small_run(tmp_path, {**changes, "evaluate.search.full_epochs": 1})
    assert run.does("run") == 0
    table = records.read_probes(Folder.at(run.out) / "results")
    assert table.num_rows == 4 * 4 and set(table["status"].to_pylist()) == {"ok"}
    rows = searched(table, top=1.0)
    assert [row.proxy for row in rows] == ["synthetic", "random", EARLY]
    assert all(row.count == 4 and row.regret >= 0 and row.top_spearman == row.spearman.value for row in rows)
    before = run.artefacts()
    assert run.does("run") == 0 and run.artefacts() == before
