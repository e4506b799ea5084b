"""Named subsets of ImageNet-1K, from its class folders and from fast.ai's archives."""

from pathlib import Path

import pytest
import torch
from torchvision.datasets.imagenette import Imagenette
from torchvision.models import ResNet18_Weights

from raydd.core.errors import ConfigError, DataError
from raydd.data import DataConfig, DataFacts, signature, size_of
from raydd.data.fit_preprocessing import literature_constants
from raydd.data.subsets import SUBSETS
from tests.support.image_files import encoded, load_from, noise, write_folders

FRUIT = SUBSETS["imagefruit"]
INDICES = {  # of the classes among the 1,000, as the code of Cazenavette et al. has them
    "imagenette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
    "imagewoof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
    "imagemeow": [281, 282, 283, 284, 285, 291, 292, 290, 289, 287],
    "imagesquawk": [84, 130, 88, 144, 145, 22, 96, 9, 100, 89],
    "imagefruit": [953, 954, 949, 950, 951, 957, 952, 945, 943, 948],
    "imageyellow": [309, 986, 954, 951, 987, 779, 599, 291, 72, 11],
}


def write_classes(root: Path, wnids: tuple[str, ...], folder: str = "imagenet", train: int = 2) -> None:
    """Some photographs of each class, which tell their class by their size."""
    for label, wnid in enumerate(wnids):
        for split, count in (("train", train), ("val", 1)):
            for number in range(count):
                image = encoded(noise(100 * label + number, 40 + label, 44), "JPEG")
                write_folders(root, {f"{folder}/{split}/{wnid}/{wnid}_{number}.JPEG": image})


def test_wnids_are_in_the_order_of_the_papers_indices() -> None:
    """Torchvision's index of a class is the place of its wnid in the alphabet: so one that is known places others."""
    pairs = sorted(pair for name, indices in INDICES.items() for pair in zip(indices, SUBSETS[name], strict=True))
    assert [wnid for _, wnid in pairs] == sorted(wnid for _, wnid in pairs)
    index_of = {}
    for index, wnid in pairs:
        assert index_of.setdefault(wnid, index) == index
    assert len(set(index_of.values())) == len(index_of)


def test_classes_that_are_known_by_name() -> None:
    assert sorted(SUBSETS["imagenette"]) == sorted(Imagenette._WNID_TO_CLASS)
    categories = ResNet18_Weights.DEFAULT.meta["categories"]
    assert [categories[index] for index in INDICES["imagefruit"]][-3:] == ["bell pepper", "cucumber", "Granny Smith"]
    assert (FRUIT[-1], SUBSETS["imageyellow"][8]) == ("n07742313", "n01773157")


def test_every_subset_has_its_classes_once() -> None:
    for name, wnids in SUBSETS.items():
        assert len(set(wnids)) == len(wnids) == (100 if name == "imagenet-100" else 10)
    assert SUBSETS["imagenet-10"] == SUBSETS["imagenet-100"][:10]


def test_a_subset_reads_its_classes_alone_in_its_own_order(tmp_path: Path) -> None:
    others = ("n01440764", "n07760859")
    write_classes(tmp_path, FRUIT + others)
    splits = load_from("imagenet:imagefruit", tmp_path, image_size=24)
    assert (splits.train.name, splits.train.class_names) == ("imagefruit", FRUIT)
    assert list(FRUIT) != sorted(FRUIT)
    assert splits.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert splits.test.labels.tolist() == list(range(10))
    whole = load_from("imagenet", tmp_path, image_size=24)
    assert set(whole.train.class_names) == set(FRUIT + others)
    last = whole.train.images[whole.train.labels == whole.train.class_names.index(FRUIT[-1])]
    assert torch.equal(splits.train.images[-2:], last)


def test_a_subset_that_lacks_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, FRUIT[:-1])
    message = rf"^imagefruit was looked for in {tmp_path}/imagenet, .* train/{FRUIT[-1]}, val/{FRUIT[-1]} .* data\.root"
    with pytest.raises(DataError, match=message):
        load_from("imagenet:imagefruit", tmp_path, image_size=24)


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
def test_fast_ais_folders_do_as_well(tmp_path: Path, name: str) -> None:
    wnids = SUBSETS[name]
    write_classes(tmp_path, wnids, f"{name}2-160", train=1)
    assert len(load_from(f"imagenet:{name}", tmp_path, image_size=24).train) == 10
    write_classes(tmp_path, wnids, f"{name}2", train=3)
    splits = load_from(f"imagenet:{name}", tmp_path, image_size=24)
    assert len(splits.train) == 30 and splits.train.class_names == wnids
    write_classes(tmp_path, wnids[:5])  # other classes of ImageNet-1K are no reason to fail
    assert len(load_from(f"imagenet:{name}", tmp_path, image_size=24).train) == 30
    write_classes(tmp_path, wnids)
    assert len(load_from(f"imagenet:{name}", tmp_path, image_size=24).train) == 20


def test_subsets_need_a_size() -> None:
    with pytest.raises(ConfigError, match=r"data\.image_size: must be given"):
        DataConfig(source="imagenet:imagemeow")


@pytest.mark.parametrize(
    ("name", "num_train", "num_classes"),
    [
        ("imagenette", 12_894, 10),
        ("imagewoof", 12_454, 10),
        ("imagesquawk", 13_000, 10),
        ("imagenet-100", 126_689, 100),
    ],
)
def test_size_of_a_subset(tmp_path: Path, name: str, num_train: int, num_classes: int) -> None:
    config = DataConfig(source=f"imagenet:{name}", root=str(tmp_path), image_size=128)
    wanted = DataFacts(num_train, 50 * num_classes, (3, 128, 128), num_classes, published=True)
    assert size_of(config) == wanted
    write_classes(tmp_path, SUBSETS[name][:10])
    if num_classes == 10:
        assert size_of(config) == DataFacts(20, 10, (3, 128, 128), 10)


def test_signature_of_a_subset_is_that_of_its_classes(tmp_path: Path) -> None:
    config = DataConfig(source="imagenet:imagefruit", root=str(tmp_path), image_size=24)
    write_classes(tmp_path, FRUIT)
    before = signature(config)
    write_classes(tmp_path, ("n01440764",))
    assert signature(config) == before
    write_folders(tmp_path, {f"imagenet/val/{FRUIT[3]}/more.JPEG": b"?"})
    assert signature(config) != before


def test_subsets_have_the_constants_of_imagenet() -> None:
    assert literature_constants("imagenet:imagewoof", 3).describe() == literature_constants("imagenet", 3).describe()
