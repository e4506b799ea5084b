"""All epochs of a training: which are run, who looks on, what is kept, and what progress is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydd import networks
from raydd.core.errors import RunError
from raydd.core.keyed_random import Key, seeded
from raydd.core.progress import NoProgress, Work
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.fit import Told, Watcher, both_curves, fit, loss_curve, train_accuracy
from raydd.training.loop import EpochResult, Training
from raydd.training.recipe import Recipe
from tests.support import tiny
from tests.support.tiny import Results

KEY = Key.root(3)
RECIPE = Recipe(epochs=4, lr=0.05, momentum=0.9, batch_size=8, schedule="cosine", augmentation="crop")


def module(number: int = 0) -> nn.Module:
    with seeded(KEY.child(number)):
        return networks.build(tiny.NETWORK, (1, 8, 8), len(tiny.CLASSES))


def training(count: int = 1, shared: bool = False) -> Training:
    train = tiny.data().train
    keys = [KEY.child("training", number) for number in range(count)]
    return Training([module(n) for n in range(count)], train.images, train.labels, RECIPE, keys, shared=shared)


def by_hand(running: Training, epochs: range) -> list[list[EpochResult]]:
    return [running.run_epoch(epoch) for epoch in epochs]


class Stop(Exception):
    pass


class Sums(Watcher):
    """Adds up what the parameters are, epoch by epoch, and breaks off after one of them."""

    def __init__(self, until: int | None = None, misses: int | None = None) -> None:
        self.seen = torch.zeros(0, dtype=torch.float64)
        self.results: list[tuple[int, list[EpochResult]]] = []
        self._until, self._misses = until, misses

    def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
        if done == self._until:
            raise Stop
        total = torch.stack([parameter.detach().double().sum() for parameter in training.modules[0].parameters()]).sum()
        self.seen = torch.cat([self.seen, total[None]])
        self.results.append((done, list(results)))

    def state_dict(self) -> Mapping[str, Tensor]:
        return {"seen": self.seen}

    def restore(self, state: Mapping[str, Any], done: int) -> Mapping[str, Any] | None:
        if done == self._misses:
            return None
        self.seen = state["seen"]
        return {name: value for name, value in state.items() if name != "seen"}


class Heard(NoProgress):
    def __init__(self) -> None:
        self.news: list[tuple[object, ...]] = []

    def update(self, *news: Any) -> None:
        self.news.append(news)


def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(Folder.at(folder), "fit")


def test_all_epochs_of_the_recipe_are_run_in_order() -> None:
    product, plain = training(2), training(2)
    watcher = Sums()
    results = fit(product, watcher=watcher)
    wanted = by_hand(plain, range(RECIPE.epochs))
    assert watcher.results == list(zip(range(1, 5), wanted, strict=True)) and results == wanted[-1]
    for found, state in zip(product.state_dicts(), plain.state_dicts(), strict=True):
        tiny.assert_equal(found, state)


def test_some_epochs_may_be_chosen() -> None:
    product, plain = training(), training()
    assert fit(product, range(1, 3)) == by_hand(plain, range(1, 3))[-1]
    tiny.assert_equal(product.state_dicts()[0], plain.state_dicts()[0])
    assert fit(product, range(3, 3)) == []


@pytest.mark.parametrize("broken", range(1, 5))
def test_a_broken_training_goes_on_after_the_last_epoch_that_was_kept(broken: int, tmp_path: Path) -> None:
    whole, unbroken = training(), Sums()
    last = fit(whole, watcher=unbroken)
    with pytest.raises(Stop):
        fit(training(), checkpoints=checkpoints(tmp_path), watcher=Sums(until=broken))
    product, watcher, heard = training(), Sums(), Heard()
    told = Told(heard, [Work("it")])
    assert fit(product, checkpoints=checkpoints(tmp_path), watcher=watcher, told=told) == last
    tiny.assert_equal(product.state_dicts()[0], whole.state_dicts()[0])
    assert torch.equal(watcher.seen, unbroken.seen)
    assert [done for done, _ in watcher.results] == [done for _, done, *_ in heard.news] == list(range(broken, 5))


def test_a_finished_training_is_put_where_it_ended(tmp_path: Path) -> None:
    whole = training()
    last = fit(whole, checkpoints=checkpoints(tmp_path))
    product, watcher = training(), Watcher()
    assert fit(product, checkpoints=checkpoints(tmp_path), watcher=watcher) == last
    tiny.assert_equal(product.state_dicts()[0], whole.state_dicts()[0])
    assert product.run_epoch(4) == whole.run_epoch(4)


def test_a_watcher_that_has_missed_something_has_the_training_begin_anew(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit(training(), checkpoints=checkpoints(tmp_path), watcher=Sums(until=3))
    product, whole, watcher = training(), training(), Sums(misses=2)
    assert fit(product, checkpoints=checkpoints(tmp_path), watcher=watcher) == fit(whole)
    tiny.assert_equal(product.state_dicts()[0], whole.state_dicts()[0])
    assert [done for done, _ in watcher.results] == [1, 2, 3, 4]


def test_progress_is_told_of_every_network_once_the_epoch_is_kept(tmp_path: Path) -> None:
    kept: list[int] = []

    class Looks(Heard):
        def update(self, *news: Any) -> None:
            super().update(*news)
            saved = checkpoints(tmp_path).load()
            kept.append(0 if saved is None else len(saved[1]))

    results = by_hand(training(2), range(1))[0]
    heard = Looks()
    fit(training(2), range(1), told=Told(heard, [Work("a"), Work("b")], numbers=loss_curve))
    assert heard.news == [
        (Work(kind), 1, 4, f"loss {result.loss:.3f}", {"loss": result.loss})
        for kind, result in zip("ab", results, strict=True)
    ]
    fit(training(), range(1), told=Told(heard, [Work("a")], train_accuracy, both_curves))
    numbers = {"train_loss": results[0].loss, "train_accuracy": results[0].accuracy}
    assert heard.news[2:] == [(Work("a"), 1, 4, f"train accuracy {results[0].accuracy:.3f}", numbers)]
    assert kept == [0, 0, 0]
    fit(training(), checkpoints=checkpoints(tmp_path), told=Told(heard, [Work("a")], lambda result: ""))
    assert kept[3:] == [1, 2, 3, 4]
    assert heard.news[3:] == [(Work("a"), done, 4, "", None) for done in range(1, 5)]


def on_a_worker(folder: str, drifts: bool) -> Results:
    """What rank 0 wrote after all epochs of a shared training, in which another rank may have drifted."""

    class Drifts(Watcher):
        def look(self, training: Training, done: int, results: Sequence[EpochResult]) -> None:
            if drifts and done == 2 and torch.distributed.get_rank() == 1:
                nn.init.zeros_(next(training.modules[0].parameters()))

    try:
        fit(training(shared=True), checkpoints=checkpoints(Path(folder)), watcher=Drifts())
    except RunError as error:
        assert "epoch 2 of fit: the workers hold different states" in str(error)
    torch.distributed.barrier()
    saved = checkpoints(Path(folder)).load()
    assert saved is not None
    return {"epochs": torch.tensor(len(saved[1]))}


@pytest.mark.parametrize(("drifts", "kept"), [(False, 4), (True, 1)])
def test_of_several_workers_the_first_keeps_what_all_agree_on(drifts: bool, kept: int, tmp_path: Path) -> None:
    assert [int(found["epochs"]) for found in tiny.on_workers(2, on_a_worker, str(tmp_path), drifts)] == [kept, kept]
