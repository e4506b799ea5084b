"""Preparing data whose images are streamed from their files, and choosing whether they are."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydd.config import from_mapping
from raydd.core.errors import ConfigError, DataError
from raydd.data import DataConfig, DataFacts, load, prepared
from raydd.data.images import Resident
from raydd.data.placement import Residence, pixel_bytes
from raydd.data.prepared import PreparedData, open_saved, prepare
from raydd.data.size import data_bytes
from raydd.data.streamed_images import Streamed
from raydd.data.streamed_splits import streams
from raydd.plan import make_plan
from raydd.storage import Folder
from tests.support.image_files import encoded, noise, write_folders, write_parquet
from tests.support.small import raydd
from tests.support.streamed_sets import KEY, SIZE, TEST, TRAIN, config_of, written


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("streamed") / "pictures")


def opened_again(made: PreparedData, folder: Folder) -> PreparedData:
    prepared.save(made, folder, "key")
    found = open_saved(folder, "key")
    assert found is not None
    return found


@pytest.mark.parametrize("preprocess", ["none", "standardise", "zca"])
@pytest.mark.parametrize("source", ["imagefolder", "parquet"])
def test_preparing_keeps_everything_but_the_pixels(tmp_path: Path, source: str, preprocess: str) -> None:
    if source == "imagefolder":
        written(tmp_path)
    else:
        for part, count in (("train", 30), ("test", 9)):
            write_parquet(tmp_path / f"{part}.parquet", [k % 3 for k in range(count)], ["a", "b", "c"])
    common: dict[str, Any] = {"source": source, "root": str(tmp_path), "validation_fraction": 0.3}
    common |= {"preprocess": preprocess, "train_limit_per_class": 9, "image_size": 6}
    made, wanted = (prepare(DataConfig(streaming=way, **common), KEY) for way in ("on", "off"))
    found = opened_again(made, Folder.at(tmp_path / "saved"))
    for other in (made, found):
        assert (other.name, other.class_names, other.shape) == (wanted.name, wanted.class_names, wanted.shape)
        assert other.preprocessing.digest == wanted.preprocessing.digest
        for name in ("train", "test", "validation"):
            one, kept = getattr(other, name), getattr(wanted, name)
            assert isinstance(one.images, Streamed) and torch.equal(one.labels, kept.labels)
            assert torch.allclose(one.images[:], kept.images[:], rtol=0, atol=1e-5 * (preprocess == "zca"))
    assert (found.fingerprint, found.test_fingerprint) == (made.fingerprint, made.test_fingerprint)
    whitening = preprocess == "zca" and 8 * made.train.images.shape[1:].numel() ** 2
    assert (tmp_path / "saved" / "data.safetensors").stat().st_size < 16 * 60 + 1500 + 1.1 * whitening


def test_the_fingerprint_is_of_paths_and_sizes(tmp_path: Path) -> None:
    root = written(tmp_path / "pictures")
    files = sorted((root / "train").rglob("*.png"))
    labels = [int(file.parent.name.removeprefix("class")) for file in files]
    names = [[str(file.relative_to(root)), file.stat().st_size] for file in files]
    told = json.dumps([[TRAIN, 3, SIZE, SIZE], ["class0", "class1", "class2"], labels, names])
    before = prepare(config_of(root), KEY)
    assert before.fingerprint == hashlib.sha256(told.encode()).hexdigest()
    assert before.fingerprint != load(config_of(root, "off"), KEY).train.fingerprint
    write_folders(root, {"test/class0/51.png": noise(1, 20, 20)})
    after = prepare(config_of(root), KEY)
    assert (after.fingerprint, after.test_fingerprint) != (before.fingerprint, before.test_fingerprint)
    assert after.fingerprint == before.fingerprint


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    write_folders(tmp_path, {f"{part}/{name}/{k}.png": noise(k).convert("L") for k in range(3)
                             for part in ("train", "test") for name in ("cat", "dog")})  # fmt: skip
    assert prepare(config_of(tmp_path), KEY).shape == (1, SIZE, SIZE)
    literature = config_of(tmp_path, statistics="literature")
    assert prepare(literature, KEY).shape == (3, SIZE, SIZE)


def test_known_constants_need_no_look_at_the_images(tmp_path: Path) -> None:
    root = written(tmp_path / "pictures")
    write_folders(root, {"train/class1/01.png": b"rubbish"})
    made = prepare(config_of(root, statistics="literature"), KEY)
    assert len(made.train) == TRAIN
    with pytest.raises(DataError, match=r"class1/01\.png"):
        made.train.images[:]


def damaged(root: Path) -> Path:
    written(root)
    bad = {"train/class1/01.png": b"", "train/class2/05.png": b"text", "test/class0/42.png": b"\x89PNG\r\n\x1a\n"}
    write_folders(root, bad)  # type: ignore[arg-type]
    return root


def test_bad_files_are_all_named_or_all_skipped(tmp_path: Path) -> None:
    root = damaged(tmp_path / "pictures")
    with pytest.raises(DataError, match=r"cannot decode 3 image.*01\.png.*05\.png.*42\.png"):
        prepare(config_of(root), KEY)
    fields = {"on_error": "skip", "validation_fraction": 0.25}
    made, wanted = (prepare(config_of(root, way, **fields), KEY) for way in ("on", "off"))
    found = opened_again(made, Folder.at(tmp_path / "saved"))
    for name, count in (("train", None), ("test", TEST - 1), ("validation", None)):
        one, other = getattr(found, name), getattr(wanted, name)
        assert len(one) == len(other) == (count or len(other))
        assert torch.equal(one.labels, other.labels) and torch.equal(one.images[:], other.images[:])
    assert len(found.train) + len(found.validation or ()) == TRAIN - 2


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    images = [encoded(noise(k, 6, 6 + k % 2)) for k in range(4)]
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [0, 1, 0, 1], ["a", "b"], images)
    with pytest.raises(DataError, match=r"is 7x6, and .* is 6x6: set data\.image_size"):
        prepare(DataConfig(source="parquet", root=str(tmp_path), streaming="on"), KEY)


def test_somebody_elses_preprocessing(pictures: Path) -> None:
    own = prepare(config_of(pictures, "off"), KEY)
    made = prepared.apply(config_of(pictures), own.preprocessing, own.shape, own.class_names, KEY)
    assert isinstance(made.test.images, Streamed)
    assert torch.equal(made.test.images[:], own.test.images[:])
    with pytest.raises(DataError, match=r"has images of \(3, 8, 8\), but the set was distilled for \(3, 9, 9\)"):
        prepared.apply(config_of(pictures), own.preprocessing, (3, 9, 9), own.class_names, KEY)


FACTS = DataFacts(30, 10, (3, 4, 4), 2, num_validation=10)
BYTES = 50 * 3 * 4 * 4


@pytest.mark.parametrize(
    ("streaming", "source", "preprocess", "memory", "streamed"),
    [
        ("auto", "imagefolder", "none", 2 * BYTES, False),
        ("auto", "imagefolder", "none", 2 * BYTES - 2, True),
        ("auto", "imagefolder", "zca", 8 * BYTES, False),
        ("auto", "imagefolder", "zca", 8 * BYTES - 2, True),
        ("auto", "digits", "none", 1, False),
        ("on", "imagefolder", "none", 10**9, True),
        ("off", "imagefolder", "none", 1, False),
    ],
)
def test_images_are_streamed_where_they_take_half_of_the_memory(
    streaming: Any, source: str, preprocess: Any, memory: int, streamed: bool
) -> None:
    config = DataConfig(source=source, streaming=streaming, preprocess=preprocess)
    assert Residence.of(config, FACTS, memory).streamed is streamed


def test_the_choice_is_made_by_what_is_there(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = (TRAIN + TEST) * 3 * SIZE**2
    config = config_of(pictures, "auto")
    for memory, streamed in ((2 * pixels, False), (2 * pixels - 2, True)):
        monkeypatch.setattr("raydd.core.process.memory_bytes", lambda device, memory=memory: memory)
        assert streams(config) is streamed
        assert isinstance(prepare(config, KEY).train.images, Streamed if streamed else Resident)


def test_plans_count_no_pixels_of_streamed_images() -> None:
    def planned(streaming: str) -> tuple[int, int, bool]:
        data = {"source": "cifar10", "streaming": streaming}
        config = from_mapping({"data": data, "method": {"name": "mtt"}})
        facts = DataFacts(50_000, 10_000, (3, 32, 32), 10)
        plan = make_plan(config, facts)
        return data_bytes(config.data, facts), plan.total.peak_memory_bytes, plan.residence.streamed

    (resident_data, resident_peak, _), (data, peak, streamed) = planned("off"), planned("on")
    assert streamed and resident_data - data == 60_000 * (3072 - 8)
    assert resident_peak - peak >= resident_data - data
    assert pixel_bytes(DataConfig(source="cifar10"), DataFacts(50_000, 10_000, (3, 32, 32), 10)) == 60_000 * 3072


def test_images_that_are_in_no_files_are_not_streamed() -> None:
    with pytest.raises(ConfigError, match=r"^data.streaming: the images of digits are in no files"):
        from_mapping({"data": {"source": "digits", "streaming": "on"}, "method": {"name": "mtt"}})


@pytest.mark.parametrize(("streaming", "said"), [("on", "data: streamed from files"), ("off", "data: resident, ")])
def test_show_says_where_images_are(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], streaming: str, said: str
) -> None:
    file = tmp_path / "run.yaml"
    data = {"source": "imagefolder", "root": str(pictures), "image_size": SIZE, "streaming": streaming}
    file.write_text(json.dumps({"data": data, "network": {"width": 4, "depth": 1}, "method": {"name": "mtt"}}))
    assert raydd("show", file) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert streaming == "on" or "data: resident, 10.4 kB of " in printed
