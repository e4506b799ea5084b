"""raydd from Python: run, load, evaluate, results."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import STUDENTS, UPDATES, SmallRun, finished_run, flip, image_folder, picture_run, small_run, state
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import raydd
from raydd import config as configs
from raydd.datasets import DataConfig
from raydd.errors import ArtefactError, ConfigError, DataError
from raydd.evaluation.records import SCHEMA
from raydd.networks import NetworkConfig
from raydd.training import Recipe


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def pictures() -> SmallRun:
    return picture_run("mtt", "zca", 0.2)


class Counting:
    """A progress that counts what it is told."""

    def __init__(self) -> None:
        self.updates = 0

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
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
    (row,) = (row for row in raydd.results(digits.out).to_pylist() if row["subject"] == "synthetic")
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
        raydd.evaluate(raydd.load(pictures().out), DataConfig(source="imagefolder", root=str(root)))


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
