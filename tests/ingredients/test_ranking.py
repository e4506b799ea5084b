"""Ranking: orders against a restatement, scores, and the parts they are made in."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydd.core.errors import ArtefactError, ConfigError, RunError
from raydd.core.keyed_random import Key
from raydd.core.progress import NoProgress
from raydd.data import DataConfig, undecoded
from raydd.data.prepared import PreparedData, prepare
from raydd.ingredients.ranking import (
    BATCH,
    Order,
    Parts,
    Ranking,
    collect,
    merge,
    missing_batches,
    rank_here,
    score,
    score_batch,
)
from raydd.ingredients.setting import Setting
from raydd.ingredients.teacher import Teacher, TeacherConfig, train_teacher
from raydd.networks.config import NetworkConfig
from raydd.storage import Folder
from raydd.storage.checkpoints import Checkpoints
from raydd.training.recipe import Recipe

KEY = Key.root(0)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepare(DataConfig(), KEY)


@pytest.fixture(scope="module")
def teacher(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    network = NetworkConfig(width=8, depth=2, norm="batch")
    config = TeacherConfig(training=Recipe(epochs=1, lr=0.05, momentum=0.9, batch_size=64))
    checkpoints = Checkpoints(Folder.at(tmp_path_factory.mktemp("teacher")), "teacher")
    return train_teacher(config, Setting(network, data, torch.device("cpu")), KEY, checkpoints, NoProgress())


def ranking_of(p_true: list[float], class_: list[int] | None = None) -> Ranking:
    count = len(p_true)
    labels = torch.tensor(class_ or [0] * count)
    return Ranking(labels, torch.arange(count), [f"{row}.png" for row in range(count)], torch.tensor(p_true))


# orders


@pytest.mark.parametrize(
    ("by", "wanted"),
    [
        ("medium", {5: [3, 4, 2, 1, 0], 4: [2, 3, 1, 0], 2: [1, 0], 1: [0]}),
        ("hard", {5: [0, 1, 2, 3, 4], 1: [0]}),
        ("easy", {5: [4, 3, 2, 1, 0], 1: [0]}),
    ],
)
def test_orders_by_hand(by: Order, wanted: dict[int, list[int]]) -> None:
    for count, rows in wanted.items():
        assert ranking_of([0.1 * place for place in range(count)]).order(0, by, KEY).tolist() == rows


def restated(scores: dict[int, float], by: Order) -> list[int]:
    """The orders in words: a class's rows and their scores."""
    ascending = sorted(scores, key=lambda row: (scores[row], row))
    if by == "hard":
        return ascending
    if by == "easy":
        return sorted(scores, key=lambda row: (-scores[row], row))
    middle = math.ceil(len(ascending) / 2)
    places = [middle]
    for step in range(1, len(ascending) + 1):
        places += [middle + step, middle - step]
    return [ascending[place] for place in places if 0 <= place < len(ascending)]


@pytest.mark.parametrize("by", ["medium", "easy", "hard"])
@pytest.mark.parametrize("values", [2, 5, 10_000])
@pytest.mark.parametrize("count", [3, 4, 7, 50, 201])
def test_orders_of_interleaved_classes_with_ties(count: int, values: int, by: Order) -> None:
    draw = np.random.default_rng(count)
    labels = draw.permutation(np.arange(count) % 3).tolist()
    ranking = ranking_of((draw.integers(0, values, count) / values).astype(np.float32).tolist(), labels)
    for label in range(3):
        rows = {row: float(ranking.p_true[row]) for row in range(count) if labels[row] == label}
        assert ranking.order(label, by, KEY).tolist() == restated(rows, by)


def test_a_random_order_is_a_permutation_under_the_key() -> None:
    ranking = ranking_of([0.5] * 40, [0, 1] * 20)
    orders = [ranking.order(label, "random", key).tolist() for label in (0, 1) for key in (KEY, Key.root(1))]
    assert [sorted(rows) for rows in orders] == 2 * [list(range(0, 40, 2))] + 2 * [list(range(1, 40, 2))]
    places = {tuple(row // 2 for row in rows) for rows in orders}
    assert len(places) == 4
    assert ranking.order(0, "random", KEY).tolist() == orders[0]


def test_more_images_than_a_class_has_are_refused() -> None:
    ranking = ranking_of([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1])
    assert ranking.first(0, 2, "medium", KEY).tolist() == [2, 1]
    assert ranking.first(0, 3, "easy", KEY).tolist() == [2, 1, 0]
    with pytest.raises(
        ConfigError, match=r"^method.images_per_class: 2 asked for, but class 1 has only 1 ranked image"
    ):
        ranking.first(1, 2, "medium", KEY)


# files


def test_a_ranking_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = ranking_of([0.1, 1e-30, 1.0], [1, 0, 1])
    written.save(Folder.at(tmp_path), "key")
    read = Ranking.load(Folder.at(tmp_path))
    assert read.path == written.path
    for name in ("class_", "index", "p_true"):
        found, wanted = getattr(read, name), getattr(written, name)
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)


def test_a_ranking_that_is_not_there_or_was_altered_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="there is no finished ranking here"):
        Ranking.load(Folder.at(tmp_path))
    ranking_of([0.1, 0.2]).save(Folder.at(tmp_path), "key")
    (file,) = tmp_path.glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"ranking\.parquet: the content is not what was written"):
        Ranking.load(Folder.at(tmp_path))


# scores


def test_scores_are_the_softmax_of_the_true_class(data: PreparedData, teacher: Teacher) -> None:
    images, labels = data.train.images[:300], data.train.labels[:300]
    found = score(teacher, images, labels)
    assert found.dtype == torch.float32 and found.max() - found.min() > 0.2
    for row, logits in enumerate(teacher.logits(images).double()):
        wanted = math.exp(logits[labels[row]]) / sum(math.exp(logit) for logit in logits)
        assert float(found[row]) == pytest.approx(wanted, rel=1e-5)


def test_a_score_that_is_not_finite_stops_the_ranking(data: PreparedData, teacher: Teacher) -> None:
    images = data.train.images[:3].clone()
    images[1, 0, 0, 0] = torch.inf
    with pytest.raises(RunError, match="the teacher's output is not finite"):
        score(teacher, images, data.train.labels[:3])


# parts


def ranked(data: PreparedData, teacher: Teacher, parts: Parts) -> Ranking:
    return rank_here(teacher, data.train, undecoded(DataConfig(), KEY), parts, NoProgress())


def test_parts_cover_every_image_once(tmp_path: Path) -> None:
    for count, sizes in ((1, [1]), (4, [4]), (5, [4, 1]), (12, [4, 4, 4])):
        parts = Parts(Folder.at(tmp_path), count, size=4)
        rows = [parts.rows(number) for number in range(len(parts))]
        assert [part.stop - part.start for part in rows] == sizes
        assert torch.cat([torch.arange(count)[part] for part in rows]).tolist() == list(range(count))


def test_only_parts_that_are_missing_are_made(data: PreparedData, teacher: Teacher, tmp_path: Path) -> None:
    parts = Parts(Folder.at(tmp_path), len(data.train), size=400)
    whole = ranked(data, teacher, parts)
    assert torch.equal(whole.class_, data.train.labels) and whole.index.tolist() == list(range(len(data.train)))
    assert whole.path[7] == undecoded(DataConfig(), KEY).paths()[7]
    assert torch.allclose(whole.p_true, score(teacher, data.train.images, data.train.labels), atol=1e-6)
    files = sorted(tmp_path.iterdir())
    before = {file: file.stat().st_mtime_ns for file in files}
    assert len(files) == 4 and parts.missing() == []
    files[2].unlink()
    assert parts.missing() == [2]
    again = ranked(data, teacher, parts)
    assert torch.equal(again.p_true, whole.p_true)
    assert [file for file in files if file.stat().st_mtime_ns != before[file]] == [files[2]]


def test_a_damaged_part_is_named(data: PreparedData, teacher: Teacher, tmp_path: Path) -> None:
    parts = Parts(Folder.at(tmp_path), len(data.train), size=1000)
    ranked(data, teacher, parts)
    (tmp_path / "rows-00001000-00001501.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ArtefactError, match=r"rows-00001000-00001501\.safetensors: damaged .* delete it and run again"):
        parts.merged()


def test_batches_from_files_give_the_same_scores_in_any_order_and_after_a_break(
    data: PreparedData, teacher: Teacher, tmp_path: Path
) -> None:
    images = undecoded(DataConfig(), KEY)
    wanted = ranked(data, teacher, Parts(Folder.at(tmp_path / "memory"), len(images), size=2 * BATCH))
    parts = Parts(Folder.at(tmp_path / "files"), len(images), size=2 * BATCH)

    def scored(limit: int, seed: int) -> Any:
        batches = missing_batches(images, parts)
        for place in np.random.default_rng(seed).permutation(len(batches))[:limit]:
            batch = batches[place]
            pixels = images.decode(torch.tensor(batch["index"]), channels=1).numpy()
            yield score_batch({**batch, "image": pixels}, teacher, data.preprocessing)

    assert [len(batch["index"]) for batch in missing_batches(images, parts)] == [256, 256, 256, 256, 256, 221]
    collect(parts, scored(limit=5, seed=0), NoProgress())
    left = parts.missing()
    assert 0 < len(left) < len(parts)
    assert len(missing_batches(images, parts)) == 2 * len(left)
    collect(parts, scored(limit=6, seed=1), NoProgress())
    found = merge(images, parts)
    assert torch.equal(found.p_true, wanted.p_true)
