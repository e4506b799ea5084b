"""The prepared data on disk: pixels where they are pixels, mapped into memory, and never taken for another form."""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from raydd.config import from_mapping
from raydd.core.errors import ArtefactError
from raydd.core.keyed_random import Key, seeded
from raydd.data import DataConfig, load, prepared, problems
from raydd.data.images import Resident
from raydd.data.prepared import LabelledImages, PreparedData, open_saved, prepare, save
from raydd.data.size import data_bytes
from raydd.networks import build
from raydd.networks.config import NetworkConfig
from raydd.pipeline.runs.run import Run
from raydd.storage import Folder, new_artefact
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from tests.support.image_files import noise, write_folders
from tests.support.planned import facts_of, fresh_processes, memory, sizes

needs_cifar10 = pytest.mark.skipif("RAYDD_DATA" not in os.environ, reason="RAYDD_DATA is not set: no real CIFAR-10")

KEY = Key.root(3)
PREPROCESS = ("none", "standardise", "zca")


def data(preprocess: str) -> PreparedData:
    """Digits, with validation images."""
    return prepare(DataConfig(preprocess=preprocess, validation_fraction=0.1), KEY)  # type: ignore[arg-type]


def splits(found: PreparedData) -> list[LabelledImages]:
    assert found.validation is not None
    return [found.train, found.test, found.validation]


@pytest.mark.parametrize("preprocess", PREPROCESS)
def test_images_are_those_of_the_map(preprocess: str) -> None:
    made, parts = data(preprocess), load(DataConfig(validation_fraction=0.1), KEY)
    for found, wanted in zip(splits(made), (parts.train, parts.test, parts.validation), strict=True):
        assert wanted is not None
        assert torch.equal(found.images[:], made.preprocessing.forward(wanted.images))
        assert torch.equal(found.labels, wanted.labels)


@pytest.mark.parametrize("preprocess", PREPROCESS)
def test_what_is_saved_comes_back(tmp_path: Path, preprocess: str) -> None:
    made, folder = data(preprocess), Folder.at(tmp_path)
    save(made, folder, "key")
    found = open_saved(folder, "key")
    assert found is not None
    for one, other in zip(splits(found), splits(made), strict=True):
        assert torch.equal(one.images[:], other.images[:]) and torch.equal(one.labels, other.labels)
    assert found.preprocessing.digest == made.preprocessing.digest
    same = ("name", "class_names", "fingerprint", "test_fingerprint", "shape")
    assert all(getattr(found, name) == getattr(made, name) for name in same)
    stored = load_file(tmp_path / "data.safetensors")["train.images"].dtype
    assert stored == (torch.float32 if preprocess == "zca" else torch.uint8)


@pytest.mark.parametrize("preprocess", PREPROCESS)
def test_the_plan_knows_the_size_to_a_few_bytes(tmp_path: Path, preprocess: str) -> None:
    made = replace(data(preprocess), validation=None)
    save(made, Folder.at(tmp_path), "key")
    config = from_mapping({"data": {"preprocess": preprocess}, "method": {"name": "mtt"}})
    assert data_bytes(config.data, facts_of(made)) == pytest.approx(sizes(tmp_path), abs=250)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the maps of this process from /proc")
def test_opening_maps_the_file(tmp_path: Path) -> None:
    save(data("standardise"), Folder.at(tmp_path), "key")
    found = open_saved(Folder.at(tmp_path), "key")
    assert found is not None and isinstance(found.train.images, Resident)
    address = found.train.images.pixels.data_ptr()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("data.safetensors")]
    spans = [[int(bound, 16) for bound in line.split()[0].split("-")] for line in mapped]
    assert any(start <= address < end for start, end in spans)


@pytest.mark.parametrize("streaming", ["off", "on"])
def test_files_are_those_of_the_images_that_could_be_decoded(tmp_path: Path, streaming: str) -> None:
    names = [f"{split}/{name}/{number}.png" for split in ("train", "test") for name in "ab" for number in range(4)]
    images: dict[str, Image.Image | bytes] = {name: noise(seed) for seed, name in enumerate(names)}
    images |= {"train/a/1.png": b"no image", "train/b/3.png": b"", "test/a/0.png": b"nor this"}
    write_folders(tmp_path / "set", images)
    place = {"source": "imagefolder", "root": str(tmp_path / "set"), "image_size": 6, "on_error": "skip"}
    run = Run.of(from_mapping({"out": str(tmp_path / "run"), "data": {**place, "streaming": streaming}}))
    save(run.data, run.work / "data", run.data_key)
    run = Run.of(run.config)
    kept = [f"train/{name}" for name in ("a/0.png", "a/2.png", "a/3.png", "b/0.png", "b/1.png", "b/2.png")]
    assert run.training_files.paths() == kept
    pixels = run.training_files.decode(torch.arange(6), channels=3)
    assert torch.equal(run.data.train.images[:], run.data.preprocessing.forward(pixels))
    assert run.data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(run.data.test) == 7
    assert problems.count(run.work) == 3


def test_another_key_is_not_opened(tmp_path: Path) -> None:
    save(data("none"), Folder.at(tmp_path), "key")
    assert open_saved(Folder.at(tmp_path), "other") is None
    assert open_saved(Folder.at(tmp_path / "nothing"), "key") is None


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_that_are_no_class_are_damage(tmp_path: Path, label: int) -> None:
    """Whoever counts the images of each class comes before whoever compares checksums."""
    save(data("none"), Folder.at(tmp_path), "key")
    (file,) = tmp_path.glob("data*.safetensors")
    tensors = load_file(file)
    tensors["train.labels"][5] = label
    save_file(tensors, file)
    with pytest.raises(ArtefactError, match=rf"{tmp_path}: damaged .*labels of train that are no class"):
        open_saved(Folder.at(tmp_path), "key")


def test_data_of_an_earlier_form_are_made_anew(tmp_path: Path) -> None:
    """Float32 images under the key itself, as earlier versions wrote them."""
    made, folder = replace(data("standardise"), validation=None), Folder.at(tmp_path)
    tensors = {f"{name}.{field}": value for name, part in (("train", made.train), ("test", made.test))
               for field, value in (("images", part.images[:]), ("labels", part.labels))}  # fmt: skip
    with new_artefact(folder, prepared.KIND, "key") as writer:
        with writer.writing("data.safetensors") as path:
            save_file(tensors, path)
        writer.write("card.json", b"{}")
    assert open_saved(folder, "key") is None
    save(made, folder, "key")
    found = open_saved(folder, "key")
    assert found is not None and torch.equal(found.train.images[:], made.train.images[:])
    assert len(list(tmp_path.glob("data*.safetensors"))) == 1


def test_pixels_that_are_one_tensor_are_saved_as_two_splits(tmp_path: Path) -> None:
    """`load` cuts train and test out of what it decodes."""
    write_folders(tmp_path / "images", {f"{part}/{name}/{i}.png": noise(i) for i in range(2)
                                        for part in ("train", "test") for name in ("cat", "dog")})  # fmt: skip
    made = prepare(DataConfig(source="imagefolder", root=str(tmp_path / "images")), KEY)
    save(made, Folder.at(tmp_path / "data"), "key")
    found = open_saved(Folder.at(tmp_path / "data"), "key")
    assert found is not None and torch.equal(found.test.images[:], made.test.images[:])


@pytest.mark.parametrize("preprocess", ["standardise", "zca"])
@pytest.mark.parametrize("cutmix", [0.0, 0.5])
def test_training_is_that_on_the_whole_tensor(preprocess: str, cutmix: float) -> None:
    made = data(preprocess)
    recipe = Recipe(epochs=1, batch_size=128, augmentation="crop+flip", cutmix=cutmix)

    def trained(images: object) -> dict[str, torch.Tensor]:
        with seeded(KEY):
            module = build(NetworkConfig(width=4, depth=1), made.shape, made.num_classes)
        training = Training([module], images, made.train.labels, recipe, [KEY])  # type: ignore[arg-type]
        training.run_epoch(0)
        return module.state_dict()

    of_bytes, of_floats = trained(made.train.images), trained(made.train.images[:])
    assert all(torch.equal(of_bytes[name], value) for name, value in of_floats.items())


def peak_of_preparing(folder: str) -> tuple[int, int]:
    """Run in a fresh process: what preparing and saving CIFAR-10 take at their peak, and what its pixels take."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    made = prepare(DataConfig(source="cifar10"), KEY)
    save(made, Folder.at(folder), "key")
    pixels = sum(len(part) * math.prod(made.shape) for part in (made.train, made.test))
    return memory("VmHWM") - before, pixels


@needs_cifar10
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_cifar10_takes_less_than_three_times_its_pixels(tmp_path: Path) -> None:
    with fresh_processes() as pool:
        peak, pixels = pool.submit(peak_of_preparing, str(tmp_path)).result()
    assert pixels == 60_000 * 3 * 32 * 32
    assert pixels < peak < 3 * pixels
    assert open_saved(Folder.at(tmp_path), "key") is not None
