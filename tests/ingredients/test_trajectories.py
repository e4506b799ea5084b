"""The trajectory store: one epoch costs its own bytes, and nothing exists in part; experts that are killed go on."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from raydd.core.errors import ArtefactError
from raydd.core.progress import NoProgress, Numbers, Work
from raydd.ingredients.experts import Experts
from raydd.ingredients.trajectories import KIND, Snapshot, Trajectory, TrajectoryStore
from raydd.ingredients.trajectory_card import TrajectoryCard, read_card, require_card
from raydd.storage import Artefact, Folder
from tests.support import tiny
from tests.support.children import output, running
from tests.support.tiny import EXPERTS, randn

CARD = TrajectoryCard(
    dataset="tiny",
    fingerprint="f" * 64,
    preprocessing="p" * 64,
    network="convnet-d2-w4-instance",
    parameters=(("conv.weight", (40, 5, 10)), ("conv.bias", (48,))),
    recipe={"epochs": 3, "lr": 0.01, "augmentation": "dsa"},
    seed=5,
)
EPOCHS = 3


def snapshots(expert: int = 0, epochs: int = EPOCHS) -> list[Snapshot]:
    def params(epoch: int) -> torch.Tensor:
        return randn(100 * expert + epoch, CARD.size, dtype=torch.float32)

    first = Snapshot(0, params(0))
    later = [Snapshot(e, params(e), train_loss=1 / (e + 2), train_accuracy=0.3 * e) for e in range(1, epochs)]
    return [first, *later, Snapshot(epochs, params(epochs), 0.1, 0.9, test_accuracy=0.7)]


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    store = TrajectoryStore(Folder.at(tmp_path / "experts"), CARD)
    for expert in range(2):
        store.write(expert, iter(snapshots(expert)))
    return store


def published(store: TrajectoryStore) -> Artefact:
    artefact = Artefact.find(store.folder, KIND)
    assert artefact is not None
    return artefact


def reopened(store: TrajectoryStore, card: TrajectoryCard = CARD) -> TrajectoryStore:
    return TrajectoryStore(store.folder, card)


def test_every_epoch_comes_back_bit_by_bit(store: TrajectoryStore) -> None:
    for expert in range(2):
        for snapshot in snapshots(expert):
            params = reopened(store).params(expert, snapshot.epoch)
            assert params.dtype == torch.float32 and torch.equal(params, snapshot.params)
        assert store.reader(expert).epochs == EPOCHS
    assert store.finished() == [0, 1] and store.has(1) and not store.has(2)


def test_params_are_a_copy(store: TrajectoryStore) -> None:
    store.params(0, 1).zero_()
    assert torch.equal(store.params(0, 1), snapshots()[1].params)


def test_the_file_is_arrow_with_a_batch_an_epoch(store: TrajectoryStore) -> None:
    file = pa.ipc.open_file(store.folder.path / "expert-00001.arrow")
    assert file.num_record_batches == EPOCHS + 1
    assert dict(zip(file.schema.names, file.schema.types, strict=True)) == {
        "epoch": pa.int32(),
        "params": pa.list_(pa.float32(), CARD.size),
        "train_loss": pa.float64(),
        "train_accuracy": pa.float64(),
        "test_accuracy": pa.float64(),
    }
    assert [file.get_batch(i)["epoch"].to_pylist() for i in range(EPOCHS + 1)] == [[0], [1], [2], [3]]


def test_an_epoch_is_read_by_memory_map(tmp_path: Path) -> None:
    """Opening and reading a single epoch leaves nothing of the file in Arrow's own memory."""
    big = replace(CARD, parameters=(("weight", (500_000,)),))
    store = TrajectoryStore(Folder.at(tmp_path), big)
    store.write(0, (Snapshot(epoch, torch.full((500_000,), float(epoch))) for epoch in range(8)))
    before = pa.total_allocated_bytes()
    reader = store.reader(0)
    assert torch.equal(reader.params(5), torch.full((500_000,), 5.0))
    assert pa.total_allocated_bytes() - before < 100_000


def test_curve(store: TrajectoryStore) -> None:
    names = ["epoch", "train_loss", "train_accuracy", "test_accuracy"]
    wanted = [{name: getattr(snapshot, name) for name in names} for snapshot in snapshots()]
    assert store.reader(0).curve() == wanted


def test_missing_expert_or_epoch(store: TrajectoryStore) -> None:
    with pytest.raises(ArtefactError, match=r"experts: expert 2 has no finished trajectory"):
        store.params(2, 0)
    with pytest.raises(ArtefactError, match=r"expert-00000\.arrow: epoch 4 is not stored \(last: 3\)"):
        store.params(0, 4)
    store.check(2, EPOCHS)
    with pytest.raises(ArtefactError, match="expert 0 ends at epoch 3, 4 is needed"):
        store.check(2, EPOCHS + 1)
    with pytest.raises(ArtefactError, match="expert 2 has no finished trajectory"):
        store.check(3, EPOCHS)


@pytest.mark.parametrize("left", [0, 100, 0.5, 0.999])
def test_a_truncated_file_is_named(store: TrajectoryStore, left: float) -> None:
    path = store.folder.path / "expert-00001.arrow"
    data = path.read_bytes()
    path.write_bytes(data[: int(left if left > 1 else left * len(data))])
    with pytest.raises(ArtefactError, match=r"expert-00001\.arrow: \d+ bytes where \d+ were written; delete"):
        reopened(store).params(1, 0)
    with pytest.raises(ArtefactError, match=r"expert-00001\.arrow: "):
        reopened(store).check(2, EPOCHS)
    with pytest.raises(ArtefactError, match=r"expert-00001\.arrow: not a readable trajectory"):
        Trajectory(path, CARD)
    reopened(store).params(0, 0)


@pytest.mark.parametrize("place", ["a batch", "the footer", "all"])
def test_a_damaged_file_of_the_right_size_is_named(store: TrajectoryStore, place: str) -> None:
    path = store.folder.path / "expert-00000.arrow"
    data = bytearray(path.read_bytes())
    size = len(data)
    first, last = {"a batch": (size // 2, size // 2 + 9), "the footer": (size - 300, size - 10), "all": (0, size)}[
        place
    ]
    data[first:last] = b"\xa5" * (last - first)
    path.write_bytes(data)
    with pytest.raises(
        ArtefactError, match=r"expert-00000\.arrow: not a readable trajectory .* delete the expert's two files"
    ):
        reopened(store).params(0, 0)


@pytest.mark.parametrize(
    "field, value, shown",
    [
        ("network", "mlp", '"convnet-d2-w4-instance", wanted "mlp"'),
        ("preprocessing", "z" * 64, '"' + "p" * 56 + "..., wanted"),
        ("dataset", "cifar10", '"tiny", wanted "cifar10"'),
        ("fingerprint", "0" * 64, ""),
        ("recipe", {**CARD.recipe, "lr": 0.02}, ""),
        ("seed", 6, "5, wanted 6"),
    ],
)
def test_trajectories_made_otherwise_are_refused_by_name(
    store: TrajectoryStore, field: str, value: object, shown: str
) -> None:
    other = replace(CARD, **{field: value})
    with pytest.raises(ArtefactError) as one:
        reopened(store, other).params(0, 0)
    store.publish("key")
    with pytest.raises(ArtefactError) as all_of_them:
        require_card(read_card(published(store)), other, store.folder.uri)
    for error in (one, all_of_them):
        assert f"made for another {field}: {shown}" in str(error.value)
    assert "expert-00000.arrow" in str(one.value)


def test_publishing(store: TrajectoryStore) -> None:
    assert Artefact.find(store.folder, KIND) is None
    store.publish("key")
    assert published(store).manifest.key == "key"
    require_card(read_card(published(store)), CARD, store.folder.uri)
    assert torch.equal(reopened(store, store.card).params(1, 2), snapshots(1)[2].params)


def test_an_error_in_the_middle_leaves_no_expert(store: TrajectoryStore) -> None:
    def broken() -> Iterator[Snapshot]:
        yield from snapshots(2)[:2]
        raise KeyboardInterrupt

    before = sorted(path.name for path in store.folder.path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        store.write(2, broken())
    assert sorted(path.name for path in store.folder.path.iterdir()) == before
    assert not store.has(2) and store.finished() == [0, 1]


KILLED = """
import os, signal, sys
from tests.ingredients.test_trajectories import *

def killed():
    yield from snapshots(2)[:2]
    print("two epochs are written", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

TrajectoryStore(Folder.at(sys.argv[1]), CARD).write(2, killed())
"""


def test_a_kill_in_the_middle_leaves_no_expert(store: TrajectoryStore) -> None:
    with running(KILLED, store.folder.uri) as process:
        text = output(process)
    assert process.returncode == -signal.SIGKILL and text == "two epochs are written\n"
    assert len(list(store.folder.path.iterdir())) > 4  # the unfinished file is there, under a name of its own
    assert not store.has(2) and store.finished() == [0, 1]
    with pytest.raises(ArtefactError, match="expert 2 has no finished trajectory"):
        store.params(2, 0)
    store.write(2, iter(snapshots(2)))
    assert store.finished() == [0, 1, 2] and torch.equal(store.params(2, 1), snapshots(2)[1].params)


class Stop(Exception):
    """In place of a kill."""


class StopAfter(NoProgress):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if done == self.epoch:
            raise Stop


@pytest.mark.parametrize("epoch", [1, 4, 6])
def test_an_expert_goes_on_exactly_after_its_last_epoch(tmp_path: Path, epoch: int) -> None:
    store, work = Folder.at(tmp_path / "store"), Folder.at(tmp_path / "work")
    with pytest.raises(Stop):
        expert = Experts([1], EXPERTS, tiny.setting(), 0, work)
        expert.train(StopAfter(epoch))
    resumed = Experts([1], EXPERTS, tiny.setting(), 0, work)
    assert resumed.epoch == epoch
    tiny.train(1, store, work)
    assert store.read("expert-00001.arrow") == tiny.expert_folder().read("expert-00001.arrow")
    assert store.read("expert-00001.json") == tiny.expert_folder().read("expert-00001.json")
    assert not work.folders()


def test_experts_differ_and_learn() -> None:
    store = tiny.store(tiny.expert_folder())
    assert store.finished() == [0, 1, 2]
    curves = [store.reader(expert).curve() for expert in range(3)]
    for curve in curves:
        assert [row["epoch"] for row in curve] == list(range(7))
        assert curve[-1]["train_loss"] < curve[1]["train_loss"]
        assert curve[-1]["test_accuracy"] > 1 / 3
    assert not torch.equal(store.params(0, 0), store.params(1, 0))
