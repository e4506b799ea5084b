"""Regression labels and logits: each kind is trained on by its own loss, kept wherever a set goes, refused elsewhere.

Letters: M synthetic images, K classes.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import raydd
from raydd import config as configs
from raydd.api.dataset import DistilledDataset
from raydd.core.errors import ArtefactError, ConfigError
from raydd.core.keyed_random import Key
from raydd.exchange.export import export
from raydd.exchange.words import in_words
from raydd.networks.losses import squared_error
from raydd.sets.joining import joined
from raydd.sets.synthetic import SyntheticSet, union
from raydd.storage import Folder
from raydd.training.batches import measure
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from tests.sets.test_synthetic import assert_bits, example
from tests.support import foreign
from tests.support.small import CONFIG
from tests.support.tiny import randn

SQUARED = Recipe(epochs=3, lr=0.1, loss="squared", augmentation="none", batch_size=4)


def regression() -> SyntheticSet:
    """Six images of three classes, with labels that are neither shares nor logits."""
    card = {"method": "frepo", "recipe": asdict(SQUARED)}
    return replace(example(), label_kind="regression", learned_lr=(None,), card=card)


def by_hand(outputs_MK: Tensor, targets: Tensor) -> float:
    """Half the squared distance, summed, number by number."""
    total, (count, num_classes) = 0.0, outputs_MK.shape
    for i in range(count):
        for k in range(num_classes):
            own = float(targets[i] == k) - 1 / num_classes if targets.ndim == 1 else float(targets[i, k])
            total += 0.5 * (float(outputs_MK[i, k]) - own) ** 2
    return total


# The loss


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "classes"])
def test_the_squared_loss_by_hand(soft: bool) -> None:
    outputs = randn(0, 5, 3)
    targets = randn(1, 5, 3) if soft else torch.tensor([0, 2, 1, 1, 0])
    assert float(squared_error(outputs, targets)) == pytest.approx(by_hand(outputs, targets), rel=1e-12)
    loss, correct = measure(nn.Identity(), outputs, targets, 1.0, kind="squared")
    assert float(loss) == pytest.approx(by_hand(outputs, targets), rel=1e-12)
    classes = targets.argmax(1) if soft else targets
    assert int(correct) == int((outputs.argmax(1) == classes).sum())


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "classes"])
def test_packed_networks_have_the_squared_loss_of_each(soft: bool) -> None:
    images = torch.stack([randn(seed, 5, 3) for seed in range(2)])
    targets = randn(4, 2, 5, 3) if soft else torch.tensor([[0, 2, 1, 1, 0], [1, 1, 2, 0, 2]])
    losses, _ = measure(nn.Identity(), images, targets, 1.0, kind="squared")
    alone = [float(measure(nn.Identity(), images[e], targets[e], 1.0, kind="squared")[0]) for e in range(2)]
    assert losses.tolist() == pytest.approx(alone, rel=1e-12)


def test_training_takes_the_mean_squared_loss() -> None:
    """A step of SGD by hand: the gradient of the sum over classes, and the mean over the batch."""
    torch.manual_seed(0)
    module, images, targets = nn.Linear(4, 3).double(), randn(3, 4, 4), randn(5, 4, 3)
    weight = module.weight.detach().clone()
    outputs = images @ weight.T + module.bias.detach()
    wanted = weight - 0.1 * (outputs - targets).T @ images / 4
    training = Training([module], images, targets, replace(SQUARED, epochs=1), [Key.root(0)])
    (result,) = training.run_epoch(0)
    torch.testing.assert_close(module.weight.detach(), wanted, rtol=1e-12, atol=1e-14)
    assert result.loss == pytest.approx(by_hand(outputs, targets) / 4, rel=1e-6)


def test_the_schedule_of_frepos_students() -> None:
    """From nothing in equal parts to the whole step size, then along a cosine towards a hundredth."""
    recipe = replace(SQUARED, epochs=7, warmup_epochs=2, schedule="cosine_floor")
    rates: list[float] = []
    training = Training([nn.Linear(4, 3)], torch.randn(4, 4), torch.randn(4, 3), recipe, [Key.root(0)])
    for epoch in range(7):
        training.run_epoch(epoch)
        rates.append(training._optimizer.param_groups[0]["lr"])
    after = [0.1 * (0.01 + 0.99 * (1 + math.cos(math.pi * e / 5)) / 2) for e in range(5)]
    assert rates == pytest.approx([0.0, 0.05, *after], rel=1e-12)
    words = in_words(recipe, None, 4)["Step size"]
    assert "from 0 % of it" in words and "to a hundredth" in words


# Refusals


@pytest.mark.parametrize(
    "kind, loss", [("regression", "cross_entropy"), ("logits", "squared")], ids=["regression", "logits"]
)
def test_no_kind_is_trained_on_as_the_other(kind: Any, loss: Any) -> None:
    synthetic = replace(regression(), label_kind=kind)
    recipe = replace(SQUARED, loss="squared" if kind == "regression" else "cross_entropy")
    dataset = DistilledDataset(replace(synthetic, card={"recipe": asdict(recipe)}))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    before = network[1].weight.detach().clone()
    with pytest.raises(ConfigError, match="^loss: the labels are"):
        dataset.train(network, recipe=replace(recipe, loss=loss))
    assert torch.equal(network[1].weight, before)
    dataset.train(network)
    assert not torch.equal(network[1].weight, before)


@pytest.mark.parametrize(
    "changes, field",
    [({"temperature": 2.0}, "temperature"), ({"squares_temperature": True}, "temperature")],
)
def test_a_squared_loss_has_no_temperature(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}:"):
        replace(SQUARED, **changes)


def test_a_method_with_logits_refuses_students_with_a_squared_loss() -> None:
    recipe = {**CONFIG["evaluate"]["recipe"], "loss": "squared"}
    with pytest.raises(ConfigError, match=r"loss: the labels are logits"):
        configs.from_mapping({**CONFIG, "evaluate": {**CONFIG["evaluate"], "recipe": recipe}})


def test_keys_of_trainings_by_cross_entropy_do_not_know_the_loss() -> None:
    assert "loss" not in replace(SQUARED, loss="cross_entropy").identity()
    assert SQUARED.identity()["loss"] == "squared"


# Sets


def test_a_set_says_what_its_labels_are(tmp_path: Path) -> None:
    made = regression()
    made.save(Folder.at(tmp_path / "set"), "0123456789abcdef")
    found = SyntheticSet.load(Folder.at(tmp_path / "set"))
    assert found.label_kind == "regression" and "label_kind" not in found.card
    assert_bits(found.soft_labels, made.soft_labels)
    assert "regression labels" in repr(found) and "regression labels" in repr(DistilledDataset(found))
    assert '"label_kind": "regression"' in (tmp_path / "set" / "card.json").read_text()


def test_the_loss_of_a_dataset_is_half_the_squared_error() -> None:
    dataset, outputs = DistilledDataset(regression()), randn(7, 6, 3)
    targets = dataset.decoded.targets
    assert float(dataset.loss(outputs, targets)) == pytest.approx(by_hand(outputs, targets) / 6, rel=1e-6)
    images, labels = next(iter(dataset.loader(batch_size=6)))
    assert sorted(labels.flatten().tolist()) == sorted(targets.flatten().tolist()) and len(images) == 6


def test_shares_of_regression_labels_are_those_of_centred_classes() -> None:
    centred = torch.eye(3)[[0, 1, 2, 0, 1, 2]] - 1 / 3
    shares = replace(regression(), soft_labels=centred).shares
    assert shares is not None
    torch.testing.assert_close(shares, torch.eye(3)[[0, 1, 2, 0, 1, 2]])


def test_stages_of_two_kinds_are_no_union() -> None:
    with pytest.raises(ConfigError, match="logits and with regression labels"):
        union([example(), regression()])
    assert union([regression(), regression()]).label_kind == "regression"


def test_regression_labels_are_not_joined_with_other_classes() -> None:
    one, other = regression(), replace(regression(), class_names=("dog", "eel", "fox"))
    with pytest.raises(ArtefactError, match="one: has regression labels"):
        joined({"one": one, "other": other}, [*one.class_names, *other.class_names])


# Elsewhere


@pytest.mark.parametrize("form", ["pt", "imagefolder"])
def test_formats_whose_readers_take_a_softmax_are_refused(form: Any, tmp_path: Path) -> None:
    regression().save(Folder.at(tmp_path / "set"), "0123456789abcdef")
    with pytest.raises(ConfigError, match=f"^format: {form}: .*take parquet"):
        export(Folder.at(tmp_path / "set"), form, Folder.at(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_parquet_says_what_the_labels_are_and_comes_back(tmp_path: Path) -> None:
    made = regression()
    made.save(Folder.at(tmp_path / "set"), "0123456789abcdef")
    export(Folder.at(tmp_path / "set"), "parquet", Folder.at(tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "regression targets" in text and "half the squared distance" in text and "softmax are" not in text
    dataset = raydd.load(tmp_path / "out")
    assert dataset.synthetic.label_kind == "regression" and dataset.recipe.loss == "squared"
    assert_bits(dataset.synthetic.soft_labels, made.soft_labels)


@pytest.mark.parametrize("kind", ["centred", "regression"])
def test_labels_of_kip_become_logits_or_stay_what_they_are(kind: str, tmp_path: Path) -> None:
    """Students of the first go by cross entropy, of the second by the squared loss, and neither by the other."""
    theirs = foreign.centred()
    file = foreign.write_npz(tmp_path / "kip.npz", foreign.images(foreign.digits()), theirs)
    loss = "squared" if kind == "regression" else "cross_entropy"
    recipe = {"epochs": 2, "lr": 0.01, "loss": loss, "augmentation": "none"}
    config = {**foreign.CONFIG, "evaluate": {**foreign.CONFIG["evaluate"], "recipe": recipe}}
    ready = foreign.run_import(file, "kip", tmp_path / "run", "--soft-labels", kind, config=config)
    found = SyntheticSet.load(Folder.at(tmp_path / "run" / "imported"))
    assert found.label_kind == ("regression" if kind == "regression" else "logits")
    assert found.soft_labels is not None
    assert np.array_equal(found.soft_labels.numpy(), np.asarray(theirs, np.float32)) == (kind == "regression")
    config = configs.load(str(ready))
    wrong = replace(config.evaluate.recipe, loss="squared" if loss == "cross_entropy" else "cross_entropy")
    with pytest.raises(ConfigError, match="loss: the labels are"):
        replace(config, evaluate=replace(config.evaluate, recipe=wrong))
