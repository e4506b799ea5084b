"""Labels of views: replay at any batch size, making and resuming the store, its size, and mixed classes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from raydd import networks
from raydd.core import keyed_random
from raydd.core.errors import ArtefactError
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data.preprocessing import Standardise
from raydd.ingredients.view_labels import (
    HEADER_BYTES,
    KIND,
    HardLabels,
    OnlineLabels,
    StoredLabels,
    label_bytes,
    label_epoch,
    make,
    mixed_classes,
)
from raydd.networks import Network
from raydd.networks.config import NetworkConfig
from raydd.storage import Artefact, Folder, stored_bytes
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from raydd.training.views import ImageViews, ViewsConfig
from tests.support.small import state, truncate

KEY, VIEWS_KEY = Key.root(0), Key.root(1)
SIZE, CLASSES, EPOCHS = 23, 5, 3
STANDARDISE = Standardise(torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.3, 0.25]).double())


def some_views(**changes: object) -> ImageViews:
    pixels = torch.randint(0, 256, (SIZE, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return ImageViews(STANDARDISE.forward(pixels), STANDARDISE, replace(ViewsConfig(), **changes))


def network(seed: int = 0) -> Network:
    with keyed_random.seeded(Key.root(seed)):
        built = networks.build(NetworkConfig(depth=2, width=8, norm="batch"), (3, 8, 8), CLASSES)
        with torch.no_grad():
            built.train()(torch.randn(64, 3, 8, 8) + 0.5)  # running statistics of their own
            built.head.weight *= 20
    return built.eval().requires_grad_(False)


def make_some(folder: Path, teacher: nn.Module | None = None, key: str = "k", **changes: object) -> StoredLabels:
    views = some_views(**changes)
    return make(Folder.at(folder), key, views, teacher or network(), VIEWS_KEY, EPOCHS, NoProgress())


class Broken(nn.Module):
    """A teacher that fails after some images."""

    def __init__(self, images: int = 0) -> None:
        super().__init__()
        self.images = images

    def forward(self, images: Tensor) -> Tensor:
        self.images -= len(images)
        if self.images < 0:
            raise RuntimeError("the machine is gone")
        return network()(images)


@pytest.mark.parametrize("batch_size", [1, 4, SIZE])
@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_stored_logits_are_the_teachers_of_the_replayed_view(tmp_path: Path, mix: str, batch_size: int) -> None:
    make_some(tmp_path, mix=mix)
    stored = StoredLabels(Artefact.require(Folder.at(tmp_path), KIND), some_views(mix=mix))
    teacher, fresh = network(), some_views(mix=mix)
    for epoch in range(EPOCHS):
        for rows in keyed_random.permutation(KEY.child(epoch), SIZE).split(batch_size):
            images, logits = stored(KEY, epoch, rows)
            assert torch.equal(images, fresh.mix(VIEWS_KEY, epoch, rows).images)
            torch.testing.assert_close(logits, teacher(images), rtol=2**-10, atol=1e-5)
            assert logits.dtype == torch.float32


def test_epochs_beyond_the_stored_begin_again_whatever_the_students_key(tmp_path: Path) -> None:
    stored, rows = make_some(tmp_path), torch.tensor([5, 0, 22])
    assert (stored.epochs, stored.teacher_forwards) == (EPOCHS, EPOCHS * SIZE)
    for epoch in range(EPOCHS):
        first, again = stored(KEY, epoch, rows), stored(KEY.child("other"), epoch + 2 * EPOCHS, rows)
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(stored(KEY, 0, rows)[1], stored(KEY, 1, rows)[1])


def test_finished_labels_are_not_made_again(tmp_path: Path) -> None:
    make_some(tmp_path)
    before = state(tmp_path)
    make_some(tmp_path, Broken())
    assert state(tmp_path) == before


def test_an_interrupted_making_goes_on_after_the_last_finished_epoch(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    make_some(whole)
    with pytest.raises(RuntimeError, match="gone"):
        make_some(part, Broken(images=2 * SIZE))
    assert sorted(path.name for path in part.iterdir()) == ["epoch-00000.safetensors", "epoch-00001.safetensors"]
    before = state(part)
    make_some(part, Broken(images=SIZE))
    after = state(part)
    assert {name: after[name] for name in before} == before
    assert {name: digest for name, (_, digest) in after.items()} == {
        n: digest for n, (_, digest) in state(whole).items()
    }


@pytest.mark.parametrize("harm", ["cut short", "of another key"])
def test_a_file_that_is_not_these_labels_is_made_anew(tmp_path: Path, harm: str) -> None:
    folder, other = tmp_path / "labels", network(seed=9)
    label_epoch(Folder.at(folder), "k" if harm == "cut short" else "j", some_views(), other, VIEWS_KEY, 1)
    if harm == "cut short":
        truncate(folder / "epoch-00001.safetensors")
    rows = torch.arange(SIZE)
    images, logits = make_some(folder)(KEY, 1, rows)
    torch.testing.assert_close(logits, network()(images), rtol=2**-10, atol=1e-5)


def test_labels_of_something_else_are_refused(tmp_path: Path) -> None:
    make_some(tmp_path)
    with pytest.raises(ArtefactError, match="labels of key k, wanted other; name another folder"):
        make_some(tmp_path, key="other")
    with pytest.raises(
        ArtefactError, match=f"labels of {SIZE} images under the views .*'cutmix'.*, wanted {SIZE} under"
    ):
        make_some(tmp_path, mix="mixup")
    fewer = ImageViews(torch.zeros(7, 3, 8, 8), STANDARDISE, ViewsConfig())
    with pytest.raises(ArtefactError, match=f"labels of {SIZE} images .* wanted 7 under"):
        StoredLabels(Artefact.require(Folder.at(tmp_path), KIND), fewer)


def test_damage_is_named(tmp_path: Path) -> None:
    stored = make_some(tmp_path)
    truncate(tmp_path / "epoch-00002.safetensors")
    stored(KEY, 1, torch.arange(2))
    with pytest.raises(ArtefactError, match="epoch-00002.safetensors"):
        stored(KEY, 2, torch.arange(2))
    Folder.at(tmp_path).delete("manifest.json")
    views = some_views()
    artefact = make(Folder.at(tmp_path), "k", views, network(), VIEWS_KEY, EPOCHS, NoProgress())
    assert artefact(KEY, 2, torch.arange(2))[1].shape == (2, CLASSES)


@pytest.mark.parametrize(("num_images", "num_classes", "epochs"), [(1, 2, 1), (SIZE, CLASSES, EPOCHS), (300, 200, 2)])
def test_the_estimate_is_what_the_files_take_but_for_their_headers(
    tmp_path: Path, num_images: int, num_classes: int, epochs: int
) -> None:
    views = ImageViews(torch.zeros(num_images, 3, 4, 4), STANDARDISE, ViewsConfig())
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(48, num_classes))
    folder = Folder.at(tmp_path / "labels")
    make(folder, "0123456789abcdef", views, teacher, VIEWS_KEY, epochs, NoProgress())
    files = list((tmp_path / "labels").glob("epoch-*"))
    extra = sum(path.stat().st_size for path in files) - label_bytes(epochs, num_images, num_classes)
    assert len(files) == epochs
    assert 0 < extra <= HEADER_BYTES * epochs
    on_disk = sum(path.stat().st_size for path in (tmp_path / "labels").iterdir() if path.name != "manifest.json")
    assert stored_bytes(folder) == on_disk
    with pytest.raises(ArtefactError, match="there is no finished"):
        stored_bytes(Folder.at(tmp_path / "nowhere"))


def test_the_teacher_is_asked_in_every_step_and_stays_as_it_is() -> None:
    teacher, views = network().train(), some_views()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    ask, rows = OnlineLabels(views, teacher), torch.tensor([4, 4, 19])
    images, logits = ask(KEY, 7, rows)
    ask(KEY, 7, rows[:1])
    assert ask.teacher_forwards == 4
    assert torch.equal(images, views.mix(KEY, 7, rows).images)
    torch.testing.assert_close(logits, network()(images))
    assert not logits.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_hard_labels_are_the_classes_as_far_as_they_are_seen(mix: str) -> None:
    views, labels, rows = some_views(mix=mix), torch.arange(SIZE) % CLASSES, torch.tensor([4, 11, 0, 22])
    hard = HardLabels(views, labels, CLASSES)
    images, targets = hard(KEY, 2, rows)
    mixed = views.mix(KEY, 2, rows)
    assert torch.equal(images, mixed.images)
    assert hard.teacher_forwards == 0
    for row, partner, share, target in zip(rows, mixed.partners, mixed.shares.tolist(), targets, strict=True):
        expected = torch.zeros(CLASSES)
        expected[labels[row]] += share
        expected[labels[partner]] += 1 - share
        torch.testing.assert_close(target.softmax(0), expected)


def test_mixed_classes_give_the_mixed_loss_and_a_finite_gradient() -> None:
    logits = (30 * torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(1))).requires_grad_()
    own, other, shares = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 0, 4]), torch.tensor([0.3, 0.5, 1.0, 0.0])
    targets = mixed_classes(own, other, shares, CLASSES)
    assert targets.isfinite().all()
    loss = -(targets.softmax(1) * logits.log_softmax(1)).sum(1)
    cross_entropy = nn.CrossEntropyLoss(reduction="none")
    torch.testing.assert_close(loss, shares * cross_entropy(logits, own) + (1 - shares) * cross_entropy(logits, other))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.isfinite().all()


@pytest.fixture(params=["online", "stored", "hard"])
def labels(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineLabels | StoredLabels | HardLabels]:
    match request.param:
        case "online":
            yield OnlineLabels(some_views(), network())
        case "stored":
            yield make_some(tmp_path)
        case "hard":
            yield HardLabels(some_views(), torch.arange(SIZE) % CLASSES, CLASSES)


def test_students_learn_from_each_kind(labels: OnlineLabels | StoredLabels | HardLabels) -> None:
    recipe = Recipe(epochs=12, lr=0.01, batch_size=8, optimizer="adamw", augmentation="none", views=some_views().config)
    student = network(seed=5).train().requires_grad_()
    targets = torch.arange(SIZE) % CLASSES
    training = Training([student], torch.empty(SIZE, 0), targets, recipe, [KEY], views=labels)
    losses = [training.run_epoch(epoch)[0].loss for epoch in range(recipe.epochs)]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_the_card_says_what_was_labelled(tmp_path: Path) -> None:
    make_some(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["epochs"] == EPOCHS and card["num_images"] == SIZE and card["views_key"] == VIEWS_KEY.value
    assert card["views"]["mix"] == "cutmix"
