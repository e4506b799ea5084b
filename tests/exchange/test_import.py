"""Reading other code's sets: what comes out is what is in the files, and what cannot be right is refused."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydd.core.errors import DataError, UserError
from raydd.data.prepared import PreparedData
from raydd.exchange.answers import Answers, class_order
from raydd.exchange.formats import FORMATS, read
from raydd.exchange.soft_labels import as_stored
from raydd.sets.formation import Formation
from raydd.sets.synthetic import SyntheticSet
from tests.support import foreign

DATASETS = {"digits": foreign.digits, "pictures": foreign.pictures}
NOTHING = Answers()


@pytest.fixture(params=DATASETS)
def data(request: pytest.FixtureRequest) -> PreparedData:
    return DATASETS[request.param]()


def assert_same(found: SyntheticSet, images: Tensor, per_class: int = 2) -> None:
    assert torch.equal(found.images, images) and found.images.dtype == torch.float32
    assert torch.equal(found.labels, foreign.classes(per_class))


@pytest.mark.parametrize("ending", ["best", "", "5000"])
def test_triple_with_soft_labels(data: PreparedData, tmp_path: Path, ending: str) -> None:
    images, labels = foreign.images(data), foreign.logits()
    folder = foreign.write_triple(tmp_path / "set", images, labels, 0.03, ending)
    foreign.write_triple(tmp_path / "set", images + 1, labels, 0.03, "zca_5000")
    found = read("pt", folder, data, Answers(soft_labels="logits"))
    assert_same(found, images)
    assert found.soft_labels is not None and torch.equal(found.soft_labels, labels)
    assert found.learned_lr == (pytest.approx(0.03),)
    names = {Path(name).name for name in found.card["source"]["files"]}
    assert {name.split("_")[0].removesuffix(".pt") for name in names} == {"images", "labels", "lr"}


def test_hard_triple_out_of_order_in_half_precision(data: PreparedData, tmp_path: Path) -> None:
    images = foreign.images(data).half()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    folder = foreign.write_triple(tmp_path / "set", images[order], foreign.classes()[order])
    found = read("pt", folder, data, Answers(lr=0.01))
    expected = torch.cat([images[[row for row in order.tolist() if row // 2 == k]] for k in range(10)])
    assert_same(found, expected.float())
    assert found.soft_labels is None and found.learned_lr == (0.01,)


@pytest.mark.parametrize("numpy_1", [False, True])
def test_res_file(data: PreparedData, tmp_path: Path, numpy_1: bool) -> None:
    experiments = [(foreign.images(data, seed=seed), foreign.classes()) for seed in range(3)]
    file = foreign.write_res(tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", experiments, numpy_1)
    assert_same(read("res", tmp_path, data, NOTHING), experiments[2][0])
    assert_same(read("res", file, data, Answers(experiment=1)), experiments[1][0])
    with pytest.raises(DataError, match="experiments 0 to 2; correct --experiment 3"):
        read("res", file, data, Answers(experiment=3))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("res_DC_CIFAR10_ConvNet_2ipc.pt", "dc"), ("res_DSA_x.pt", "dsa"), ("res_DM_x.pt", "dm"), ("res_other.pt", "dsa")],
)
def test_students_of_a_res_file_are_trained_as_its_name_says(
    name: str, recipe: str, data: PreparedData, tmp_path: Path
) -> None:
    file = foreign.write_res(tmp_path / name, [(foreign.images(data), foreign.classes())], False)
    assert FORMATS["res"].recipe_name(read("res", file, data, NOTHING)) == recipe


@pytest.mark.parametrize("name", ["data.pt", "data_20000.pt"])
@pytest.mark.parametrize("factor", [1, 2])
def test_mosaics_of_idc_and_ncfm(data: PreparedData, tmp_path: Path, name: str, factor: int) -> None:
    """Pixels in [0, 1], of which each stands for factor^2 training images, and is enlarged to them in pixels."""
    pixels = torch.rand(20, *data.shape, generator=torch.Generator().manual_seed(3))
    torch.save([pixels, foreign.classes()], tmp_path / name)
    found = read("idc", tmp_path, data, Answers(factor=factor))
    assert_same(found, data.preprocessing.forward(pixels))
    seen = found.decoded()
    half = [side // 2 for side in data.shape[1:]]
    parts = [
        image[:, row : row + half[0], column : column + half[1]]
        for image in pixels
        for row in (0, half[0])
        for column in (0, half[1])
    ]
    large = torch.nn.functional.interpolate(torch.stack(parts), data.shape[1:], mode="bilinear")
    expected = data.preprocessing.forward(pixels if factor == 1 else large)
    torch.testing.assert_close(seen.images, expected)
    assert torch.equal(seen.labels, foreign.classes(2 * factor**2))
    assert FORMATS["idc"].recipe_name(found) == "idc" and found.card["source"]["factor"] == factor


def test_the_factor_of_mosaics_has_to_be_said(tmp_path: Path) -> None:
    data, pixels = foreign.digits(), torch.rand(20, 1, 8, 8)
    folder = tmp_path / "conv3in_grad_mse_nd2000_cut_niter2000_factor2_lr0.005_mix_ipc2"
    for place in (tmp_path, folder):
        place.mkdir(exist_ok=True)
        torch.save((pixels, foreign.classes()), place / "data.pt")
    with pytest.raises(DataError, match="add --factor: 2 is usual"):
        read("idc", tmp_path, data, NOTHING)
    assert read("idc", folder, data, NOTHING).formation == Formation(factor=2)
    with pytest.raises(DataError, match="folder's name says factor 2, --factor says 3"):
        read("idc", folder, data, Answers(factor=3))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": torch.zeros(20, 1, 8, 8)}, "is not a pair of images and labels"),
        ([3 * torch.randn(20, 1, 8, 8), foreign.classes()], r"pixels in \[0, 1\]; images in the space of networks"),
        ([torch.zeros(20, 1, 8, 8, dtype=torch.uint8), foreign.classes()], "images are torch.uint8"),
        ([torch.rand(20, 1, 8, 8), [0] * 20], "is list, not a tensor"),
        ([torch.rand(20, 3, 8, 8), foreign.classes()], r"shape \[20, 3, 8, 8\]"),
    ],
)
def test_other_files_are_no_mosaics(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "data.pt")
    with pytest.raises(DataError, match=words):
        read("idc", tmp_path, foreign.digits(), Answers(factor=2))


def test_kip_file(data: PreparedData, tmp_path: Path) -> None:
    images, labels = foreign.images(data), foreign.centred()
    found = read("kip", foreign.write_npz(tmp_path / "kip.npz", images, labels), data, NOTHING)
    assert_same(found, images)
    assert found.soft_labels is not None
    for own, theirs in zip(found.soft_labels.double(), labels.double(), strict=True):
        moved = [float(y) - float(theirs.mean()) + 0.1 for y in theirs]
        total = sum(max(p, 1e-6) for p in moved)
        assert own.softmax(0).tolist() == pytest.approx([max(p, 1e-6) / total for p in moved], abs=1e-7)
    assert found.card["source"]["soft_labels"]["were"] == "centred"


@pytest.mark.parametrize("soft", [False, True])
def test_rat_bptt_file(data: PreparedData, tmp_path: Path, soft: bool) -> None:
    images, labels = foreign.images(data), foreign.logits().softmax(1)
    file = foreign.write_hdf5(tmp_path / "ipc2.h5", images, labels if soft else None)
    found = read("rat_bptt", file, data, Answers(soft_labels="probabilities" if soft else None))
    assert_same(found, images)
    assert found.card["source"]["epoch"] == 17
    if soft:
        assert found.soft_labels is not None
        torch.testing.assert_close(found.soft_labels.softmax(1), labels)


LAYOUTS: dict[str, tuple[Callable[[PreparedData], list[str]], str]] = {
    "rded": (lambda data: [f"{k:05d}" for k in range(10)], "{:05d}.png"),
    "sre2l": (lambda data: [f"new{k:03d}" for k in range(10)], "class{label:03d}_id{:03d}.png"),
    "unpadded": (lambda data: [f"{k}" for k in range(10)], "{}.png"),
    "named": (lambda data: list(data.class_names), "{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_class_folders(data: PreparedData, tmp_path: Path, layout: str) -> None:
    names, file = LAYOUTS[layout]
    pixels = torch.randint(0, 256, (20, *data.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    folder = foreign.write_class_folders(tmp_path / "set", pixels, names(data), file)
    found = read("imagefolder", folder, data, NOTHING)
    assert_same(found, data.preprocessing.forward(pixels))
    assert torch.equal(found.pixels(), pixels)


def test_other_folder_names_need_the_order(tmp_path: Path) -> None:
    data = foreign.pictures()
    pixels = torch.randint(0, 256, (20, *data.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    folder = foreign.write_class_folders(tmp_path / "set", pixels, [f"n{k:03d}" for k in range(10)])
    with pytest.raises(DataError, match="add --class-order"):
        read("imagefolder", folder, data, NOTHING)
    found = read("imagefolder", folder, data, Answers(class_order=data.class_names[::-1]))
    assert_same(found, data.preprocessing.forward(pixels.view(10, 2, *data.shape).flip(0).flatten(0, 1)))


def test_class_order_moves_classes_and_the_columns_of_labels(tmp_path: Path) -> None:
    data, images, labels = foreign.pictures(), foreign.images(foreign.pictures()), foreign.logits()
    folder = foreign.write_triple(tmp_path / "set", images, labels, 0.03)
    order = (*data.class_names[3:], *data.class_names[:3])
    found = read("pt", folder, data, Answers(soft_labels="logits", class_order=order))
    assert found.soft_labels is not None
    for row in range(20):
        number = data.class_names.index(order[row // 2])
        own = 2 * number + row % 2
        assert torch.equal(found.images[own], images[row]) and found.labels[own] == number
        for column, name in enumerate(order):
            assert found.soft_labels[own, data.class_names.index(name)] == labels[row, column]


def test_class_orders_name_every_class_once(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat")
    (tmp_path / "order").write_text("cat\nant\n\nbee\n")
    assert class_order("data", names) == names
    assert class_order("bee, cat,ant", names) == ("bee", "cat", "ant")
    assert class_order(str(tmp_path / "order"), names) == ("cat", "ant", "bee")
    for text in ("ant,bee", "ant,bee,bee", "ant,bee,dog"):
        with pytest.raises(UserError, match="missing: 'cat'"):
            class_order(text, names)


@pytest.mark.parametrize("cumulative", [True, False])
def test_stage_folders(tmp_path: Path, cumulative: bool) -> None:
    data = foreign.digits()
    parts = [(foreign.images(data, 1, seed), foreign.classes(1)) for seed in range(11)]
    found = read("pdd", foreign.write_stages(tmp_path / "pdd", parts, 0.02, cumulative), data, NOTHING)
    assert torch.equal(found.images, torch.cat([images for images, _ in parts]))
    assert found.stage.tolist() == [number for number in range(11) for _ in range(10)]
    assert found.learned_lr == pytest.approx([0.02 * (number + 1) for number in range(11)])


def test_stage_folders_that_do_not_follow_each_other(tmp_path: Path) -> None:
    data = foreign.digits()
    parts = [(foreign.images(data, 1, seed), foreign.classes(1)) for seed in range(3)]
    folder = foreign.write_stages(tmp_path / "pdd", parts)
    foreign.write_triple(folder / "interval3_epoch11-15", foreign.images(data, 3, 9), foreign.classes(3))
    with pytest.raises(DataError, match="interval3_epoch11-15: does not begin with the images of the stage before"):
        read("pdd", folder, data, NOTHING)


def _write(folder: Path, data: PreparedData, **changes: Any) -> Path:
    tensors = {"images": foreign.images(data), "labels": foreign.classes()} | changes
    return foreign.write_triple(folder / "set", tensors["images"], tensors["labels"], changes.get("lr", 0.03))


def _with_nan(data: PreparedData) -> Tensor:
    images = foreign.images(data)
    images[3, 0, 1, 1] = torch.nan
    return images


Make = Callable[[PreparedData], dict[str, Any]]
WRONG: dict[str, tuple[Make, Answers, list[str]]] = {
    "bytes": (
        lambda d: {"images": 255 * d.preprocessing.inverse(foreign.images(d)).clamp(0, 1)},
        NOTHING,
        ["0 to 255"],
    ),
    "uint8": (lambda d: {"images": torch.zeros(20, *d.shape, dtype=torch.uint8)}, NOTHING, ["torch.uint8"]),
    "pixels": (
        lambda d: {"images": d.preprocessing.inverse(foreign.images(d)).clamp(0, 1)},
        NOTHING,
        ["images_best.pt", "pixels in [0, 1]: say --preprocess none"],
    ),
    "nan": (lambda d: {"images": _with_nan(d)}, NOTHING, ["images_best.pt", "1 of 20 images", "not finite"]),
    "shape": (lambda d: {"images": torch.randn(20, 3, 28, 28)}, NOTHING, ["[20, 3, 28, 28]", "data.image_size"]),
    "classes": (lambda d: {"labels": foreign.classes() + 1}, NOTHING, ["labels_best.pt", "1 to 10", "0 to 9"]),
    "unequal": (
        lambda d: {"labels": torch.cat([foreign.classes()[1:], torch.tensor([9])])},
        NOTHING,
        ["labels_best.pt", "different numbers of images", " 1 and ", " 3"],
    ),
    "count": (lambda d: {"labels": foreign.classes(1)}, NOTHING, ["10 labels for 20 images"]),
    "columns": (lambda d: {"labels": torch.randn(20, 7)}, NOTHING, ["soft labels of 7 classes, the dataset has 10"]),
    "unanswered": (lambda d: {"labels": foreign.logits()}, NOTHING, ["--soft-labels", "look like logits"]),
    "kind": (
        lambda d: {"labels": foreign.logits().softmax(1)},
        Answers(soft_labels="logits"),
        ["are not logits but look like probabilities"],
    ),
    "needless": (lambda d: {}, Answers(soft_labels="logits"), ["leave --soft-labels out"]),
    "infinite": (lambda d: {"labels": foreign.logits() / 0}, Answers(soft_labels="logits"), ["not all finite"]),
    "float classes": (lambda d: {"labels": foreign.classes().float()}, NOTHING, ["not int64 [N] or float"]),
    "lr": (lambda d: {"lr": -0.1}, NOTHING, ["lr_best.pt", "must be a positive number, is -0.1"]),
    "two lr": (lambda d: {}, Answers(lr=0.5), ["0.03", "--lr says 0.5"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(data: PreparedData, tmp_path: Path, name: str) -> None:
    make, answers, words = WRONG[name]
    with pytest.raises(DataError) as caught:
        read("pt", _write(tmp_path, data, **make(data)), data, answers)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_standardised_images_are_not_plain_pixels() -> None:
    """Under `none` the real images lie in [0, 1]."""
    from raydd.data.prepared import LabelledImages
    from raydd.data.preprocessing import Identity
    from raydd.exchange import value_space

    data = foreign.pictures()
    real = LabelledImages(data.preprocessing.inverse(data.train.images[:]), data.train.labels)
    plain = PreparedData("plain", data.class_names, "0" * 64, Identity(), train=real, test=real)
    with pytest.raises(DataError, match="look like standardised images: say --preprocess standardise"):
        value_space.check(foreign.images(data), plain, "images")
    numbers = value_space.check(real.images[:], plain, "images")
    flat = real.images[:].double().transpose(0, 1).flatten(1)
    assert numbers["mean"] == pytest.approx(flat.mean(1).tolist()) == numbers["data_mean"]
    assert numbers["std"] == pytest.approx(flat.std(1, correction=0).tolist())


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_distilled_images_may_be_paler_or_stronger(data: PreparedData, tmp_path: Path, factor: float) -> None:
    read("pt", _write(tmp_path, data, images=factor * foreign.images(data)), data, NOTHING)


class Planted:
    """Would leave a file behind where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:  # noqa: D105
        return Path.touch, (self.place,)


def test_pickled_objects_are_not_run(tmp_path: Path) -> None:
    folder, planted = _write(tmp_path, foreign.digits()), tmp_path / "ran"
    torch.save({"images": Planted(planted)}, folder / "images_best.pt")
    with pytest.raises(DataError, match=r"images_best\.pt: holds pickled objects"):
        read("pt", folder, foreign.digits(), NOTHING)
    np.savez(tmp_path / "kip.npz", images=np.array([Planted(planted)], dtype=object), labels=np.zeros(1))
    with pytest.raises(DataError, match="plain arrays"):
        read("kip", tmp_path / "kip.npz", foreign.digits(), NOTHING)
    assert not planted.exists()
    pickle.loads(pickle.dumps(Planted(planted)))
    assert planted.exists()


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        read(name, tmp_path, foreign.digits(), NOTHING)
    with pytest.raises(DataError, match="there is no such file or folder"):
        read(name, tmp_path / "nowhere", foreign.digits(), NOTHING)


@pytest.mark.parametrize(
    ("name", "file"),
    [("pt", "images_best.pt"), ("res", "res_x.pt"), ("idc", "data.pt"), ("kip", "x.npz"), ("rat_bptt", "x.h5")],
)
def test_a_damaged_file_is_named(name: str, file: str, tmp_path: Path) -> None:
    for written in (file, file.replace("images", "labels")):
        (tmp_path / written).write_bytes(b"neither of these")
    with pytest.raises(DataError, match=file.replace(".", r"\.")):
        read(name, tmp_path, foreign.digits(), NOTHING)


def test_the_copy_for_viewing_is_refused(tmp_path: Path) -> None:
    folder = foreign.write_triple(tmp_path / "set", foreign.images(foreign.digits()), foreign.classes(), 0.1, "zca_500")
    for source in (folder, folder / "images_zca_500.pt"):
        with pytest.raises(DataError, match=r"copy for viewing.*images_500\.pt: name this"):
            read("pt", source, foreign.digits(), NOTHING)


def test_several_sets_in_a_folder_are_told_apart_by_name(tmp_path: Path) -> None:
    sets = {ending: foreign.images(foreign.digits(), seed=int(ending)) for ending in ("100", "200")}
    for ending, images in sets.items():
        foreign.write_triple(tmp_path, images, foreign.classes(), 0.1, ending)
    with pytest.raises(DataError, match=r"images_100\.pt, images_200\.pt"):
        read("pt", tmp_path, foreign.digits(), NOTHING)
    assert_same(read("pt", tmp_path / "images_200.pt", foreign.digits(), NOTHING), sets["200"])


def test_shuffled_soft_labels_are_sorted_by_their_largest(tmp_path: Path) -> None:
    data, images, labels = foreign.digits(), foreign.images(foreign.digits()), foreign.logits()
    order = torch.arange(20).view(10, 2).T.flatten()
    folder = foreign.write_triple(tmp_path / "set", images[order], labels[order], 0.1)
    found = read("pt", folder, data, Answers(soft_labels="logits"))
    assert_same(found, images)
    assert found.soft_labels is not None and torch.equal(found.soft_labels, labels)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5), min_size=1, max_size=4))
def test_centred_labels_keep_their_largest_entry(rows: list[list[float]]) -> None:
    labels = torch.tensor(rows)
    labels -= labels.mean(1, keepdim=True)
    found = as_stored(labels, "centred", "here")
    chosen = found.argmax(1, keepdim=True)
    assert bool((labels.gather(1, chosen) >= labels.amax(1, keepdim=True) - 1e-6).all())
    assert found.exp().sum(1).tolist() == pytest.approx([1.0] * len(rows), abs=1e-5)


def test_centred_one_hots_are_one_hots() -> None:
    p = as_stored(torch.eye(4) - 0.25, "centred", "here").softmax(1)
    assert p[0].tolist() == pytest.approx([1 / (1 + 3e-6), *[1e-6 / (1 + 3e-6)] * 3], rel=1e-4)
    assert math.isclose(float(p.sum()), 4, rel_tol=1e-6)


def test_the_library_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install raydd\[hdf5\]"):
        read("rat_bptt", tmp_path, foreign.digits(), NOTHING)
