"""Attacks against closed forms and a float64 restatement by hand, and the planted cases: no room, and all the room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, permutation, uniform
from raydd.core.progress import NoProgress, Progress
from raydd.data.fit_preprocessing import fit_standardise, fit_zca
from raydd.data.images import Resident
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Identity, Preprocessing
from raydd.evaluation import records
from raydd.evaluation.probes.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from raydd.evaluation.probes.probe import Answer, Question, View
from raydd.evaluation.probes.robustness import RobustnessConfig, attacked
from raydd.evaluation.students.training import TrainingSet, student_training
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.training.recipe import Recipe
from tests.support.small import small_run
from tests.support.tiny import CPU, randn

KEY = Key.root(0)
RECIPE = Recipe(epochs=20, lr=0.05, momentum=0.9, batch_size=16, augmentation="none")
TRIAL = Trial(subject="full", labels="hard", network=NetworkConfig(width=8, depth=2), recipe=RECIPE, student_seed=0)
PREPROCESSINGS = ["none", "standardise", "zca"]


def splits(classes: int) -> tuple[Tensor, Tensor]:
    """Bytes of 3x8x8 images, a pattern a class under noise, and their classes: 60 of each class."""
    labels = torch.arange(classes).repeat(60)
    pixels = 128 + 25 * randn(0, classes, 3, 8, 8)[labels] + 25 * randn(1, len(labels), 3, 8, 8)
    return pixels.round().clamp(0, 255).to(torch.uint8), labels


@cache
def prepared(preprocess: str, classes: int = 3) -> PreparedData:
    pixels, labels = splits(classes)
    fitted: Mapping[str, Preprocessing] = {
        "none": Identity(),
        "standardise": fit_standardise(pixels),
        "zca": fit_zca(pixels),
    }
    seen = LabelledImages(Resident.of(pixels, fitted[preprocess]), labels)
    names = tuple("abcde"[:classes])
    return PreparedData("patterns", names, "0" * 64, fitted[preprocess], train=seen, test=seen)


@dataclass(frozen=True)
class Seen(View):
    """Some data and one student."""

    network: Network
    data: PreparedData = prepared("none")
    device: torch.device = CPU
    key: Key = KEY

    def student(self, trial: Trial, progress: Progress) -> Network:
        return self.network


@cache
def trained(preprocess: str) -> Network:
    data = prepared(preprocess)
    whole = TrainingSet(
        images=data.train.images, targets=data.train.labels, learned_lr=None, images_per_class=60, bytes_total=1
    )
    training = student_training([TRIAL], data, whole, CPU, compiled=False)
    for epoch in range(RECIPE.epochs):
        training.run_epoch(epoch)
    (network,) = training.modules
    assert isinstance(network, Network)
    return network.eval()


def linear(weights_DK: Tensor, bias_K: Tensor) -> Network:
    network = Network(nn.Identity(), *weights_DK.shape)
    network.load_state_dict({"head.weight": weights_DK.T.float(), "head.bias": bias_K.float()})
    return network.eval()


def answered(view: View, trial: Trial = TRIAL, **config: object) -> Answer:
    asked = Question(probe="robustness", trial=trial)
    return RobustnessConfig(**config).answer(asked, view, NoProgress())  # type: ignore[arg-type]


def in_pixels(preprocessing: Preprocessing, weights_DK: Tensor) -> Tensor:
    """What a linear map of images in network space multiplies pixels in 0..1 by: float64 [D, K]."""
    basis = torch.eye(len(weights_DK), dtype=torch.float64).view(-1, 3, 8, 8)
    zero = preprocessing.forward(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).flatten(1)
    return (preprocessing.forward(basis).flatten(1) - zero) @ weights_DK


@pytest.mark.parametrize("preprocess", PREPROCESSINGS)
def test_the_attack_on_a_linear_model_is_its_closed_form(preprocess: str) -> None:
    data, (pixels, labels) = prepared(preprocess, 2), splits(2)
    x, other = pixels.double() / 255, 1 - labels
    weights = 0.3 * randn(3, 192, 2)
    bias = -(data.preprocessing.forward(x).flatten(1) @ weights).mean(0)
    in_pixels_DK = in_pixels(data.preprocessing, weights)
    away = (in_pixels_DK.T[other] - in_pixels_DK.T[labels]).sign().view_as(x)

    def scores(moved: Tensor) -> Tensor:
        return data.preprocessing.forward(moved).flatten(1) @ weights + bias

    def robust(epsilon: float) -> float:
        worst = scores((x + epsilon * away).clamp(0, 1))
        right = (scores(x).argmax(1) == labels) & (worst.argmax(1) == labels)
        return float(right.double().mean())

    def classify(moved: Tensor) -> Tensor:
        return data.preprocessing.on(CPU, torch.float64)(moved).flatten(1) @ weights + bias

    start = 2 * uniform(KEY, torch.arange(len(x)), 192).double().view_as(x) - 1
    for epsilon in (2 / 255, 8 / 255, 0.3):
        found = attacked(classify, x, labels, epsilon, 20, start)
        assert torch.equal(found, (x + epsilon * away).clamp(0, 1))
    measured = answered(Seen(linear(weights, bias), data), epsilons=(1.0, 2.0, 8.0), corruptions=()).metrics
    wanted = {f"robust_accuracy_{epsilon}": robust(epsilon / 255) for epsilon in (1, 2, 8)}
    assert {name: measured[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert measured["robust_accuracy_2"] < measured["robust_accuracy_1"] < measured["clean_accuracy"]


def test_the_attack_is_that_of_the_paper() -> None:
    """Against gradients by hand, in float64, of a network with one layer of hyperbolic tangents."""
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(12, 6)), draw.normal(size=(6, 4))
    x, start = draw.random((9, 12)), draw.uniform(-1, 1, (9, 12))
    labels, epsilon, steps = draw.integers(0, 4, 9), 0.2, 7
    moved = (x + epsilon * start).clip(0, 1)
    for _ in range(steps):
        hidden = np.tanh(moved @ first)
        scores = np.exp(hidden @ second)
        wrong = scores / scores.sum(1, keepdims=True) - np.eye(4)[labels]
        gradient = (wrong @ second.T * (1 - hidden**2)) @ first.T
        moved = moved + 2.5 * epsilon / steps * np.sign(gradient)
        moved = np.clip(np.clip(moved, x - epsilon, x + epsilon), 0, 1)
    matrices = [torch.from_numpy(matrix) for matrix in (first, second)]
    found = attacked(
        lambda image: (image @ matrices[0]).tanh() @ matrices[1],
        torch.from_numpy(x),
        torch.from_numpy(labels),
        epsilon,
        steps,
        torch.from_numpy(start),
    )
    assert np.allclose(found.numpy(), moved, rtol=0, atol=1e-12)


@given(epsilon=st.floats(0, 1), steps=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_attack_stays_within_its_borders(epsilon: float, steps: int, seed: int) -> None:
    x, labels = (randn(seed, 4, 3) / 2 + 0.5).clamp(0, 1), torch.tensor([0, 1, 0, 1])
    weights = randn(seed + 1, 3, 2)
    moved = attacked(lambda image: image.square() @ weights, x, labels, epsilon, steps, randn(seed, 4, 3).clamp(-1, 1))
    assert ((moved - x).abs() <= epsilon + 1e-15).all() and moved.min() >= 0 and moved.max() <= 1


@pytest.mark.parametrize("preprocess", PREPROCESSINGS)
def test_no_room_changes_nothing_and_all_the_room_leaves_nothing(preprocess: str) -> None:
    data, network = prepared(preprocess), trained(preprocess)
    found = answered(Seen(network, data), epsilons=(0.0, 2.0, 8.0, 24.0, 255.0), corruptions=())
    measured = found.metrics
    with torch.no_grad():
        right = network(data.preprocessing.forward(splits(3)[0])).argmax(1) == data.test.labels
    assert measured["clean_accuracy"] == found.test_accuracy == float(right.double().mean()) > 0.9
    assert measured["robust_accuracy_0"] == measured["clean_accuracy"] and measured["robust_drop_0"] == 0
    assert measured["robust_accuracy_255"] == pytest.approx(0, abs=0.02)
    accuracies = [measured[f"robust_accuracy_{epsilon}"] for epsilon in (0, 2, 8, 24, 255)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert measured["robust_drop_24"] == measured["clean_accuracy"] - measured["robust_accuracy_24"] > 0.05


def test_the_attack_does_more_than_its_random_start() -> None:
    data, network = prepared("standardise"), trained("standardise")
    pixels, labels = splits(3)
    start = 2 * uniform(KEY, torch.arange(180), 192).view(pixels.shape) - 1
    epsilon = 24 / 255

    def right(x: Tensor) -> float:
        with torch.no_grad():
            return float((network(data.preprocessing.forward(x)).argmax(1) == labels).double().mean())

    begun = (pixels / 255 + epsilon * start).clamp(0, 1)
    measured = answered(Seen(network, data), epsilons=(24.0,), corruptions=()).metrics
    assert measured["robust_accuracy_24"] < right(begun) - 0.1


def test_who_is_wrong_anyway_is_not_put_right_by_an_attack() -> None:
    """A student that takes all for one class is not robust where it is wrong."""
    view = Seen(linear(torch.zeros(192, 3), torch.tensor([1.0, 0.0, 0.0])), prepared("none"))
    measured = answered(view, epsilons=(0.0, 255.0), corruptions=("fog",)).metrics
    assert {value for name, value in measured.items() if "accuracy" in name} == {1 / 3}
    assert {abs(value) for name, value in measured.items() if "drop" in name} == {0}


def test_corrupted_accuracies_are_of_the_same_drawn_images() -> None:
    data, network = prepared("standardise"), trained("standardise")
    config = {"images": 50, "epsilons": (2.0,), "corruptions": ("fog", "contrast", "impulse_noise")}
    found = answered(Seen(network, data), **config)
    key = KEY.child("robustness")
    rows = permutation(key.child("images"), 180)[:50].sort().values
    pixels, labels = splits(3)[0][rows], splits(3)[1][rows]

    def right(images: Tensor) -> float:
        with torch.no_grad():
            return float((network(data.preprocessing.forward(images)).argmax(1) == labels).double().mean())

    wanted = {
        kind: np.mean([right(corrupted(kind, pixels, own, key.child("corruptions"), rows)) for own in SEVERITIES])
        for kind in ("fog", "contrast", "impulse_noise")
    }
    assert len(set(wanted.values())) > 1
    assert {kind: found.metrics[f"{kind}_accuracy"] for kind in wanted} == pytest.approx(wanted)
    assert found.metrics["corrupted_accuracy"] == pytest.approx(np.mean(list(wanted.values())))
    assert found.metrics["clean_accuracy"] == right(pixels)
    assert found.metrics["corrupted_drop"] == pytest.approx(right(pixels) - found.metrics["corrupted_accuracy"])
    assert answered(Seen(network, data), **config) == found


def test_some_students_of_each_set_are_asked_about() -> None:
    other = NetworkConfig(name="mlp")
    trials = [
        replace(TRIAL, subject=subject, labels=labels, draw=draw, network=network, recipe=recipe, student_seed=seed)
        for subject, labels, draw in [("synthetic", "stored", 0), ("synthetic", "hard", 0), ("random", "hard", 1)]
        for network in (TRIAL.network, other)
        for recipe in (RECIPE, replace(RECIPE, augmentation="dsa"))
        for seed in range(4)
    ]
    chained = [replace(trial, mode="chain") for trial in trials]
    asked = RobustnessConfig(students=2).questions([*chained, *trials])
    assert [(q.trial.subject, q.trial.labels, q.trial.draw, q.trial.student_seed) for q in asked] == [
        (subject, labels, draw, seed)
        for subject, labels, draw in [("synthetic", "stored", 0), ("synthetic", "hard", 0), ("random", "hard", 1)]
        for seed in (0, 1)
    ]
    assert {(q.trial.mode, q.trial.network, q.trial.recipe.augmentation) for q in asked} == {
        ("single_shot", TRIAL.network, "none")
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("students", 0),
        ("images", 0),
        ("steps", 0),
        ("epsilons", ()),
        ("epsilons", (-1.0,)),
        ("epsilons", (256.0,)),
        ("epsilons", (float("nan"),)),
        ("epsilons", (2.0, 2.0)),
        ("corruptions", ("fog", "fog")),
    ],
)
def test_what_cannot_be_measured_is_refused(field: str, value: Sequence[object] | int) -> None:
    with pytest.raises(ConfigError) as refused:
        RobustnessConfig(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == f"evaluate.robustness.{field}"


def test_a_run_of_whitened_digits_has_a_record_a_student(tmp_path) -> None:
    changes = {
        "data.preprocess": "zca",
        "evaluate.probes": ["robustness"],
        "evaluate.labels": ["hard"],
        "evaluate.baselines": ["full"],
        "evaluate.full_epochs": 20,
        "evaluate.robustness": {"images": 100, "epsilons": [0, 8, 255]},
    }
    run = small_run(tmp_path, changes)
    assert run.does("run") == 0
    rows = records.read_probes(Folder.at(run.out / "results")).to_pylist()
    assert {(row["subject"], row["labels"], row["status"]) for row in rows} == {
        (subject, "hard", "ok") for subject in ("synthetic", "full")
    }
    students = {row["subject"]: row for row in records.read(Folder.at(run.out / "results")).to_pylist()}
    for row in rows:
        measured = dict(row["metrics"])
        assert row["test_accuracy"] == students[row["subject"]]["test_accuracy"]
        assert measured["robust_accuracy_0"] == measured["clean_accuracy"] > measured["robust_accuracy_255"] <= 0.02
        assert {f"{kind}_accuracy" for kind in CORRUPTIONS} < measured.keys()
    best = next(dict(row["metrics"]) for row in rows if row["subject"] == "full")
    assert best["clean_accuracy"] > 0.5 and best["corrupted_drop"] > 0
