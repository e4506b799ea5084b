"""Continual learning: the protocol against a plain loop, planted memories, runs on some classes, and joined sets."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raydd import api
from raydd import data as datasets
from raydd.core.errors import ArtefactError, ConfigError, UserError
from raydd.core.keyed_random import Key, permutation, seeded
from raydd.core.progress import NoProgress
from raydd.data import DataConfig, prepared
from raydd.data.loading import class_names, undecoded
from raydd.data.prepared import PreparedData
from raydd.evaluation import records
from raydd.evaluation.probes.continual import ContinualConfig, class_tasks, curves, forgetting, seen_only, set_bytes
from raydd.evaluation.probes.probe import Question, View
from raydd.evaluation.students.training import TrainingSet, training_on
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.view_labels import HardLabels
from raydd.networks import Network, build
from raydd.networks.config import NetworkConfig
from raydd.pipeline.runs.run import LOCK
from raydd.sets.joining import ABSENT, joined
from raydd.storage import Folder
from raydd.storage.lock import locked
from raydd.training.loop import predict
from raydd.training.recipe import Recipe
from raydd.training.views import ImageViews, ViewsConfig
from tests.sets.test_synthetic import assert_bits, example, preprocessing
from tests.support.small import SmallRun, image_folder, raydd, small_run
from tests.support.tiny import CPU, data, randn

KEY = Key.root(0)
RECIPE = Recipe(epochs=4, lr=0.05, momentum=0.9, batch_size=8, augmentation="none")
VIEWS = ViewsConfig(mix="cutmix")
NETWORK = NetworkConfig(depth=1, width=4)


def trial(subject: str, **changes: object) -> Trial:
    values = {"labels": "hard", "network": NETWORK, "recipe": RECIPE, "student_seed": 0, **changes}
    return Trial(subject=subject, **values)


class Teacher:
    teacher_forwards = 0

    def __call__(self, key: Key, epoch: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("knows the classes to come")


@dataclass(frozen=True)
class Tiny(View):
    """The tiny data; the set holds so many of them of every class, in their order."""

    per_class: int
    soft: Tensor | None = None
    """Label logits of the set's images."""
    taught: bool = False
    """Whether a teacher labels views of them, who is not to be asked."""
    data: PreparedData = data()
    device: torch.device = CPU
    key: Key = KEY

    def training_set(self, trial: Trial) -> TrainingSet:
        real = self.data.train
        rows = torch.arange(len(real) if trial.subject == "full" else 3 * self.per_class)
        labels = real.labels[rows]
        return TrainingSet(
            images=real.images[rows],
            targets=labels if self.soft is None else self.soft,
            classes=None if self.soft is None else labels,
            learned_lr=None,
            images_per_class=self.per_class,
            bytes_total=10**6,
            views=Teacher() if self.taught else None,
        )

    def observer(self) -> Network:
        with seeded(KEY):
            return build(NETWORK, self.data.shape, self.data.num_classes).eval()

    def prepared(self, question: Question) -> dict[str, Tensor]:
        return dict(ContinualConfig().prepare(question, self, NoProgress()))


def answers(config: ContinualConfig, view: View, recipe: Recipe = RECIPE) -> dict[str, dict[str, float]]:
    trials = [trial(subject, recipe=recipe) for subject in ("synthetic", "full")]
    asked = config.questions(trials)
    return {one.variant: dict(config.answer(one, view, NoProgress()).metrics) for one in asked}


def by_hand(config: ContinualConfig, view: Tiny, order: int) -> tuple[list[float], float]:
    """Accuracies after each step, and forgetting, image by image."""
    arrived = permutation(KEY.child("continual", "order", order), 3).tolist()
    test, train = view.data.test, view.data.train
    steps: list[float] = []
    of_task: list[dict[int, float]] = []
    for step in range(1, 4):
        seen = sorted(arrived[:step])
        rows = [row for row in range(3 * view.per_class) if int(train.labels[row]) in seen]
        targets = torch.tensor([seen.index(int(train.labels[row])) for row in rows])
        if view.soft is not None:
            targets = torch.stack([torch.stack([view.soft[row, label] for label in seen]) for row in rows])
        key = Key.root(order).child("student")
        with seeded(key.child("init")):
            network = build(NETWORK, (1, 8, 8), len(seen))
        learned = TrainingSet(
            images=train.images[torch.tensor(rows)],
            targets=targets,
            learned_lr=None,
            images_per_class=view.per_class,
            bytes_total=0,
        )
        if view.taught:
            drawn = ImageViews(learned.images, view.data.preprocessing, VIEWS)
            learned = replace(learned, views=HardLabels(drawn, targets, len(seen)))
        recipe = replace(RECIPE, views=VIEWS if view.taught else None)
        training = training_on(learned, recipe, [network], [key], 0, False)
        for epoch in range(RECIPE.epochs):
            training.run_epoch(epoch)
        guesses = predict(network, test.images)
        right: dict[int, list[bool]] = {label: [] for label in seen}
        for guess, label in zip(guesses, test.labels.tolist(), strict=True):
            if label in seen:
                right[label].append(seen[int(guess.argmax())] == label)
        steps.append(np.mean(sum(right.values(), [])))
        of_task.append({label: float(np.mean(told)) for label, told in right.items()})
    lost = []
    for place, label in enumerate(arrived[:-1]):
        lost.append(max(at[label] for at in of_task[place:-1]) - of_task[-1][label])
    return steps, float(np.mean(lost))


@pytest.mark.parametrize("labels", ["hard", "soft", "taught"])
def test_the_protocol_is_that_of_a_plain_loop(labels) -> None:
    config = ContinualConfig(steps=3, orders=2, memories=())
    soft = 2 * randn(5, 6, 3, dtype=torch.float32) if labels == "soft" else None
    view = Tiny(2, soft, taught=labels == "taught")
    recipe = replace(RECIPE, temperature=20.0, views=VIEWS) if view.taught else RECIPE
    found = answers(config, view, recipe)
    for order in range(2):
        steps, lost = by_hand(config, view, order)
        own = found[f"set {order}"]
        assert [own[f"accuracy_of_{count}_classes"] for count in (1, 2, 3)] == pytest.approx(steps, abs=1e-12)
        assert own["average_accuracy"] == pytest.approx(np.mean(steps), abs=1e-12)
        assert own["forgetting"] == pytest.approx(lost, abs=1e-12)
        assert own["final_accuracy"] == own["accuracy_of_3_classes"]


def test_a_memory_that_is_all_the_data_forgets_next_to_nothing() -> None:
    """And is, image for image, the upper bound; one image a class, of a learner that sees each once, is not."""
    config = ContinualConfig(steps=3, orders=2, memories=("full",))
    everything, little = (
        answers(config, Tiny(12), replace(RECIPE, epochs=20)),
        answers(replace(config, memories=()), Tiny(1)),
    )
    for order in range(2):
        whole, bound = everything[f"set {order}"], everything[f"full {order}"]
        measured = [name for name in whole if name.startswith(("accuracy", "average", "final", "forgetting"))]
        assert [whole[name] for name in measured] == [bound[name] for name in measured]
        assert abs(whole["forgetting"]) <= 0.1 and whole["final_accuracy"] >= 0.9
        assert whole["final_accuracy"] > little[f"set {order}"]["final_accuracy"]
    assert np.mean([little[f"set {order}"]["forgetting"] for order in range(2)]) > 0.2


@pytest.mark.slow
def test_all_the_digits_are_a_memory_that_forgets_next_to_nothing(tmp_path) -> None:
    """And one random digit a class is none."""
    changes = {"evaluate.probes": ["continual"], "evaluate.baselines": ["full"], "evaluate.full_epochs": 30}
    probe = {"orders": 2, "epochs": 30, "memories": ["full", "random"]}
    run = half_run(tmp_path, list(range(10)), **changes, **{"evaluate.continual": probe})
    assert run.does("probe", "--data.train-limit-per-class", 100, "--network.width", 16, "--network.depth", 2) == 0
    found = {curve.memory: curve for curve in curves(records.read_probes(Folder.at(run.out) / "results"))}
    assert found["full"].classes == (2, 4, 6, 8, 10) and found["full"].memory_images > 900
    assert abs(found["full"].forgetting[0]) < 0.05 and found["full"].final[0] > 0.9
    assert found["random"].forgetting[0] > 0.08 and found["random"].final[0] < 0.8


def test_memories_of_as_many_images_and_of_as_many_bytes() -> None:
    view = Tiny(1, randn(5, 3, 3, dtype=torch.float32))
    learned = view.training_set(trial("synthetic"))
    assert set_bytes(learned) == 3 * (64 * 4 + 3 * 4)
    assert set_bytes(replace(learned, bytes_total=500)) == 500
    assert set_bytes(replace(learned, metrics={"bytes.images": 400.0})) == 400
    found = answers(ContinualConfig(steps=2, orders=1), view)
    per_class = 268 // (64 + 8)
    assert per_class == 3
    for kind in ("random", "herding"):
        assert found[f"{kind} 0"]["memory_images"] == 3 and found[f"{kind} 0"]["memory_bytes"] == 3 * 72
        same = found[f"{kind}_bytes 0"]
        assert same["memory_images"] == 3 * per_class and same["memory_bytes"] == 3 * per_class * 72
        assert same["memory_bytes"] <= found["set 0"]["memory_bytes"] == 804


def test_herding_brings_the_mean_of_the_features_to_that_of_the_class() -> None:
    view, config = Tiny(4), ContinualConfig()
    (asked,) = config.preparations([trial("synthetic"), trial("full")])
    ranks = config.prepare(asked, view, NoProgress())
    real, network = view.data.train, view.observer()
    for label in range(3):
        rows = [row for row in range(len(real)) if int(real.labels[row]) == label]
        with torch.no_grad():
            seen = np.stack([network.features(real.images[torch.tensor([row])])[0].numpy() for row in rows])
        seen, chosen = seen.astype(np.float64), list[int]()
        for count in range(1, len(rows) + 1):
            left = [place for place in range(len(rows)) if place not in chosen]
            distances = [np.linalg.norm(seen[[*chosen, place]].sum(0) / count - seen.mean(0)) for place in left]
            chosen.append(left[int(np.argmin(distances))])
        assert [rows[place] for place in chosen] == ranks[f"ranks.{label}"].tolist()[: len(chosen)]
    assert not ContinualConfig(memories=("random",)).preparations([trial("synthetic")])


def test_forgetting_by_hand() -> None:
    nan = float("nan")
    measured = torch.tensor([[0.9, nan, nan], [0.95, 0.8, nan], [0.5, 0.9, 0.7]], dtype=torch.float64)
    assert forgetting(measured) == pytest.approx(((0.95 - 0.5) + (0.8 - 0.9)) / 2, abs=1e-15)
    assert forgetting(torch.ones(1, 1, dtype=torch.float64)) == 0


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 5))
def test_tasks_share_the_classes_out(classes, steps, seed) -> None:
    tasks = class_tasks(Key.root(seed), classes, steps)
    assert sorted(torch.cat(tasks).tolist()) == list(range(classes))
    sizes = [len(task) for task in tasks]
    assert len(tasks) == min(steps, classes) and max(sizes) - min(sizes) <= 1


def test_what_is_seen_of_a_memory() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 2, 2)
    labels = torch.tensor([3, 0, 1, 3, 2])
    memory = TrainingSet(images=images, targets=labels, learned_lr=None, images_per_class=1, bytes_total=1)
    seen = seen_only(memory, torch.tensor([1, 3]))
    assert seen.images[:][:, 0, 0, 0].tolist() == [0, 2, 3] and seen.targets.tolist() == [1, 0, 1]
    logits = randn(1, 5, 4, dtype=torch.float32)
    soft = seen_only(replace(memory, targets=logits, classes=labels), torch.tensor([1, 3]))
    assert soft.classes is not None and soft.classes.tolist() == [1, 0, 1]
    assert torch.equal(soft.targets, logits[[0, 2, 3]][:, [1, 3]])


def test_what_cannot_be_measured_is_refused() -> None:
    for wrong in ({"steps": 1}, {"orders": 0}, {"epochs": 0}, {"memories": ("random", "random")}):
        with pytest.raises(ConfigError, match=f"evaluate.continual.{next(iter(wrong))}"):
            ContinualConfig(**wrong)
    with pytest.raises(ConfigError, match="evaluate.baselines"):
        ContinualConfig(memories=("full",)).questions([trial("synthetic")])


SPLIT = ([8, 0, 3, 5, 7], [1, 2, 4, 6, 9])
"""Numbers of digits in two runs; joined, their classes alternate."""


def half_run(folder: Path, classes: list[int], **changes: object) -> SmallRun:
    """DM on some of the digits, without experts."""
    folder.mkdir(exist_ok=True)
    method = {"name": "dm", "images_per_class": 1, "iterations": 2, "image_lr": 1.0, "real_batch_size": 8}
    return small_run(
        folder,
        {
            "data": {"source": "digits", "train_limit_per_class": 30, "preprocess": "none", "classes": classes},
            "network": {"width": 4, "depth": 1},
            "method": {**method, "augmentation": "none"},
            "evaluate.recipe.lr": 0.05,
            "evaluate.baselines": ["init"],
            **changes,
        },
    )


def test_a_run_is_asked_and_its_curves_are_drawn_up(tmp_path) -> None:
    probe = {"steps": 2, "orders": 2, "memories": ["random_bytes", "herding"]}
    run = half_run(tmp_path, [1, 4, 6], **{"evaluate.probes": ["continual"], "evaluate.continual": probe})
    assert run.does("evaluate") == 0 and run.does("probe") == 0
    table = records.read_probes(Folder.at(run.out) / "results")
    assert set(table["status"].to_pylist()) == {"ok"}, table["error"].to_pylist()
    rows = {row["variant"]: dict(row["metrics"]) for row in table.to_pylist()}
    assert rows.keys() == {f"{kind} {order}" for kind in ("set", "random_bytes", "herding") for order in range(2)}
    students = api.results(run.out).to_pylist()
    (student,) = [row for row in students if row["subject"] == "synthetic" and row["probe"] is None]
    assert rows["set 0"]["final_accuracy"] == student["test_accuracy"]
    assert rows["random_bytes 0"]["memory_bytes"] <= rows["set 0"]["memory_bytes"]
    found = {curve.memory: curve for curve in curves(table)}
    for kind, curve in found.items():
        assert curve.count == 2 and curve.classes == (2, 3) and curve.dataset == "digits"
        own = [rows[f"{kind} {order}"] for order in range(2)]
        finals = [of["accuracy_of_3_classes"] for of in own]
        assert curve.accuracy[1] == pytest.approx(np.mean(finals)) and curve.accuracy_std is not None
        assert curve.accuracy_std[1] == pytest.approx(np.std(finals, ddof=1))
        assert curve.final == (curve.accuracy[1], curve.accuracy_std[1])
        lost = [of["forgetting"] for of in own]
        assert curve.forgetting == pytest.approx((np.mean(lost), np.std(lost, ddof=1)))
    before = run.artefacts()
    assert run.does("probe") == 0 and run.artefacts() == before


def test_some_classes_of_a_dataset() -> None:
    full = datasets.load(DataConfig(), KEY)
    some = datasets.load(DataConfig(classes=(7, "3", 1)), KEY)
    assert some.train.class_names == some.test.class_names == ("1", "3", "7")
    for part, whole in ((some.train, full.train), (some.test, full.test)):
        rows = [row for row, label in enumerate(whole.labels.tolist()) if label in (1, 3, 7)]
        assert torch.equal(part.images, whole.images[rows])
        assert part.labels.tolist() == [(1, 3, 7).index(int(whole.labels[row])) for row in rows]
    size = datasets.size_of(DataConfig(source="cifar10", root="/nowhere", classes=("cat", 1)))
    assert size is not None and (size.num_train, size.num_test, size.num_classes) == (10_000, 2_000, 2)
    for wrong, named in (((0, 10), "no class 10"), ((0, "zero"), "no class 'zero'"), ((1, "1"), "names 1 twice")):
        with pytest.raises(ConfigError, match=f"data.classes: .*{named}"):
            datasets.load(DataConfig(classes=wrong), KEY)
    for wrong in ((1,), (1, 1)):
        with pytest.raises(ConfigError, match="data.classes"):
            DataConfig(classes=wrong)


def test_some_classes_of_files(tmp_path) -> None:
    config = DataConfig(source="imagefolder", root=str(image_folder(tmp_path, 4, 2)), classes=("rows", "checks"))
    files = undecoded(config, KEY)
    assert class_names(config) == ("checks", "rows")
    assert files.paths() == [f"train/{name}/{number:03d}.png" for name in ("checks", "rows") for number in range(4)]
    loaded = datasets.load(config, KEY).train
    assert torch.equal(files.decode(torch.tensor([1, 5]), 3), loaded.images[[1, 5]])
    assert loaded.labels.tolist() == [0] * 4 + [1] * 4
    folder, streamed = Folder.at(tmp_path / "kept"), replace(config, streaming="on")
    prepared.save(prepared.prepare(streamed, KEY), folder, "key")
    again, resident = prepared.open_saved(folder, "key"), prepared.prepare(config, KEY)
    assert again is not None and again.class_names == ("checks", "rows")
    for split in ("train", "test"):
        own, other = getattr(again, split), getattr(resident, split)
        assert torch.equal(own.labels, other.labels) and torch.equal(own.images[:], other.images[:])


def test_classes_by_flag(tmp_path, capsys) -> None:
    run = half_run(tmp_path, [0, 1])
    assert raydd("show", run.file, "--data.classes", 2, "three", 4) == 2
    assert "no class 'three'" in capsys.readouterr().err
    assert raydd("show", run.file, "--config", "--data.classes", 2, 3, 4) == 0
    assert "- 2\n  - 3\n  - 4" in capsys.readouterr().out


def test_classes_are_appended_to_a_set(tmp_path, capsys) -> None:
    runs = [half_run(tmp_path / str(number), classes) for number, classes in enumerate(SPLIT)]
    assert all(run.does("distill") == 0 for run in runs)
    parts = [api.load(run.out).synthetic for run in runs]
    with locked(Folder.at(tmp_path / "all"), LOCK):
        assert raydd("append", runs[1].out, runs[0].out, "--to", tmp_path / "all") == 2
    assert not (tmp_path / "all" / "synthetic").exists() and "10 images" not in capsys.readouterr().out
    assert raydd("append", runs[1].out, runs[0].out, "--to", tmp_path / "all") == 0
    assert "10 images of 10 classes" in capsys.readouterr().out
    whole = api.load(tmp_path / "all")
    assert whole.class_names == tuple("0123456789") and whole.synthetic.labels.tolist() == list(range(10))
    for part in parts:
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            assert_bits(whole.synthetic.images[int(part.class_names[label])], image)
    card = whole.synthetic.card
    assert [one["classes"] for one in card["appended"]] == [list("12469"), list("03578")]
    assert card["data"]["classes"] is None and card["method"]["name"] == "dm"
    config = DataConfig(train_limit_per_class=30, preprocess="none")
    (record,) = api.evaluate(whole, config, network=NETWORK, num_students=1)
    assert record.num_images == 10 and 0 <= (record.test_accuracy or -1) <= 1
    api.export(tmp_path / "all", "pt", tmp_path / "pt")
    assert_bits(torch.load(tmp_path / "pt" / "images_best.pt", weights_only=True), whole.synthetic.images)
    assert json.loads((tmp_path / "pt" / "card.json").read_text())["class_names"] == list("0123456789")
    assert raydd("append", runs[1].out, runs[0].out, "--to", tmp_path / "all") == 2
    assert raydd("append", runs[0].out, runs[0].out, "--to", tmp_path / "twice") == 2
    with pytest.raises(UserError, match="two sets"):
        api.append(runs[0].out, to=tmp_path / "one")
    assert not (tmp_path / "twice").exists() and not (tmp_path / "one").exists()


def test_classes_are_appended_to_an_appended_set(tmp_path) -> None:
    runs = [half_run(tmp_path / str(number), classes) for number, classes in enumerate(([5, 0], [8, 2], [1, 3]))]
    assert all(run.does("distill") == 0 for run in runs)
    api.append(runs[0].out, runs[1].out, to=tmp_path / "four")
    four = api.load(tmp_path / "four")
    assert four.class_names == tuple("0258") and four.synthetic.card["data"]["classes"] == list("0258")
    api.append(tmp_path / "four", runs[2].out, to=tmp_path / "six")
    at_once = joined({str(run.out): api.load(run.out).synthetic for run in runs}, "012358")
    six = api.load(tmp_path / "six").synthetic
    assert_bits(six.images, at_once.images)
    assert_bits(six.labels, at_once.labels)
    assert six.class_names == at_once.class_names


def test_soft_labels_know_nothing_of_other_classes() -> None:
    first = example()
    other = replace(example(stage=0), class_names=("dog", "elk"), labels=torch.tensor([0, 1, 0, 1, 0, 1]))
    other = replace(other, soft_labels=randn(7, 6, 2, dtype=torch.float32), learned_lr=(0.02,))
    names = ("ant", "dog", "bee", "cat", "elk")
    whole = joined({"a": first, "b": other}, names)
    assert whole.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert whole.soft_labels is not None and first.soft_labels is not None and other.soft_labels is not None
    assert torch.equal(
        whole.soft_labels[0],
        torch.tensor([0, ABSENT, 0, 0, ABSENT]) + first.soft_labels[0, [0, 0, 1, 2, 0]] * torch.tensor([1, 0, 1, 1, 0]),
    )
    for temperature in (1.0, 20.0):
        dog = (whole.soft_labels[2] / temperature).softmax(0)
        assert dog[[0, 2, 3]].tolist() == [0, 0, 0]
        assert torch.allclose(dog[[1, 4]], (other.soft_labels[0] / temperature).softmax(0))
    assert whole.learned_lr == pytest.approx(((0.0123456789 + 0.02) / 2,))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_names": ("dog", "elk", "bee")}, "has the class bee, as a has"),
        ({"soft_labels": None}, "what labels are"),
        ({"learned_lr": (None,)}, "whether step sizes were learned"),
        ({"learned_lr": (0.1, 0.2)}, "number of stages"),
        ({"preprocessing": preprocessing("none")}, "data.statistics: literature"),
        ({"images": torch.zeros(6, 3, 4, 4)}, "shape of the images"),
        ({"card": {"recipe": {"epochs": 5}}}, "the students' recipe"),
    ],
)
def test_sets_that_do_not_go_together_are_refused(changes, named) -> None:
    other = replace(example(), **{"class_names": ("dog", "elk", "fox"), **changes})
    with pytest.raises(ArtefactError, match=f"b: .*{named}"):
        joined({"a": example(), "b": other}, ("ant", "bee", "cat", "dog", "elk", "fox"))
