"""raydd from Python: run, load, evaluate, export, results."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import raydd
from raydd import api, networks
from raydd import config as configs
from raydd import data as datasets
from raydd.core.errors import ArtefactError, ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.core.progress import Numbers, Work
from raydd.data import DataConfig
from raydd.data.fit_preprocessing import fit_zca
from raydd.data.prepared import prepare
from raydd.evaluation.record import SCHEMA
from raydd.ingredients.setting import build_seeded
from raydd.networks.config import NetworkConfig
from raydd.sets.synthetic import SyntheticSet
from raydd.training.loop import accuracy, predict
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig
from tests.support.small import (
    STUDENTS,
    UPDATES,
    SmallRun,
    finished_run,
    flip,
    image_folder,
    picture_run,
    small_run,
    state,
)
from tests.support.tiny import randn


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def pictures() -> SmallRun:
    return picture_run("mtt", "zca", 0.2)


class Counting:
    """A progress that counts what it is told."""

    def __init__(self) -> None:
        self.updates = 0

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        self.updates += 1


def test_run_makes_everything_that_a_config_names(tmp_path: Path) -> None:
    small, progress = small_run(tmp_path), Counting()
    folder = raydd.run(small.file, ray=False, progress=progress)
    assert folder.path == small.out and progress.updates >= sum(UPDATES.values())
    assert len(raydd.results(small.out)) == STUDENTS and len(raydd.load(small.out)) == 10
    assert (small.out / "report.html").exists()


def test_run_takes_a_config_too(digits: SmallRun) -> None:
    before = digits.artefacts()
    config = configs.load(str(digits.file))
    raydd.run(config, ray=False)
    assert digits.artefacts() == before
    more = replace(config, evaluate=replace(config.evaluate, num_students=2))
    raydd.run(more, ray=False)
    assert len(raydd.results(digits.out)) == 2 * STUDENTS - 1


def test_run_raises_what_the_command_line_prints(digits: SmallRun) -> None:
    before = state(digits.out)
    config = configs.load(str(digits.file))
    with pytest.raises(ConfigError, match=r"^method\.image_lr: is 2\.0, but .*/synthetic was made with 1\.0; "):
        raydd.run(replace(config, method=replace(config.method, image_lr=2.0)), ray=False)
    assert state(digits.out) == before


def test_a_loader_takes_the_set_with_soft_labels(digits: SmallRun) -> None:
    dataset = raydd.load(digits.out)
    loader = DataLoader(dataset, batch_size=4)
    batches = list(loader)
    images = torch.cat([batch for batch, _ in batches])
    targets = torch.cat([target for _, target in batches])
    assert images.shape == (10, 1, 8, 8) and images.dtype == torch.float32
    assert targets.shape == (10, 10) and targets.dtype == torch.float32
    assert torch.equal(images, dataset.synthetic.images)
    assert dataset.synthetic.soft_labels is not None and torch.equal(targets, dataset.synthetic.soft_labels)
    assert dataset.class_names == tuple("0123456789")


def test_a_loader_takes_the_set_with_hard_labels() -> None:
    images, targets = next(iter(DataLoader(raydd.load(pictures().out), batch_size=3)))
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
    assert targets.dtype == torch.int64 and targets.tolist() == [0, 1, 2]


def test_recipe_and_step_size_come_with_the_set(digits: SmallRun) -> None:
    dataset = raydd.load(digits.out)
    last = json.loads((digits.out / "metrics" / "distill-000.jsonl").read_text().splitlines()[-1])
    assert dataset.recipe == Recipe(epochs=5, lr=None, momentum=0.9, batch_size=32, augmentation="none")
    assert dataset.learned_lr == last["learned_lr"] != 0.05


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """The pictures below a folder, float32 [N, C, H, W] in [0, 1], and their classes, by hand."""
    classes = sorted(path.name for path in folder.iterdir())
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(file)) for file, _ in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, torch.tensor([label for _, label in files])


def test_a_student_trained_by_hand_on_the_set_knows_real_images() -> None:
    run = pictures()
    dataset = raydd.load(run.out)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        for images, targets in DataLoader(dataset, batch_size=3, shuffle=True):
            optimizer.zero_grad()
            cross_entropy(student(images), targets).backward()
            optimizer.step()
    images, labels = read(run.file.parent / "pictures" / "test")
    guessed = student(dataset.preprocessing.forward(images)).argmax(1)
    assert float((guessed == labels).double().mean()) > 0.8


SMALL = NetworkConfig(width=8, depth=2)


def real_digits(recipe: Recipe, per_class: int = 5, soft: bool = False) -> SyntheticSet:
    """The first whitened training digits of each class as if they were distilled."""
    train = datasets.load(DataConfig(train_limit_per_class=20), Key.root(0)).train
    rows = torch.cat([(train.labels == label).nonzero()[:per_class, 0] for label in range(10)])
    preprocessing, labels = fit_zca(train.images), train.labels[rows]
    return SyntheticSet(
        images=preprocessing.forward(train.images[rows]),
        labels=labels,
        soft_labels=4.0 * torch.eye(10)[labels] if soft else None,
        stage=torch.zeros(len(rows), dtype=torch.int32),
        learned_lr=(0.1,),
        class_names=train.class_names,
        preprocessing=preprocessing,
        card={"recipe": asdict(recipe)},
    )


def accuracies(dataset: raydd.DistilledDataset, num_students: int, network: NetworkConfig = SMALL) -> list[float]:
    found = raydd.evaluate(dataset, DataConfig(), network=network, num_students=num_students)
    assert [record.error for record in found] == [None] * num_students
    return [record.test_accuracy or 0.0 for record in found]


def test_a_plain_loop_reaches_what_evaluate_reaches() -> None:
    recipe = Recipe(epochs=12, lr=None, momentum=0.9, batch_size=10, schedule="cosine", augmentation="none")
    dataset = raydd.DistilledDataset(real_digits(recipe, soft=True))
    test = datasets.load(DataConfig(), Key.root(0)).test
    images = torch.stack([dataset.transform(Image.fromarray(pixels)) for pixels in test.images[:, 0].numpy()])
    network, reached = NetworkConfig(name="mlp"), []
    for seed in range(5):
        torch.manual_seed(seed)
        student = networks.build(network, (1, 8, 8), 10)
        optimizer = torch.optim.SGD(student.parameters(), lr=1.0, momentum=dataset.recipe.momentum)
        for epoch in range(dataset.recipe.epochs):
            optimizer.param_groups[0]["lr"] = dataset.lr_at(epoch)
            for batch, targets in DataLoader(dataset, batch_size=dataset.recipe.batch_size, shuffle=True):
                optimizer.zero_grad()
                dataset.loss(student(batch), targets).backward()
                optimizer.step()
        reached.append(accuracy(predict(student, images), test.labels))
    wanted = accuracies(dataset, 5, network)
    spread = ((stdev(reached) ** 2 + stdev(wanted) ** 2) / 5) ** 0.5
    assert fmean(wanted) > 0.6 and abs(fmean(reached) - fmean(wanted)) < 3 * spread + 0.01


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=6, lr=None, momentum=0.9, batch_size=16, schedule="step"),
        Recipe(epochs=3, lr=0.02, batch_size=16, augmentation="none", temperature=4.0, views=ViewsConfig()),
    ],
    ids=["augmented", "views"],
)
def test_train_trains_the_students_of_evaluate(recipe: Recipe) -> None:
    dataset = raydd.DistilledDataset(real_digits(recipe))
    data, progress = replace(prepare(DataConfig(), Key.root(0)), preprocessing=dataset.preprocessing), Counting()
    test = datasets.load(DataConfig(), Key.root(0)).test
    for seed, wanted in enumerate(accuracies(dataset, 2)):
        student = build_seeded(SMALL, data, Key.root(seed).child("student").child("init"))
        dataset.train(student, seed=seed, progress=progress)
        assert not student.training
        assert accuracy(predict(student, dataset.transform(test.images)), test.labels) == wanted
    assert progress.updates == 2 * recipe.epochs


def test_train_by_another_recipe() -> None:
    dataset = raydd.DistilledDataset(replace(real_digits(Recipe(lr=None), 1), learned_lr=(None,)))
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ConfigError, match="^lr: this set has learned no step size"):
        dataset.train(student)
    with pytest.raises(ConfigError, match=r"^recipe\.lr: neither the recipe nor the set has a step size"):
        dataset.lr_at(0)
    dataset.train(student, recipe=Recipe(epochs=30, lr=0.5, augmentation="none"))
    assert accuracy(predict(student, dataset.decoded.images), dataset.decoded.labels) == 1.0


def test_the_loss_fits_the_targets() -> None:
    logits, soft = randn(1, 5, 10, dtype=torch.float64), randn(2, 5, 10, dtype=torch.float64)
    hard = torch.tensor([3, 1, 4, 1, 5])
    for temperature, squares, factor in ((1.0, False, 1.0), (4.0, False, 1.0), (4.0, True, 16.0)):
        recipe = Recipe(temperature=temperature, squares_temperature=squares)
        dataset = raydd.DistilledDataset(real_digits(recipe, 1, soft=True))
        shares, p = ((x / temperature).exp() for x in (soft, logits))
        shares, p = shares / shares.sum(1, keepdim=True), p / p.sum(1, keepdim=True)
        torch.testing.assert_close(dataset.loss(logits, soft), -factor * (shares * p.log()).sum() / 5)
        plain = logits.exp() / logits.exp().sum(1, keepdim=True)
        torch.testing.assert_close(dataset.loss(logits, hard), -plain[range(5), hard].log().mean())
        of_classes = raydd.DistilledDataset(real_digits(recipe, 1))
        torch.testing.assert_close(of_classes.loss(logits, hard), -plain[range(5), hard].log().mean())
        torch.testing.assert_close(of_classes.loss(logits, soft), cross_entropy(logits, soft.softmax(1)))


def test_the_step_size_follows_the_schedule() -> None:
    def followed(**fields: Any) -> list[float]:
        dataset = raydd.DistilledDataset(real_digits(Recipe(epochs=6, **fields), 1))
        return [dataset.lr_at(epoch) for epoch in range(6)]

    assert followed(lr=None) == [0.1] * 6 and followed(lr=0.2) == [0.2] * 6
    assert followed(lr=1.0, schedule="step") == pytest.approx([1, 1, 1, 1, 0.1, 0.1])
    halves = [0.5 + 0.5 * np.cos(np.pi * epoch / 4) for epoch in range(4)]
    assert followed(lr=2.0, schedule="cosine", warmup_epochs=2) == pytest.approx([0.02, 1.01, *(2 * h for h in halves)])


def test_real_images_come_into_the_space_of_the_set() -> None:
    dataset = raydd.load(pictures().out)
    folder = pictures().file.parent / "pictures" / "test" / "rows"
    file = sorted(folder.iterdir())[0]
    pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    wanted = dataset.preprocessing.forward(pixels[None])
    assert torch.equal(dataset.transform(Image.open(file)), wanted[0])
    assert torch.equal(dataset.transform(pixels), wanted[0])
    assert torch.equal(dataset.transform(pixels[None]), wanted)
    torch.testing.assert_close(dataset.transform(pixels / 255), wanted[0])
    large = Image.open(file).resize((32, 48), Image.Resampling.NEAREST)
    middle = np.array(large.resize((16, 16), Image.Resampling.BILINEAR, box=(0, 8, 32, 40)))
    resized = dataset.preprocessing.forward(torch.from_numpy(middle).permute(2, 0, 1)[None])
    assert torch.equal(dataset.transform(large), resized[0])
    with pytest.raises(DataError, match=r"^the image is of \(3, 16, 8\), but those of the set are of \(3, 16, 16\)"):
        dataset.transform(pixels[:, :, :8])


def test_grey_images_that_were_opened_in_colour_are_grey_again(digits: SmallRun) -> None:
    dataset = raydd.load(digits.out)
    pixels = datasets.load(DataConfig(), Key.root(0)).test.images[7, 0]
    grey = Image.fromarray(pixels.numpy())
    wanted = dataset.preprocessing.forward(pixels[None, None])[0]
    assert torch.equal(dataset.transform(grey), wanted) and torch.equal(dataset.transform(grey.convert("RGB")), wanted)


def test_a_set_without_a_recipe() -> None:
    with pytest.raises(ArtefactError, match="the card of the set has no recipe"):
        raydd.DistilledDataset(replace(real_digits(Recipe()), card={}))


def test_export_makes_a_folder_that_load_takes(digits: SmallRun, tmp_path: Path) -> None:
    folder = api.export(digits.out, "parquet", tmp_path / "hub")
    assert folder.path == tmp_path / "hub"
    assert torch.equal(raydd.load(folder.path).synthetic.images, raydd.load(digits.out).synthetic.images)


def test_load_takes_any_folder_that_holds_a_set(digits: SmallRun) -> None:
    start, result = raydd.load(digits.out / "stages/000/init"), raydd.load(digits.out / "synthetic")
    assert len(start) == len(result) == 10 and start.learned_lr == pytest.approx(0.05)
    assert torch.equal(result.synthetic.images, raydd.load(str(digits.out)).synthetic.images)
    assert not torch.equal(start.synthetic.images, result.synthetic.images)


def test_load_of_nothing_and_of_a_damaged_set(digits: SmallRun, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", digits.out / "experts"):
        with pytest.raises(ArtefactError, match=str(folder)):
            raydd.load(folder)
    flip(digits.out / "synthetic" / "images-00000.parquet")
    with pytest.raises(ArtefactError, match="images-00000.parquet: the content is not what was written"):
        raydd.load(digits.out)


def test_evaluate_trains_the_students_that_the_run_trained(digits: SmallRun) -> None:
    before, config = state(digits.out), configs.load(str(digits.file))
    progress = Counting()
    found = raydd.evaluate(
        raydd.load(digits.out), config.data, network=config.network, num_students=2, progress=progress
    )
    rows = raydd.results(digits.out).to_pylist()
    (row,) = (row for row in rows if (row["subject"], row["labels"]) == ("synthetic", "stored"))
    same = "test_accuracy", "train_accuracy", "learned_lr", "epochs", "num_images", "method", "dataset", "network"
    assert {name: getattr(found[0], name) for name in same} == {name: row[name] for name in same}
    assert list(found[0].class_accuracy or ()) == row["class_accuracy"]
    assert [record.student_seed for record in found] == [0, 1] and found[1].test_accuracy != found[0].test_accuracy
    assert progress.updates == 10 and state(digits.out) == before


def test_evaluate_with_another_network_and_recipe(digits: SmallRun) -> None:
    (record,) = raydd.evaluate(
        raydd.load(digits.out),
        DataConfig(),
        network=NetworkConfig(name="mlp"),
        recipe=Recipe(epochs=3, lr=0.5, augmentation="none"),
        num_students=1,
    )
    assert (record.status, record.network, record.epochs, record.learned_lr) == ("ok", "mlp", 3, 0.5)


def test_evaluate_refuses_other_images_and_other_classes(digits: SmallRun, tmp_path: Path) -> None:
    dataset = raydd.load(digits.out)
    with pytest.raises(
        DataError, match=r"digits: has images of \(1, 16, 16\), but the set was distilled for \(1, 8, 8\)"
    ):
        raydd.evaluate(dataset, DataConfig(image_size=16))
    root = image_folder(tmp_path / "data", 2, 1)
    for split in ("train", "test"):
        (root / split / "rows").rename(root / split / "ranks")
    with pytest.raises(DataError, match="has the classes .*'ranks'.* but the set was distilled for .*'rows'"):
        raydd.evaluate(raydd.load(pictures().out), DataConfig(source="imagefolder", root=str(root), image_size=16))


def test_results_of_one_run_of_several_and_of_none(digits: SmallRun, tmp_path: Path) -> None:
    one, other = raydd.results(digits.out), raydd.results(pictures().out)
    assert one.schema.names == SCHEMA.names
    assert len(raydd.results(digits.out, str(pictures().out))) == len(one) + len(other)
    assert len(raydd.results(digits.out, digits.out)) == len(one)
    assert len(raydd.results(tmp_path / "nowhere")) == 0
    shutil.rmtree(digits.out / "work")
    assert raydd.results(digits.out).equals(one)


def test_importing_raydd_alone_is_light() -> None:
    program = "import sys, raydd; print([name for name in ('torch', 'ray', 'pyarrow') if name in sys.modules])"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert asked.stdout == "[]\n", asked.stderr
    with pytest.raises(AttributeError, match="'raydd' has no attribute 'fly'"):
        raydd.fly  # noqa: B018
