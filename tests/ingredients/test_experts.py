"""Experts: which epochs are stored, how dropped ones come back, and packs that train side by side."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raydd.core.errors import ArtefactError, ConfigError
from raydd.core.progress import NoProgress, Numbers, Work
from raydd.ingredients import experts
from raydd.ingredients.experts import Experts, ExpertsConfig, fastest_pack, packs, train_experts, trajectory_card
from raydd.ingredients.trajectories import TrajectoryStore
from raydd.methods import DATMConfig, MTTConfig
from raydd.storage import Folder, content_key
from raydd.training import stacked
from raydd.training.recipe import Recipe
from tests.support import small, tiny
from tests.support.tiny import EXPERTS

SHARP = replace(EXPERTS, training=replace(EXPERTS.training, gsam_rho=0.05, gsam_alpha=0.3, augmentation="dsa"))
DROPPING = [0, 2, 6]


def trained(
    folder: Path, numbers: Sequence[int], epochs: Sequence[int] | None = None, config: ExpertsConfig = EXPERTS
) -> TrajectoryStore:
    """The store in a folder, once it has these experts with these epochs."""
    store = TrajectoryStore(Folder.at(folder / "store"), trajectory_card(config, tiny.NETWORK, tiny.data(), seed=0))
    work = Folder.at(folder / "work")
    train_experts(numbers, config, tiny.setting(), store, work, NoProgress(), epochs)
    assert not work.folders()
    return store


def test_keys_of_plain_experts_are_what_they_were() -> None:
    """The recipe as it stood in the cards of trajectories before there was GSAM."""
    card = trajectory_card(ExpertsConfig(training=Recipe(epochs=50)), tiny.NETWORK, tiny.data(), seed=0)
    assert card.identity()["recipe"] == {
        "epochs": 50,
        "lr": 0.01,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 256,
        "schedule": "constant",
        "augmentation": "dsa",
    }
    assert content_key(card.identity()) == "e779bbcd4e216226"
    sharp = trajectory_card(SHARP, tiny.NETWORK, tiny.data(), seed=0)
    assert sharp.identity()["recipe"]["gsam_rho"] == 0.05


def test_what_is_kept_is_no_part_of_the_key() -> None:
    cards = [trajectory_card(replace(EXPERTS, keep=keep), tiny.NETWORK, tiny.data(), 0) for keep in ("all", "needed")]
    assert cards[0] == cards[1]


@pytest.mark.parametrize("config", [EXPERTS, SHARP, replace(SHARP, test_every=2)], ids=["sgd", "gsam", "tested"])
def test_a_dropped_epoch_comes_back_bit_by_bit(tmp_path: Path, config: ExpertsConfig) -> None:
    whole, part = trained(tmp_path / "all", [1], None, config), trained(tmp_path / "part", [1], DROPPING, config)
    assert list(part.reader(1).kept) == DROPPING and part.lacks(1, range(7)) == [1, 3, 4, 5]
    assert whole.lacks(1, range(7)) == []
    for epoch in DROPPING:
        assert torch.equal(part.params(1, epoch), whole.params(1, epoch))
    with pytest.raises(ArtefactError, match="epoch 3 is not stored"):
        part.params(1, 3)
    size, full = (store.folder.size("expert-00001.arrow") for store in (part, whole))
    assert size < full - 3.9 * 4 * part.card.size
    trained(tmp_path / "part", [1], [4, 6], config)
    assert part.lacks(1, range(7)) == [1, 3, 5] and torch.equal(part.params(1, 4), whole.params(1, 4))
    trained(tmp_path / "part", [1], None, config)
    for name in ("expert-00001.arrow", "expert-00001.json"):
        assert part.folder.read(name) == whole.folder.read(name)


def test_an_expert_stored_before_epochs_could_be_dropped_has_all(tmp_path: Path) -> None:
    store = trained(tmp_path, [0])
    facts = json.loads(store.folder.read("expert-00000.json"))
    store.folder.write("expert-00000.json", json.dumps({"size": facts["size"], "sha256": facts["sha256"]}).encode())
    assert store.lacks(0, range(7)) == []


def test_momenta_are_not_stored_so_epochs_cannot_be_dropped() -> None:
    with pytest.raises(ConfigError, match=r"^experts\.keep: .*take `all`, or an experts\.training\.momentum of 0"):
        ExpertsConfig(keep="needed", training=Recipe(momentum=0.9))


def test_the_epochs_that_a_method_reads() -> None:
    mtt = MTTConfig(min_start_epoch=1, max_start_epoch=4, expert_epochs=5)
    assert mtt.epochs_read(20) == {1, 2, 3, 6, 7, 8, 20}
    datm = DATMConfig(initial_max_start_epoch=2, max_start_epoch=3, expert_epochs=1)
    assert datm.epochs_read(9) == {0, 1, 2, 3, 9}
    assert replace(datm, label_epoch=7).epochs_read(9) == {0, 1, 2, 3, 7, 9}


EARLY = {"method.max_start_epoch": 1, "method.expert_epochs": 1}
LATE = {f"method.{name}": 2 for name in ("max_start_epoch", "initial_max_start_epoch")} | {"method.min_start_epoch": 1}


@pytest.mark.parametrize("first", [EARLY, LATE], ids=["epochs 0 1 4", "epochs 1 3 4"])
def test_a_run_completes_what_another_left_out(first: dict[str, object], tmp_path: Path) -> None:
    def run(name: str, changes: dict[str, object]) -> small.SmallRun:
        folder = tmp_path / name
        folder.mkdir()
        store = {"experts.store": str(tmp_path / ("experts" if name == "whole" else "shared"))}
        made = small.small_run(folder, store | changes)
        assert made.does("experts") == 0
        return made

    def files(store: str) -> dict[str, bytes]:
        (folder,) = (tmp_path / store).iterdir()
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}

    run("whole", {})
    run("short", {"experts.keep": "needed", **first})
    before = files("shared")
    assert len(before["expert-00001.arrow"]) < 0.8 * len(files("experts")["expert-00001.arrow"])
    second = run("long", {"experts.keep": "needed", "method.expert_epochs": 1, "method.max_start_epoch": 3})
    assert files("shared") == files("experts")
    (folder,) = (tmp_path / "shared").iterdir()
    seen = small.state(folder)
    assert second.does("experts") == 0 and small.state(folder) == seen
    assert small.raydd("verify", folder) == 0


def test_packs_do_not_depend_on_who_is_left() -> None:
    assert packs(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert packs([4, 1, 3, 2], 2) == [[1], [2, 3], [4]]
    assert packs([2, 1], 1) == [[1], [2]]


@pytest.mark.parametrize("config", [EXPERTS, SHARP], ids=["sgd", "gsam"])
def test_packed_experts_are_those_trained_alone(tmp_path: Path, config: ExpertsConfig) -> None:
    alone, packed = trained(tmp_path / "alone", [0], None, config), trained(tmp_path / "packed", [0, 1], None, config)
    trained(tmp_path / "alone", [1], None, config)
    assert packed.finished() == [0, 1]
    for number in (0, 1):
        assert torch.equal(packed.params(number, 0), alone.params(number, 0))
        assert float((packed.params(number, 1) - alone.params(number, 1)).abs().max()) < 1e-5
        curves = [store.reader(number).curve() for store in (packed, alone)]
        assert curves[0][-1]["train_loss"] == pytest.approx(curves[1][-1]["train_loss"], rel=1e-3)
        assert curves[0][-1]["test_accuracy"] == pytest.approx(curves[1][-1]["test_accuracy"], abs=0.05)


def test_a_pack_goes_on_exactly_from_the_epoch_that_all_have_reached(tmp_path: Path) -> None:
    whole, broken = trained(tmp_path / "whole", [0, 1]), tmp_path / "broken"
    arguments = EXPERTS, tiny.setting(), 0, Folder.at(broken / "work")

    class Stop(NoProgress):
        def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
            if done == 4:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        Experts([0, 1], *arguments).train(Stop())
    (broken / "work" / "expert-00001" / "epoch-00004.safetensors").unlink()
    assert Experts([0, 1], *arguments).epoch == 3
    (broken / "work" / "expert-00000").rename(broken / "expert")
    assert Experts([0, 1], *arguments).epoch == 0
    (broken / "work" / "expert-00000" / "epoch-00000.safetensors").unlink()
    (broken / "work" / "expert-00000").rmdir()
    (broken / "expert").rename(broken / "work" / "expert-00000")
    store = trained(broken, [0, 1])
    for number in (0, 1):
        name = f"expert-{number:05d}.arrow"
        assert store.folder.read(name) == whole.folder.read(name)


def test_the_fastest_pack_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that takes packs of two for the best: 8 s for one, 10 for two, 40 for four, 80 for eight."""
    monkeypatch.setattr(experts, "MEASURED_STEPS", 1)
    ticks = iter([0, 8, 0, 10, 0, 40, 0, 80])
    monkeypatch.setattr(stacked.time, "perf_counter", lambda: float(next(ticks)))
    assert fastest_pack(EXPERTS, tiny.setting()) == 2
