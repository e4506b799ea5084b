"""Membership inference: attacks against scikit-learn, scipy and closed forms, and sets with and without images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from raydd.config.evaluate import EvaluateConfig
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import NoProgress, Progress
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.evaluation import records
from raydd.evaluation.probes.attacks import confidence, likelihood_ratio, loss_threshold, separation, true_positives
from raydd.evaluation.probes.membership import MembershipConfig, halves, subsets
from raydd.evaluation.probes.probe import Answer, Question, View
from raydd.evaluation.students.training import TrainingSet, student_training
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.storage import Folder
from raydd.training.loop import accuracy, predict
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig
from tests.support.small import small_run
from tests.support.tiny import CPU, NETWORK, data, randn

KEY = Key.root(0)
RECIPE = Recipe(epochs=25, lr=0.05, momentum=0.9, batch_size=16, augmentation="none")
SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=15)
RATES = {"tpr_at_1_percent": 0.01, "tpr_at_0_1_percent": 0.001}


@given(SCORES, SCORES, st.sampled_from([0.001, 0.1, 0.25, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_separation_is_scikit_learns(members: list[int], others: list[int], rate: float) -> None:
    truth, scores = [1] * len(members) + [0] * len(others), [*members, *others]
    wrong, found, _ = roc_curve(truth, scores, drop_intermediate=False)
    a, b = (torch.tensor(own, dtype=torch.float64) for own in (members, others))
    made = separation(a, b)
    assert made.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert made.advantage == pytest.approx((found - wrong).max(), abs=1e-12)
    assert true_positives(a, b, rate) == pytest.approx(found[wrong <= rate].max(), abs=1e-12)
    for name, own in RATES.items():
        assert getattr(made, name) == true_positives(a, b, own)


@pytest.mark.parametrize("rate", [0.01, 0.001])
def test_false_positives_are_as_many_as_are_allowed(rate: float) -> None:
    others = torch.arange(3000, dtype=torch.float64)
    members = others + 0.5
    allowed = round(3000 * rate)
    assert true_positives(members, others, rate) == (allowed + 1) / 3000


def test_perfect_scores_separate_all_and_guesses_nothing() -> None:
    low, high = torch.arange(50).double(), torch.arange(50, 90).double()
    assert separation(high, low) == separation(high, low * 0) and separation(high, low).auc == 1
    assert separation(high, low).tpr_at_0_1_percent == 1 and separation(high, low).advantage == 1
    backwards = separation(low, high)
    assert (backwards.auc, backwards.advantage, backwards.tpr_at_1_percent) == (0, 0, 0)
    alike = separation(torch.zeros(3).double(), torch.zeros(7).double())
    assert (alike.auc, alike.advantage, alike.tpr_at_1_percent) == (0.5, 0, 0)
    guessed = separation(randn(0, 4000), randn(1, 4000))
    assert guessed.auc == pytest.approx(0.5, abs=0.02) and guessed.tpr_at_1_percent == pytest.approx(0.01, abs=0.01)


def test_confidence_is_the_logit_of_the_probability_and_keeps_its_digits() -> None:
    logits, labels = 3 * randn(2, 40, 5), torch.arange(40) % 5
    found = confidence(logits, labels)
    own = special.softmax(logits.numpy(), axis=1)[range(40), labels]
    assert found.numpy() == pytest.approx(np.log(own / (1 - own)))
    assert loss_threshold(found).numpy() == pytest.approx(np.log(own))
    sure = confidence(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 0]))
    assert sure.tolist() == [1000, -1000] and loss_threshold(sure)[1] == -1000


def drawn(inside: Tensor, seed: int = 3) -> tuple[Tensor, Tensor]:
    return randn(seed, inside.shape[1]), randn(seed + 1, *inside.shape)


def residuals(shadows: np.ndarray, chosen: np.ndarray) -> tuple[list[float], float]:
    """Means of the images, and the root of the one unbiased variance, by loops."""
    own = [shadows[chosen[:, image], image] for image in range(shadows.shape[1])]
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in own)
    return [float(values.mean()) for values in own], math.sqrt(squares / sum(len(values) - 1 for values in own))


def test_the_likelihood_ratio_is_that_of_scipys_normals() -> None:
    inside = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]).bool()
    observed, shadows = drawn(inside)
    made = likelihood_ratio(observed, shadows, inside)
    with_means, with_root = residuals(shadows.numpy(), inside.numpy())
    without_means, without_root = residuals(shadows.numpy(), ~inside.numpy())
    for image, value in enumerate(observed.tolist()):
        wanted = stats.norm.logpdf(value, with_means[image], with_root)
        wanted -= stats.norm.logpdf(value, without_means[image], without_root)
        assert float(made.scores_N[image]) == pytest.approx(wanted)
    assert made.online


def test_offline_the_score_orders_as_one_minus_the_tail_of_those_without() -> None:
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[1, 2:] = True
    observed, shadows = drawn(inside)
    made = likelihood_ratio(observed, shadows, inside)
    means, root = residuals(shadows.numpy(), ~inside.numpy())
    assert not made.online
    wanted = [1 - stats.norm.sf(value, *own, root) for value, own in zip(observed.tolist(), zip(means), strict=True)]
    assert stats.norm.cdf(made.scores_N.numpy()) == pytest.approx(wanted)
    surest = likelihood_ratio(torch.tensor([200.0, 300.0]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]), inside[:2, :2])
    assert surest.scores_N[0] < surest.scores_N[1]


def test_too_few_shadows_tell_nothing() -> None:
    inside = torch.tensor([[True, False], [True, False]])
    for chosen in (inside, torch.tensor([[True, False], [False, True]])):
        with pytest.raises(RunError, match=r"evaluate\.membership\.shadows"):
            likelihood_ratio(torch.zeros(2), torch.zeros(2, 2), chosen)


@pytest.mark.parametrize("is_online", [True, False])
def test_lira_sees_past_how_hard_images_are_as_well_as_it_can(is_online: bool) -> None:
    """Confidences have variance 1, are 1.5 higher inside, and images differ ten times as much: Phi(1.5 / sqrt 2)."""
    size, shift = 3000, 1.5
    hardness, member = 10 * randn(5, 2 * size), torch.arange(2 * size) < size
    inside = torch.rand(128, 2 * size, generator=torch.Generator().manual_seed(6)) < (0.5 if is_online else 0.001)
    shadows = hardness + shift * inside + randn(7, 128, 2 * size)
    observed = hardness + shift * member + randn(8, 2 * size)
    made = likelihood_ratio(observed, shadows, inside)
    assert made.online == is_online
    found = separation(made.scores_N[:size], made.scores_N[size:])
    assert found.auc == pytest.approx(stats.norm.cdf(shift / math.sqrt(2)), abs=0.015)
    assert found.advantage == pytest.approx(2 * stats.norm.cdf(shift / 2) - 1, abs=0.03)
    assert found.tpr_at_1_percent == pytest.approx(stats.norm.sf(stats.norm.isf(0.01) - shift), abs=0.06)
    naive = loss_threshold(observed)
    assert separation(naive[:size], naive[size:]).auc == pytest.approx(0.5, abs=0.06)


LABELS = torch.tensor([0, 1, 2] * 7 + [0, 0, 1])


def test_halves_are_one_anothers_rest_class_by_class() -> None:
    made = [halves(KEY, LABELS, number) for number in range(4)]
    for first, second in (made[:2], made[2:]):
        assert sorted(torch.cat([first, second]).tolist()) == list(range(len(LABELS)))
        assert (LABELS[first].bincount() - LABELS[second].bincount()).abs().max() <= 1
    assert set(made[0].tolist()) not in [set(other.tolist()) for other in made[2:]]


def test_subsets_are_of_the_sets_classes_and_apart_as_long_as_there_are_others() -> None:
    sizes = torch.tensor([2, 3, 0])
    made = [subsets(KEY, LABELS, sizes, number) for number in range(5)]
    for rows in made:
        assert LABELS[rows].bincount(minlength=3).tolist() == [2, 3, 0] and len(rows.unique()) == 5
    first, second, third, *_ = made
    assert not torch.isin(first, second).any()
    assert torch.isin(third, torch.cat([first, second])).any()
    large = [subsets(KEY, LABELS, torch.tensor([9, 2, 9]), number) for number in range(2)]
    assert [LABELS[rows].bincount().tolist() for rows in large] == [[4, 2, 3]] * 2
    assert not torch.isin(*large).any()
    with pytest.raises(RunError, match=r"evaluate\.membership\.pool"):
        subsets(KEY, torch.tensor([0, 1]), torch.tensor([1, 1]), 0)


def patterned(seed: int, per_class: int) -> LabelledImages:
    """Images of the tiny data's kind, with more noise: what a student can only learn by heart."""
    patterns, labels = randn(0, 3, 1, 8, 8, dtype=torch.float32), torch.arange(3).repeat(per_class)
    return LabelledImages(patterns[labels] + 3 * randn(seed, len(labels), 1, 8, 8, dtype=torch.float32), labels)


NOISY = replace(data(), train=patterned(11, 40), test=patterned(12, 40))
FRESH = patterned(13, 20)
"""Images of the same distribution, neither training nor test images, as many as half of the former."""


def trial(subject: str = "synthetic", **changes: object) -> Trial:
    values = {"labels": "hard", "network": NETWORK, "recipe": RECIPE, "student_seed": 0, **changes}
    return Trial(subject=subject, **values)


@dataclass(frozen=True)
class Noisy(View):
    """Of the noisy data; `random` is half of the training images, `init` the same mislabelled, others are fresh."""

    data: PreparedData = NOISY
    device: torch.device = CPU
    key: Key = KEY
    config: MembershipConfig = MembershipConfig(shadows=4)
    kept: dict[Question, Mapping[str, Tensor]] = field(default_factory=dict)

    def training_set(self, trial: Trial) -> TrainingSet:
        real = self.data.train
        images, labels = FRESH.images[:], FRESH.labels
        if trial.subject == "full":
            images, labels = real.images[:], real.labels
        elif trial.subject == "random":
            images, labels = real.images[:60], real.labels[:60]
        return TrainingSet(
            images=images, targets=labels, learned_lr=0.02, images_per_class=len(labels) // 3, bytes_total=1
        )

    def student(self, trial: Trial, progress: Progress) -> Network:
        training = student_training([trial], self.data, self.training_set(trial), CPU, compiled=False)
        for epoch in range(trial.recipe.epochs):
            training.run_epoch(epoch)
        return training.modules[0].eval()

    def prepared(self, question: Question) -> Mapping[str, Tensor]:
        if question not in self.kept:
            self.kept[question] = self.config.prepare(question, self, NoProgress())
        return self.kept[question]


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    view = Noisy()
    return {
        subject: view.config.answer(Question(probe="membership", trial=trial(subject)), view, NoProgress())
        for subject in ("synthetic", "random", "full")
    }


@pytest.mark.parametrize("attack", ["loss", "lira"])
def test_a_set_that_holds_training_images_gives_them_away_and_another_does_not(
    answers: dict[str, Answer], attack: str
) -> None:
    auc = {subject: answer.metrics[f"{attack}_auc"] for subject, answer in answers.items()}
    assert auc["synthetic"] == pytest.approx(0.5, abs=0.1)
    assert auc["random"] > auc["synthetic"] + 0.1
    assert auc["full"] > auc["synthetic"] + 0.1
    assert answers["full"].metrics[f"{attack}_advantage"] > answers["synthetic"].metrics[f"{attack}_advantage"]


def test_an_answer_says_how_it_was_found(answers: dict[str, Answer]) -> None:
    assert {subject: answer.metrics["lira_online"] for subject, answer in answers.items()} == {
        "synthetic": 0,
        "random": 0,
        "full": 1,
    }
    for subject, answer in answers.items():
        assert (answer.metrics["members"], answer.metrics["non_members"], answer.metrics["shadows"]) == (120, 120, 4)
        view = Noisy()
        student = view.student(trial(subject), NoProgress())
        wanted = accuracy(predict(student, NOISY.test.images), NOISY.test.labels)
        assert answer.test_accuracy == wanted == pytest.approx(answer.metrics["non_member_accuracy"])
        seen = accuracy(predict(student, NOISY.train.images), NOISY.train.labels)
        assert answer.metrics["member_accuracy"] == pytest.approx(seen)
        losses = [
            -torch.nn.functional.cross_entropy(predict(student, split.images).double(), split.labels, reduction="none")
            for split in (NOISY.train, NOISY.test)
        ]
        truth = [1] * 120 + [0] * 120
        assert answer.metrics["loss_auc"] == pytest.approx(roc_auc_score(truth, torch.cat(losses).numpy()))


def test_a_network_that_was_trained_on_nothing_guesses() -> None:
    """Its step size is too small to move a parameter of it."""
    view = Noisy(config=MembershipConfig(shadows=4, students=9))
    guessing = [trial("full", student_seed=seed, recipe=replace(RECIPE, lr=1e-12, epochs=1)) for seed in range(6)]
    found = [view.config.answer(Question(probe="membership", trial=own), view, NoProgress()) for own in guessing]
    for attack in ("loss", "lira"):
        assert np.mean([answer.metrics[f"{attack}_auc"] for answer in found]) == pytest.approx(0.5, abs=0.06)


def test_a_shadow_is_trained_on_the_images_that_it_says_and_on_no_others() -> None:
    """Neither the images beyond the pool nor those outside of its set change a bit; without its own it breaks off."""
    config = MembershipConfig(shadows=4, images=30, pool=30)
    first, second, *_ = config.preparations([trial("full")])
    made, rest = (config.prepare(question, Noisy(), NoProgress()) for question in (first, second))
    inside = made["inside"]
    assert made["confidence"].shape == inside.shape == (60,) and torch.equal(inside, ~rest["inside"])
    assert made["confidence"][inside].mean() > made["confidence"][~inside].mean() + 1
    key = KEY.child("membership")
    members, others = (permutation(key.child(kind), 120)[:30] for kind in ("members", "non_members"))

    def without(lost: Tensor) -> Noisy:
        """The data with all images lost but those of some targets, bool [60]."""
        kept = (members[~lost[:30]], others[~lost[30:]])
        splits = [NOISY.train, NOISY.test]
        for number, rows in enumerate(kept):
            images = torch.full_like(splits[number].images[:], torch.nan)
            images[rows] = splits[number].images[rows]
            splits[number] = LabelledImages(images, splits[number].labels)
        return Noisy(replace(NOISY, train=splits[0], test=splits[1]))

    found = config.prepare(first, without(~inside), NoProgress())
    assert torch.equal(found["confidence"][inside], made["confidence"][inside])
    assert found["confidence"][~inside].isnan().all()
    one = torch.arange(60) == inside.nonzero()[0]
    assert len(config.prepare(first, without(one), NoProgress())["inside"]) == 0


def test_shadows_are_shared_by_all_sets_but_all_the_data() -> None:
    soft = replace(RECIPE, temperature=4.0)
    sets = [trial(subject, student_seed=seed) for subject in ("synthetic", "init", "random") for seed in range(2)]
    stored = [trial(labels="stored", recipe=soft), trial("random", draw=1, labels="stored", recipe=soft)]
    asked = MembershipConfig(shadows=5).preparations([*stored, *sets, trial("full", recipe=replace(RECIPE, lr=0.1))])
    assert len(asked) == 10 and len(set(asked)) == 10
    assert {(own.trial.subject, own.trial.labels, own.trial.recipe.temperature) for own in asked} == {
        ("synthetic", "hard", 1),
        ("full", "hard", 1),
    }


def test_the_first_students_of_each_set_are_attacked() -> None:
    wide, strong = replace(NETWORK, width=8), replace(RECIPE, augmentation="crop")
    kept = [trial(labels=labels, student_seed=seed) for labels in ("stored", "hard") for seed in range(2)]
    left_out = [
        trial(student_seed=2),
        trial(network=wide),
        trial(recipe=strong),
        trial(mode="chain", stage=1),
    ]
    last = [trial("random", draw=1), trial("full", recipe=replace(RECIPE, epochs=2))]
    found = MembershipConfig(students=2).questions([*kept, *left_out, *last])
    assert [question.trial for question in found] == [*kept, *last]


def test_shadows_of_sets_that_a_teacher_labels_see_the_classes_of_their_views() -> None:
    views = ViewsConfig(min_scale=0.5)
    own = replace(RECIPE, epochs=4, temperature=20.0, views=views)
    view = Noisy(config=MembershipConfig(shadows=4))
    first, *_ = view.config.preparations([trial(labels="online", recipe=own)])
    assert first.trial.recipe == replace(own, temperature=1.0)
    made = view.prepared(first)
    assert int(made["inside"].sum()) == 60 and made["confidence"].isfinite().all()


def test_without_a_shadow_there_is_no_answer() -> None:
    view = Noisy()
    diverging = trial(recipe=replace(RECIPE, lr=1e30, epochs=2))
    first, *_ = view.config.preparations([diverging])
    assert len(view.prepared(first)["inside"]) == len(view.prepared(first)["confidence"]) == 0
    question = Question(probe="membership", trial=diverging)
    steady = Steady(view)
    with pytest.raises(RunError, match="every shadow network broke off"):
        view.config.answer(question, steady, NoProgress())


@dataclass(frozen=True)
class Steady(View):
    """A view whose students were trained by another step size."""

    view: Noisy

    data = property(lambda self: self.view.data)
    device = property(lambda self: self.view.device)
    key = property(lambda self: self.view.key)

    def student(self, trial: Trial, progress: Progress) -> Network:
        return self.view.student(replace(trial, recipe=RECIPE), progress)

    def prepared(self, question: Question) -> Mapping[str, Tensor]:
        return self.view.prepared(question)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, r"evaluate\.membership\.images: must be at least 1"),
        ({"shadows": 3}, r"evaluate\.membership\.shadows: must be at least 4"),
        ({"pool": 999}, r"evaluate\.membership\.pool: must be at least 1000"),
        ({"students": 0}, r"evaluate\.membership\.students: must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        MembershipConfig(**changes)


def test_the_probe_is_asked_for_by_its_name() -> None:
    assert EvaluateConfig(probes=("membership",)).askers() == {"membership": MembershipConfig()}


@pytest.mark.slow
def test_a_run_answers_and_does_not_ask_again(tmp_path) -> None:
    changes = {"evaluate.probes": ["membership"], "evaluate.membership": {"images": 60, "pool": 100, "shadows": 4}}
    run = small_run(tmp_path, changes)
    assert run.does("run") == 0
    table = records.read_probes(Folder.at(run.out) / "results")
    assert table["status"].to_pylist() == ["ok"] * 7
    for row in table.to_pylist():
        measured = dict(row["metrics"])
        assert measured["lira_online"] == (row["subject"] == "full") and 0 <= row["test_accuracy"] <= 1
        assert all(0 <= measured[f"{attack}_auc"] <= 1 for attack in ("loss", "lira"))
    assert len(list((run.out / "work" / "probes").iterdir())) == 8
    before = run.artefacts()
    assert run.does("run") == 0 and run.artefacts() == before
