"""FRePo: its equations against autograd, the networks' ages, workers, earlier stages, exact continuation.

Letters: n support rows, B query rows, F features, K classes, M synthetic images.
"""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import raydd
from raydd import config as configs
from raydd.core import keyed_random
from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.data import DataFacts
from raydd.methods import FRePoConfig, Start, Task
from raydd.methods.bilevel.frepo import FRePo
from raydd.methods.bilevel.lamb import Lamb
from raydd.methods.bilevel.regression import Regression, margin, squared_loss
from raydd.networks.config import NetworkConfig
from raydd.networks.losses import centred
from raydd.plan import make_plan
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints, require_same_state
from tests.reference import bilevel as reference
from tests.support import tiny
from tests.support.small import small_run
from tests.support.tiny import Results, assert_equal, randn, relative_error

KEY = Key.root(7)
NETWORK = NetworkConfig(width=4, depth=2, norm="none", growth="doubled", init="lecun")
SMALL = FRePoConfig(
    images_per_class=2, iterations=12, image_lr=0.01, real_batch_size=11, pool_size=3, max_online_steps=3,
    online_batch_size=4, online_lr=1e-3,
)  # fmt: skip
RIDGE = 1e-2
"""Large, so that what goes through the trace is not lost in rounding."""


def build(config: FRePoConfig = SMALL, start: Start | None = None, dtype: torch.dtype = torch.float64) -> FRePo:
    method = config.build(Task(data=tiny.data(), network=NETWORK, dtype=dtype), start or Start(), KEY)
    assert isinstance(method, FRePo)
    return method


def after(method: FRePo, steps: int) -> FRePo:
    for _ in range(steps):
        method.step()
    return method


# Regression


@pytest.mark.parametrize("num_features", [5, 40])
def test_predictions_are_those_of_ridge_regression(num_features: int) -> None:
    """With fewer rows than features, and with more."""
    support, labels, query = randn(0, 12, num_features), randn(1, 12, 3), randn(2, 7, num_features)
    found = query @ Regression.fitted(support, labels, RIDGE).coefficients
    rho = RIDGE * float(support.square().sum()) / 12
    theirs = Ridge(alpha=rho, fit_intercept=False).fit(support.numpy(), labels.numpy()).predict(query.numpy())
    torch.testing.assert_close(found, torch.from_numpy(theirs), rtol=1e-10, atol=1e-10)
    scaled = 7 * query @ Regression.fitted(7 * support, labels, RIDGE).coefficients
    torch.testing.assert_close(scaled, found, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_autograd_through_the_solve() -> None:
    support, labels = randn(0, 12, 20).requires_grad_(), randn(1, 12, 3).requires_grad_()
    query, classes = randn(2, 9, 20), [i % 3 for i in range(9)]
    fit = Regression.fitted(support.detach(), labels.detach(), RIDGE)
    loss, residual = squared_loss(query @ fit.coefficients, centred(torch.tensor(classes), 3, torch.float64), 9)
    found = fit.pull_back(query.T @ residual)

    def wanted(traced: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = reference.real_loss(reference.predictions(support, labels, query, RIDGE, traced), classes)
        return value, torch.autograd.grad(value, (support, labels))

    value, (by_support, by_labels) = wanted(True)
    assert float(loss) == pytest.approx(float(value.detach()), rel=1e-12)
    assert relative_error(found[0], by_support) < 1e-12 and relative_error(found[1], by_labels) < 1e-12
    assert relative_error(found[0], wanted(False)[1][0]) > 1e-8


def test_a_ridge_that_is_too_small_is_raised() -> None:
    """Rows that are the same leave a system that is not positive definite to rounding."""
    same = randn(0, 1, 50).expand(40, 50).clone()
    fit = Regression.fitted(same, randn(1, 40, 3), 1e-17)
    assert 1 <= fit.jitter <= 3 and fit.ridge == pytest.approx(1e-17 * 10**fit.jitter)
    with pytest.raises(RunError, match=r"raise method\.ridge"):
        Regression.fitted(torch.full((4, 5), math.nan), randn(1, 4, 3), 1e-6)


def test_the_margin_pulls_labels_apart_up_to_one_over_k() -> None:
    labels = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.2, 0.25], [0.1, 0.2, 0.6]], dtype=torch.float64).requires_grad_()
    value, gradient = margin(labels.detach())
    wanted = reference.margin_loss(labels)
    assert float(value) == pytest.approx(float(wanted), rel=1e-14)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, labels)[0], rtol=1e-14, atol=0)
    assert gradient[1].tolist() == pytest.approx([-1 / 3, 0, 1 / 3]) and not bool(gradient[[0, 2]].any())


def test_lamb_by_hand() -> None:
    gradients, start = randn(0, 5, 4), randn(1, 4)
    learned = Lamb({"x": start.clone()})
    for number in range(5):
        before = learned.values["x"]
        learned.step({"x": gradients[number]}, 0.03, number + 1)
        assert float((learned.values["x"] - before).norm()) == pytest.approx(0.03 * float(before.norm()), rel=1e-12)
    wanted = reference.lamb(start.tolist(), gradients.tolist(), 0.03)
    assert learned.values["x"].tolist() == pytest.approx(wanted, rel=1e-12)
    still = Lamb({"x": torch.zeros(2, dtype=torch.float64)})
    still.step({"x": torch.ones(2, dtype=torch.float64)}, 0.03, 1)
    assert still.values["x"].tolist() == pytest.approx([-0.03, -0.03], rel=1e-5)


# The method


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_gradient_of_an_iteration_is_autograds(mirrored: bool) -> None:
    """Images and labels, through both halves of a mirrored support, from the draws of the method."""
    method = after(build(replace(SMALL, mirrored=mirrored, ridge=RIDGE)), 2)
    values = {name: tensor.clone().requires_grad_() for name, tensor in method._learned.values.items()}
    network = copy.deepcopy(method._online.network(method._online.slot(2)))
    loss, _, found = method._gradients(method._online.network(method._online.slot(2)))
    images, labels, data = values["images"], values["labels"], tiny.data().train
    rows = keyed_random.permutation(KEY.child("real", 2), 36)[:11]
    support = torch.cat([images, images.flip(-1)]) if mirrored else images
    targets = torch.cat([labels, labels]) if mirrored else labels
    query = network.features(data.images[rows].double())
    predicted = reference.predictions(network.features(support), targets, query, RIDGE)
    value = reference.real_loss(predicted, data.labels[rows].tolist())
    wanted = torch.autograd.grad(value + reference.margin_loss(labels), (images, labels))
    assert loss == pytest.approx(float(value), rel=1e-10)
    assert relative_error(found["images"], wanted[0]) < 1e-10 and relative_error(found["labels"], wanted[1]) < 1e-10


def test_labels_start_as_centred_classes_over_the_root_of_a_tenth_of_k() -> None:
    labels = build().result().soft_labels
    assert labels is not None
    for i, row in enumerate(labels.tolist()):
        wanted = [(float(k == i // 2) - 1 / 3) / math.sqrt(0.3) for k in range(3)]
        assert row == pytest.approx(wanted, rel=1e-6)


def test_a_step_moves_images_and_labels_by_a_part_of_their_norm() -> None:
    method = after(build(), 3)
    before = {name: tensor.clone() for name, tensor in method._learned.values.items()}
    method.step()
    rate = 0.01 * (0.1 + 0.9 * (1 + math.cos(math.pi * 3 / 12)) / 2)
    for name, tensor in method._learned.values.items():
        assert float((tensor - before[name]).norm()) == pytest.approx(rate * float(before[name].norm()), rel=1e-10)


def test_a_network_takes_its_steps_and_gives_way() -> None:
    """Of ages 0, 1, 2 at first: with a last step at age 3 they take 4, 3 and 2 steps, and later ones 4."""
    online = build()._online
    images, labels = build()._images, build()._own_targets()
    assert online.ages.tolist() == [0, 1, 2]
    for slot, steps in enumerate((4, 3, 2)):
        for number in range(steps):
            before = online.params[slot].clone()
            online.train(slot, images, labels, KEY.child(number))
            assert not torch.equal(online.params[slot], before) and int(online.updates[slot]) == number + 1
        online.train(slot, images, labels, KEY)
        assert (int(online.updates[slot]), int(online.ages[slot]), int(online.generations[slot])) == (0, 0, 1)
        assert not bool(online.first[slot].any())
    for _ in range(4):
        online.train(0, images, labels, KEY)
    assert int(online.updates[0]) == 4 and int(online.generations[0]) == 1


def test_a_step_of_a_network_is_torchs_adam() -> None:
    online, method = build()._online, build()
    images, labels = method._images, method._own_targets()
    network = copy.deepcopy(online.network(1)).requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for number in range(3):
        rows = keyed_random.permutation(KEY.child(number), 6)[:4]
        optimizer.zero_grad()
        ((network(images[rows]) - labels[rows]).square().sum() / 8).backward()
        optimizer.step()
        online.train(1, images, labels, KEY.child(number))
    wanted = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(online.params[1], wanted, rtol=1e-10, atol=1e-12)


def test_without_steps_every_network_is_a_fresh_one() -> None:
    method = after(build(replace(SMALL, max_online_steps=0)), 8)
    assert int(method._online.generations.sum()) == 8 and not bool(method._online.updates.any())


def test_the_loss_falls() -> None:
    config = replace(SMALL, image_init="noise", iterations=60, real_batch_size=36, image_lr=0.03)
    learned, still = (build(c, dtype=torch.float32) for c in (config, replace(config, image_lr=1e-12)))
    losses = [(learned.step()["loss"], still.step()["loss"]) for _ in range(60)]
    last, unlearned = (sum(column[-10:]) for column in zip(*losses, strict=True))
    assert last < 0.8 * unlearned


def test_hard_labels_stay_classes() -> None:
    found = after(build(replace(SMALL, labels="hard")), 2).result()
    assert found.soft_labels is None and found.label_kind == "logits"
    assert build().result().label_kind == "regression"


@pytest.mark.parametrize(
    "changes, field",
    [({"ridge": 0.0}, "ridge"), ({"pool_size": 0}, "pool_size"), ({"lr_floor": 1.5}, "lr_floor")],
)
def test_what_cannot_run_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^method\.{field}"):
        replace(SMALL, **changes)
    with pytest.raises(ConfigError, match=r"^network\.norm"):
        SMALL.build(Task(data=tiny.data(), network=replace(NETWORK, norm="batch")), Start(), KEY)


# Workers, stages, continuation


def stepped(config: FRePoConfig) -> Results:
    method = after(build(config), 6)
    state = {name: torch.as_tensor(value) for name, value in method.state_dict().items()}
    require_same_state(state, "the end")
    return state


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_share_rows_and_come_to_the_same(world: int) -> None:
    """Neither 3 images nor 11 real ones are divisible, and of 4 workers one has no image."""
    config = replace(SMALL, images_per_class=1, ridge=1e-3)
    alone, *others = stepped(config), *tiny.on_workers(world, stepped, config)
    for other in others:
        for name, value in alone.items():
            torch.testing.assert_close(other[name], value, rtol=1e-8, atol=1e-10, msg=name)


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Also where a network gives way after it."""
    whole = after(build(), 12)
    assert int(whole._online.generations.sum()) > 0
    for stop in (5, 11):
        checkpoints = Checkpoints(Folder.at(tmp_path / str(stop)), "stage")
        checkpoints.save(after(build(), stop).state_dict(), [])
        saved = checkpoints.load()
        assert saved is not None
        going_on = build()
        going_on.load_state_dict(saved[0])
        assert_equal(after(going_on, 12 - stop).state_dict(), whole.state_dict())


def test_earlier_images_join_the_support_and_stay() -> None:
    """With all images but the new ones frozen the gradient is the whole one's part of these."""
    first = after(build(), 2).result()
    method = build(start=Start(stage=1, frozen=first))
    network = method._online.network(0)
    network = copy.deepcopy(network)
    _, _, found = method._gradients(network)
    images, labels = method._images.clone().requires_grad_(), method._own_targets().clone().requires_grad_()
    assert first.soft_labels is not None
    support = [network.features(x) for x in (first.images.double(), images, images.flip(-1))]
    targets = torch.cat([first.soft_labels.double(), labels, labels])
    data, rows = tiny.data().train, keyed_random.permutation(KEY.child("real", 0), 36)[:11]
    query = network.features(data.images[rows].double())
    value = reference.real_loss(
        reference.predictions(torch.cat(support), targets, query, SMALL.ridge), data.labels[rows].tolist()
    )
    wanted = torch.autograd.grad(value + reference.margin_loss(labels), (images, labels))
    assert relative_error(found["images"], wanted[0]) < 1e-6 and relative_error(found["labels"], wanted[1]) < 1e-6
    assert torch.equal(after(method, 2)._earlier[0].float(), first.images)
    logits = replace(first, label_kind="logits")
    with pytest.raises(ConfigError, match=r"^stages\.overrides: .*regression"):
        build(start=Start(stage=1, frozen=logits))


METHOD = {"name": "frepo", "images_per_class": 1, "iterations": 4, "real_batch_size": 32, "pool_size": 2}
RECIPE = {"epochs": 20, "lr": 0.003, "optimizer": "adamw", "loss": "squared", "augmentation": "none"}
CHANGES: dict[str, Any] = {
    "method": METHOD,
    "evaluate.recipe": RECIPE,
    "network": {"width": 4, "depth": 2, "norm": "none", "growth": "doubled", "init": "lecun"},
}


def test_from_images_to_students(tmp_path: Path) -> None:
    run = small_run(tmp_path, CHANGES)
    assert run.does("run") == 0
    made = SyntheticSet.load(Folder.at(run.out / "synthetic"))
    assert made.label_kind == "regression" and made.soft_labels is not None
    rows = raydd.results(run.out).to_pylist()
    assert {(row["subject"], row["labels"]) for row in rows} >= {("synthetic", "stored"), ("synthetic", "hard")}
    assert all(row["status"] == "ok" and row["method"] == "frepo" for row in rows)
    assert raydd.load(run.out).recipe.loss == "squared"
    before = run.artefacts()
    assert run.does("run") == 0
    assert run.artefacts() == before


def test_students_by_cross_entropy_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(tmp_path, {**CHANGES, "evaluate.recipe": {**RECIPE, "loss": "cross_entropy"}})
    assert run.does("run") == 2
    assert "the labels are regression targets" in capsys.readouterr().err and not run.out.exists()


def test_the_plan_counts_the_flops_of_an_iteration() -> None:
    config = configs.from_mapping(
        {"network": CHANGES["network"], "method": {**METHOD, "iterations": 1}, "evaluate": {"recipe": RECIPE}}
    )
    data = tiny.data()
    method = config.method.build(Task(data=data, network=config.network), Start(), Key.root(0))
    with FlopCounterMode(display=False) as counter:
        method.step()
    plan = make_plan(config, DataFacts(len(data.train), len(data.test), data.shape, data.num_classes))
    (distill,) = (step for step in plan.steps if step.work == "distill")
    assert distill.flops == pytest.approx(counter.get_total_flops(), rel=0.15)
