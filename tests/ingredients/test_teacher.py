"""The teacher: its training on any number of workers, continuation, storage, and what it refuses to be used with."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from raydd import networks
from raydd.core.errors import ArtefactError, ConfigError, DataError, RunError
from raydd.core.keyed_random import Key, seeded
from raydd.core.progress import NoProgress, Numbers, Progress, Work
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.data.preprocessing import Identity, Standardise
from raydd.ingredients import teacher
from raydd.ingredients.teacher import Teacher, TeacherConfig, from_weights, teacher_identity, train_teacher
from raydd.ingredients.teacher_epochs import teacher_epochs
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder, content_key
from raydd.storage.checkpoints import Checkpoints
from raydd.training.loop import accuracy, predict
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig
from tests.support import tiny
from tests.support.tiny import CPU, Results, randn

KEY = Key.root(5)
NETWORK = replace(tiny.NETWORK, norm="batch")
CONFIG = TeacherConfig(
    training=replace(TeacherConfig().training, epochs=6, batch_size=17, lr=0.05, augmentation="flip"), seed=11
)
"""Of 36 images, the last batch has two: fewer than three workers."""


def trained(
    work: Path,
    config: TeacherConfig = CONFIG,
    progress: Progress | None = None,
    data: PreparedData | None = None,
    kept: Sequence[int] = (),
) -> Teacher:
    checkpoints = Checkpoints(Folder.at(work), "teacher")
    return train_teacher(config, tiny.setting(NETWORK, data), KEY, checkpoints, progress or NoProgress(), kept)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return trained(tmp_path_factory.mktemp("teacher"))


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(t, states[1][name]) for name, t in states[0].items()
    )


def on_a_worker(work: str, config: TeacherConfig) -> Results:
    made = trained(Path(work), config, kept=[1])
    early = {f"early.{name}": tensor for name, tensor in made.early[1].items()}
    return {**made.module.state_dict(), **early, "test": torch.tensor(made.card.test_accuracy)}


@pytest.mark.parametrize("augmentation", ["none", "crop+flip"])
def test_any_number_of_workers_trains_the_same_teacher(augmentation: str, tmp_path: Path) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, epochs=2, augmentation=augmentation))
    wanted = trained(tmp_path / "alone", config, kept=[1])
    for world in (1, 2, 3):
        workers = tiny.on_workers(world, on_a_worker, str(tmp_path / str(world)), config)
        for found in workers:
            assert all(torch.equal(tensor, workers[0][name]) for name, tensor in found.items())
        for name, tensor in wanted.module.state_dict().items():
            torch.testing.assert_close(workers[0][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
            early = workers[0][f"early.{name}"]
            torch.testing.assert_close(early, wanted.early[1][name], rtol=1e-4, atol=1e-5, msg=name)
        saved = Checkpoints(Folder.at(tmp_path / str(world)), "teacher").load()
        assert saved is not None and len(saved[1]) == 2


class Stop(NoProgress):
    def __init__(self, after: int) -> None:
        self.after = after

    def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
        if done == self.after:
            raise InterruptedError


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_training_that_was_broken_off_goes_on_to_the_same_bits(after: int, optimizer: str, tmp_path: Path) -> None:
    changes = {"optimizer": "adamw", "momentum": 0.0, "lr": 0.01} if optimizer == "adamw" else {}
    config = replace(CONFIG, training=replace(CONFIG.training, **changes))
    whole = trained(tmp_path / "whole", config)
    with pytest.raises(InterruptedError):
        trained(tmp_path / "broken", config, Stop(after))
    told: list[float] = []

    class Told(NoProgress):
        def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
            assert (str(task), total) == ("teacher", 6) and note.startswith("train accuracy 0.")
            told.append(done)

    resumed = trained(tmp_path / "broken", config, Told())
    assert told == list(range(after + 1, 7))
    assert same(resumed.module, whole.module) and resumed.card == whole.card


def test_what_is_on_the_card(made: Teacher) -> None:
    data, card = tiny.data(), made.card
    assert NetworkConfig(**card.network) == NETWORK
    assert (card.dataset, card.fingerprint, card.class_names, card.shape, card.seed) == (
        data.name, data.fingerprint, data.class_names, (1, 8, 8), 11,
    )  # fmt: skip
    assert card.preprocessing == data.preprocessing.describe() and card.recipe == CONFIG.training.identity()
    assert card.test_accuracy == accuracy(predict(made.module, data.test.images), data.test.labels) > 0.6
    assert card.check_accuracy == card.test_accuracy  # there are few enough
    assert card.train_accuracy is not None and 0.5 < card.train_accuracy <= 1


def test_a_teacher_is_frozen_and_gives_logits(made: Teacher) -> None:
    images, before = tiny.data().test.images[:], copy.deepcopy(made.module)
    assert not made.module.training and not any(p.requires_grad for p in made.module.parameters())
    assert torch.equal(made.logits(images), before.eval()(images).detach()) and same(made.module, before)
    assert made.device == CPU
    assert made.batch_norms() == [made.module.body[0].norm, made.module.body[1].norm]


def test_no_generator_is_touched(tmp_path: Path, made: Teacher) -> None:
    state = torch.get_rng_state()
    trained(tmp_path)
    made.save(Folder.at(tmp_path / "saved"), "key")
    Teacher.load(Folder.at(tmp_path / "saved"), CPU)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_defaults_are_the_papers_but_for_the_epochs() -> None:
    recipe = TeacherConfig().training
    assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.batch_size) == (0.1, 0.9, 5e-4, 128)
    assert (recipe.schedule, recipe.augmentation, recipe.optimizer, recipe.epochs) == ("cosine", "crop+flip", "sgd", 30)


def test_a_saved_teacher_is_the_same(made: Teacher, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    made.save(folder, "key")
    found = Teacher.load(folder, CPU)
    assert same(found.module, made.module) and found.card == made.card
    assert not found.module.training and not any(p.requires_grad for p in found.module.parameters())
    assert folder.files() == ["card.json", "manifest.json", "model.safetensors"]
    found.check(tiny.data())


def test_what_is_not_a_whole_teacher_is_refused(made: Teacher, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    with pytest.raises(ArtefactError, match="there is no teacher here"):
        Teacher.load(folder, CPU)
    made.save(folder, "key")
    raw = folder.read("model.safetensors")
    folder.write("model.safetensors", raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ArtefactError, match="model.safetensors: the content is not what was written"):
        Teacher.load(folder, CPU)


@pytest.mark.parametrize("part", ["card", "network"])
def test_a_card_of_another_version_is_refused(part: str, made: Teacher, tmp_path: Path) -> None:
    values = asdict(made.card)
    (values if part == "card" else values["network"])["temper"] = 1

    class Odd:
        def dump(self) -> bytes:
            return json.dumps(values).encode()

    Teacher(made.module, Odd()).save(Folder.at(tmp_path), "key")  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match=r"another version of raydd \(the cards differ in temper\)"):
        Teacher.load(Folder.at(tmp_path), CPU)


def relabelled(data: PreparedData) -> PreparedData:
    return replace(data, test=replace(data.test, labels=(data.test.labels + 1) % 3))


def enlarged(data: PreparedData) -> PreparedData:
    return replace(data, train=LabelledImages(randn(0, 3, 1, 9, 9).float(), torch.arange(3)))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (relabelled, DataError, r"tiny: the teacher classifies .*% of 30 test images, and when it was made .* train"),
        (
            lambda data: replace(data, class_names=("ant", "cat", "bee")),
            DataError,
            "tiny: has the teacher's classes in another order: class 1 is 'cat' here and 'bee' for the teacher; name",
        ),
        (
            lambda data: replace(data, class_names=("ant", "bee", "dog", "eel")),
            DataError,
            "tiny: has 4 classes and the teacher knows 3; only here: dog, eel; only there: cat; give the data",
        ),
        (
            lambda data: replace(data, preprocessing=Identity()),
            ConfigError,
            r"^data.preprocess: the teacher knows images mapped by standardise mean \[0.5\] std \[0.2\], the dataset's "
            "are mapped by none; give",
        ),
        (
            lambda data: replace(data, preprocessing=Standardise(torch.tensor([0.5]).double(), torch.tensor([0.21]))),
            ConfigError,
            r"^data.preprocess: .* std \[0.21\]; give data.preprocess, data.statistics",
        ),
        (enlarged, ConfigError, "^data.image_size: the teacher is for images of 1x8x8, the dataset has 1x9x9; give"),
    ],
    ids=["labels", "order of classes", "other classes", "preprocessing", "its numbers", "size"],
)
def test_data_that_a_teacher_does_not_know_are_refused(
    change: Callable[[PreparedData], PreparedData], error: type[Exception], message: str, made: Teacher
) -> None:
    made.check(tiny.data())
    with pytest.raises(error, match=message):
        made.check(change(tiny.data()))


def test_statistics_that_differ_by_rounding_are_the_same(made: Teacher) -> None:
    mean = torch.tensor([0.5 * (1 + 1e-12)], dtype=torch.float64)
    std = torch.tensor([0.2], dtype=torch.float64)
    made.check(replace(tiny.data(), preprocessing=Standardise(mean, std)))


def test_the_check_looks_at_evenly_spaced_images(made: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(teacher, "CHECK_IMAGES", 4)
    monkeypatch.setattr(teacher, "predict", lambda module, images: seen.append(images) or predict(module, images))
    data = tiny.data()
    rows = [0, 7, 15, 22]
    found = accuracy(predict(made.module, data.test.images[rows]), data.test.labels[rows])
    Teacher(made.module, replace(made.card, check_accuracy=found)).check(data)
    assert torch.equal(seen[0], data.test.images[rows])


def test_one_image_more_or_less_is_no_other_dataset(made: Teacher) -> None:
    for off, fits in ((1, True), (-1, True), (2, False)):
        card = replace(made.card, check_accuracy=made.card.check_accuracy + off / 30)
        if fits:
            Teacher(made.module, card).check(tiny.data())
        else:
            with pytest.raises(DataError, match="the teacher classifies"):
                Teacher(made.module, card).check(tiny.data())


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the training loss is (nan|inf)"):
        trained(tmp_path, replace(CONFIG, training=replace(CONFIG.training, lr=1e30)))


@pytest.mark.parametrize("network", [tiny.NETWORK, NetworkConfig(name="alexnet"), NetworkConfig(name="vgg11")])
def test_networks_without_batch_norm_are_refused(network: NetworkConfig, tmp_path: Path) -> None:
    message = f"^teacher.network: {network.label} has no batch norm"
    with pytest.raises(ConfigError, match=message):
        TeacherConfig(network=network)
    for make in (
        lambda: train_teacher(
            CONFIG, tiny.setting(network), KEY, Checkpoints(Folder.at(tmp_path), "teacher"), NoProgress()
        ),
        lambda: from_weights(replace(CONFIG, weights="absent"), network, tiny.data(), CPU),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


@pytest.mark.parametrize("field, value", [("lr", None), ("views", ViewsConfig())])
def test_recipes_of_students_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^teacher.training.{field}: "):
        TeacherConfig(training=replace(Recipe(), **{field: value}))


def test_what_makes_another_teacher(tmp_path: Path) -> None:
    def key(
        config: TeacherConfig = CONFIG,
        network: NetworkConfig = NETWORK,
        data: PreparedData | None = None,
        seed: int = 11,
    ) -> str:
        return content_key(teacher_identity(config, network, data or tiny.data(), seed))

    (tmp_path / "a.pt").write_bytes(b"a")
    (tmp_path / "b.pt").write_bytes(b"b")
    (tmp_path / "c.pt").write_bytes(b"a")
    taken = [key(replace(CONFIG, weights=str(tmp_path / name))) for name in ("a.pt", "b.pt", "c.pt")]
    assert taken[0] == taken[2] == key(replace(CONFIG, weights=str(tmp_path / "a.pt")), seed=12)
    different = [
        key(),
        key(replace(CONFIG, training=replace(CONFIG.training, lr=0.2))),
        key(network=replace(NETWORK, width=5)),
        key(data=replace(tiny.data(), class_names=("b", "a", "c"))),
        key(data=replace(tiny.data(), preprocessing=Identity())),
        key(seed=12),
        *taken[:2],
    ]
    assert len(set(different)) == len(different)
    assert key(replace(CONFIG, store="elsewhere", seed=3)) == key()
    with pytest.raises(ConfigError, match=r"^teacher.weights: cannot be read: .*none.pt: no such file"):
        key(replace(CONFIG, weights=str(tmp_path / "none.pt")))


def colours() -> PreparedData:
    images = LabelledImages(randn(0, 6, 3, 40, 40).float(), torch.arange(6) % 3)
    return PreparedData("colours", tiny.CLASSES, "1" * 64, Identity(), train=images, test=images)


@pytest.mark.parametrize("nested", [False, True])
def test_parameters_of_torchvision_are_a_teacher(nested: bool, tmp_path: Path) -> None:
    with seeded(KEY):
        theirs = torchvision.models.resnet18(num_classes=3)
    state = theirs.state_dict()
    torch.save({"model": state, "epoch": 3} if nested else state, tmp_path / "theirs.pth")
    network = NetworkConfig(name="resnet18", norm="batch", stem="imagenet")
    config = TeacherConfig(weights=str(tmp_path / "theirs.pth"), seed=1)
    found, data = from_weights(config, network, colours(), CPU), colours()
    assert torch.equal(found.logits(data.test.images), theirs.eval()(data.test.images[:]).detach())
    assert found.card.train_accuracy is None and found.card.seed is None and len(found.card.recipe["weights"]) == 64
    assert len(found.batch_norms()) == 20
    found.save(Folder.at(tmp_path / "saved"), "key")
    Teacher.load(Folder.at(tmp_path / "saved"), CPU).check(data)


def test_parameters_of_a_teacher_of_ours_are_a_teacher(made: Teacher, tmp_path: Path) -> None:
    save_file(made.module.state_dict(), tmp_path / "ours.safetensors")
    found = from_weights(TeacherConfig(weights=str(tmp_path / "ours.safetensors")), NETWORK, tiny.data(), CPU)
    assert same(found.module, made.module) and found.card.check_accuracy == made.card.check_accuracy


class Bad:
    """Prints when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """As pickle wants it."""
        return print, ("this is not a tensor",)


def test_files_without_parameters_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.weight": Bad()}, tmp_path / "pickle.pt")
    torch.save([1.0], tmp_path / "list.pt")
    torch.save({"fc.weight": torch.zeros(2), "epoch": 3}, tmp_path / "mixed.pt")
    save_file({"head.bias": torch.zeros(4)}, tmp_path / "other.safetensors")
    for name in ("noise.pt", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"noise" * 100)
    for name, message in {
        "pickle.pt": "holds pickled objects beside tensors",
        "noise.pt": "is not a file of parameters, or is damaged",
        "noise.safetensors": "is not a file of parameters, or is damaged",
        "list.pt": "is not a mapping of names to tensors",
        "mixed.pt": "holds fc.weight, epoch, and no mapping of names to tensors under model, state_dict",
        "other.safetensors": "the stored parameters are not this network's",
    }.items():
        with pytest.raises(ArtefactError, match=message):
            from_weights(TeacherConfig(weights=str(tmp_path / name)), NETWORK, tiny.data(), CPU)
    assert "not a tensor" not in capsys.readouterr().out


def test_the_first_network_is_drawn_from_the_key(tmp_path: Path) -> None:
    short = replace(CONFIG, training=replace(CONFIG.training, epochs=1, lr=1e-12, weight_decay=0.0))
    found = trained(tmp_path, short).module
    with seeded(KEY.child("init")):
        start = networks.build(NETWORK, (1, 8, 8), 3)
    for now, before in zip(found.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(now, before.detach(), rtol=0, atol=1e-9)
    assert found.body[0].norm.num_batches_tracked == 3


# Earlier epochs


def states(folder: Path) -> dict[int, dict[str, torch.Tensor]]:
    """The network after each epoch of one that nobody broke off, as its checkpoints had it."""
    found = {}

    class Copied(NoProgress):
        def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
            saved = Checkpoints(Folder.at(folder), "teacher").load()
            assert saved is not None and len(saved[1]) == done
            own = {name.removeprefix("module."): t for name, t in saved[0].items() if name.startswith("module.")}
            found[int(done)] = own

    trained(folder, progress=Copied())
    return found


def test_each_stage_has_its_part_of_the_epochs() -> None:
    assert teacher_epochs(200, 5) == (40, 80, 120, 160, 200)
    assert teacher_epochs(10, 3) == (4, 7, 10)
    assert teacher_epochs(3, 5) == (1, 2, 2, 3, 3)
    assert teacher_epochs(30, 1) == (30,)


def test_earlier_epochs_are_kept_and_opened(made: Teacher, tmp_path: Path) -> None:
    wanted, folder = states(tmp_path / "plain"), Folder.at(tmp_path / "saved")
    found = trained(tmp_path / "work", kept=teacher_epochs(6, 3))
    assert same(found.module, made.module) and found.card == made.card
    assert sorted(found.early) == [2, 4]
    found.save(folder, "key")
    names = ["card.json", "manifest.json", "model-epoch-00002.safetensors", "model-epoch-00004.safetensors"]
    assert folder.files() == [*names, "model.safetensors"]
    for epoch in (2, 4, 6, None):
        opened = Teacher.load(folder, CPU, epoch)
        tiny.assert_equal(dict(opened.module.state_dict()), wanted[epoch or 6])
        assert opened.card == made.card and opened.epoch == (epoch if epoch in (2, 4) else None)
        assert not opened.module.training and not any(p.requires_grad for p in opened.module.parameters())
    assert not torch.equal(wanted[2]["head.weight"], wanted[4]["head.weight"])
    assert Teacher.stored_epochs(folder) == {2, 4, 6}
    with pytest.raises(ArtefactError, match="what the teacher was after epoch 3 was not kept; run `raydd teacher`"):
        Teacher.load(folder, CPU, 3)


def test_nothing_is_kept_that_nobody_wants(made: Teacher, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path / "saved")
    assert Teacher.stored_epochs(folder) == frozenset()
    trained(tmp_path / "work", kept=[6]).save(folder, "key")
    assert folder.files() == ["card.json", "manifest.json", "model.safetensors"]
    assert Teacher.stored_epochs(folder) == {6}
    assert same(Teacher.load(folder, CPU, 6).module, made.module)


def test_a_teacher_is_stored_anew_with_more_epochs(made: Teacher, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path / "saved")
    made.save(folder, "key")
    again = trained(tmp_path / "work", kept=[3])
    again.save(folder, "key")
    assert Teacher.stored_epochs(folder) == {3, 6}
    assert same(Teacher.load(folder, CPU).module, made.module)


@pytest.mark.parametrize("after", [1, 2, 3, 5, 6])
def test_kept_epochs_outlive_an_interruption(after: int, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", kept=[2, 4])
    with pytest.raises(InterruptedError):
        trained(tmp_path / "broken", progress=Stop(after), kept=[2, 4])
    resumed = trained(tmp_path / "broken", kept=[2, 4])
    assert same(resumed.module, whole.module) and resumed.card == whole.card
    assert sorted(resumed.early) == [2, 4]
    for epoch in (2, 4):
        tiny.assert_equal(dict(resumed.early[epoch]), dict(whole.early[epoch]))
    assert Folder.at(tmp_path / "broken").files() == ["teacher.safetensors"]


@pytest.mark.parametrize(
    "before, kept, epochs", [((), [4], 3), ((), [3], 6), ((), [2, 4], 6), ((2,), [2, 4], 3), ((2, 3), [4], 3)]
)
def test_a_checkpoint_without_what_is_wanted_is_not_gone_on_from(
    before: Sequence[int], kept: Sequence[int], epochs: int, tmp_path: Path
) -> None:
    """The third epoch is the last finished one; `epochs` are trained then."""
    whole = trained(tmp_path / "whole", kept=[2, 3, 4])
    with pytest.raises(InterruptedError):
        trained(tmp_path / "broken", progress=Stop(3), kept=before)
    told: list[float] = []

    class Told(NoProgress):
        def update(self, task: Work, done: float, total: float, note: str = "", numbers: Numbers | None = None) -> None:
            told.append(done)

    resumed = trained(tmp_path / "broken", progress=Told(), kept=kept)
    assert len(told) == epochs
    assert sorted(resumed.early) == kept and same(resumed.module, whole.module)
    for epoch in kept:
        tiny.assert_equal(dict(resumed.early[epoch]), dict(whole.early[epoch]))


def test_an_earlier_epoch_is_not_held_against_the_card(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path / "saved")
    trained(tmp_path / "work", kept=[1]).save(folder, "key")
    early, last = Teacher.load(folder, CPU, 1), Teacher.load(folder, CPU)
    found = accuracy(predict(early.module, tiny.data().test.images), tiny.data().test.labels)
    assert abs(found - early.card.check_accuracy) > 0.06
    early.check(tiny.data())
    last.check(tiny.data())
    with pytest.raises(DataError, match="in another order"):
        early.check(replace(tiny.data(), class_names=("ant", "cat", "bee")))


def test_a_teacher_from_a_file_has_no_epochs(made: Teacher, tmp_path: Path) -> None:
    save_file(made.module.state_dict(), tmp_path / "ours.safetensors")
    config, folder = TeacherConfig(weights=str(tmp_path / "ours.safetensors")), Folder.at(tmp_path / "saved")
    from_weights(config, NETWORK, tiny.data(), CPU).save(folder, "key")
    assert Teacher.stored_epochs(folder) == frozenset()
    with pytest.raises(ConfigError, match=r"^stages.teacher_conditions: .* teacher.weights and has no epochs"):
        Teacher.load(folder, CPU, 3)
