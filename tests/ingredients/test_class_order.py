"""A network of others whose outputs are the classes in another order is refused by name, and so is one that guesses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raydd import config as configs
from raydd.core.errors import ConfigError, DataError
from raydd.core.progress import NoProgress
from raydd.ingredients.class_order import outputs_of, reordered
from raydd.pipeline import execution
from raydd.pipeline.local import LocalExecutor
from tests.support import foreign

K, EACH = 10, 30
LABELS = torch.arange(K).repeat_interleave(EACH)
ROLLED = [*range(1, K), 0]
SWAPPED = [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]
MIXED = [0, 1, 5, 2, 3, 4, 6, 7, 9, 8]


def answers(outputs: list[int], accuracy: float, seed: int = 0) -> Tensor:
    """What a network takes `LABELS` for, if class k is its output `outputs[k]`; where it is wrong, by chance."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(len(LABELS), generator=generator) < accuracy
    return torch.where(right, torch.tensor(outputs)[LABELS], torch.randint(K, (len(LABELS),), generator=generator))


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("outputs", [ROLLED, SWAPPED, MIXED])
def test_outputs_that_are_exchanged_are_found(outputs: list[int], accuracy: float) -> None:
    assert outputs_of(answers(outputs, accuracy), LABELS, K) == outputs


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.3, 0.9])
def test_a_bad_network_is_not_taken_for_one_of_another_order(accuracy: float, seed: int) -> None:
    assert outputs_of(answers(list(range(K)), accuracy, seed), LABELS, K) == list(range(K))


def test_classes_that_are_mistaken_in_one_direction_stay() -> None:
    """Most cats are taken for dogs; dogs are known, or taken for something else."""
    predicted = LABELS.clone()
    predicted[LABELS == 3] = torch.tensor([5] * 24 + [3] * 6)
    predicted[LABELS == 5] = torch.tensor([5] * 18 + [7] * 12)
    assert outputs_of(predicted, LABELS, K) == list(range(K))


@pytest.mark.parametrize("constant", range(K))
def test_a_network_that_says_one_thing_stays(constant: int) -> None:
    assert outputs_of(torch.full_like(LABELS, constant), LABELS, K) == list(range(K))


@given(st.permutations(range(K)))
def test_any_order_is_found_and_repaired(outputs: list[int]) -> None:
    assert outputs_of(answers(outputs, 0.9), LABELS, K) == outputs
    names = [f"class {k}" for k in range(K)]
    rows = torch.zeros(K, 2)
    rows[outputs] = torch.arange(K).float()[:, None].repeat(1, 2)  # row outputs[k] is that of class k
    state = {"head.weight": rows, "head.bias": rows[:, 0], "body.0.conv.weight": rows}
    order = [names[outputs.index(output)] for output in range(K)]
    found = reordered(state, order, names, "file")
    assert found["head.bias"].tolist() == list(range(K)) and found["head.weight"][:, 1].tolist() == list(range(K))
    assert found["body.0.conv.weight"] is rows


def test_an_order_that_is_not_of_the_classes_is_refused() -> None:
    state = {"head.weight": torch.zeros(2, 3)}
    for order in (["a"], ["a", "a"], ["a", "c"], ["a", "b", "c"]):
        with pytest.raises(ConfigError, match=r"^teacher.class_order: must have each class"):
            reordered(state, order, ["a", "b"], "file")
    with pytest.raises(DataError, match="knows 2 classes, the dataset has 3"):
        reordered(state, ["a", "b", "c"], ["a", "b", "c"], "file")
    with pytest.raises(DataError, match="no last layer"):
        reordered({"fc.weight": torch.zeros(2, 3)}, ["a", "b"], ["a", "b"], "file")


@pytest.fixture(scope="module")
def good() -> dict[str, Tensor]:
    return foreign.taught_digits()


Run = Callable[..., configs.RunConfig]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def made(state: dict[str, Tensor], **teacher: object) -> configs.RunConfig:
        torch.save(state, tmp_path / "weights.pt")
        return configs.from_mapping(
            {
                "name": "taught",
                "out": str(tmp_path / "run"),
                "data": {"source": "digits"},
                "network": {"width": 8, "depth": 2, "norm": "batch"},
                "method": {"name": "rded", "images_per_class": 1},
                "teacher": {"weights": str(tmp_path / "weights.pt"), **teacher},
                "evaluate": {"protocol": "rded", "num_students": 1},
            }
        )

    return made


def test_a_teacher_in_another_order_is_refused_and_repaired(good: dict[str, Tensor], run: Run, tmp_path: Path) -> None:
    rolled = {name: t.roll(1, 0) if name.startswith("head.") else t for name, t in good.items()}
    with pytest.raises(
        ConfigError, match=r"^teacher.class_order: .*looks like another class order: .* 0→1, 1→2"
    ) as said:
        execution.execute(run(rolled), LocalExecutor(), NoProgress(), "teacher")
    assert not (tmp_path / "run" / "teacher" / "manifest.json").exists()
    order = str(said.value).rpartition("--teacher.class-order ")[2].split()
    made = execution.execute(run(rolled, class_order=order), LocalExecutor(), NoProgress(), "teacher")
    straight = execution.execute(run(good, store=str(tmp_path / "other")), LocalExecutor(), NoProgress(), "teacher")
    assert made.teacher.key() != straight.teacher.key()
    images = made.data.test.images[:50]
    assert torch.equal(made.teacher.open().logits(images), straight.teacher.open().logits(images))


def test_a_part_of_the_order_is_refused(good: dict[str, Tensor], run: Run) -> None:
    rows = torch.tensor([0, 1, 3, 2, 4, 5, 7, 8, 6, 9])
    mixed = {name: t[rows] if name.startswith("head.") else t for name, t in good.items()}
    with pytest.raises(ConfigError, match=r"^teacher.class_order: .*2→3, 3→2, 6→8, 7→6, 8→7;"):
        execution.execute(run(mixed), LocalExecutor(), NoProgress(), "teacher")


def test_a_teacher_that_guesses_is_refused(good: dict[str, Tensor], run: Run) -> None:
    guess = {name: torch.zeros_like(t) if name.startswith("head.") else t for name, t in good.items()}
    with pytest.raises(ConfigError, match=r"^teacher.weights: .* which is guessing"):
        execution.execute(run(guess), LocalExecutor(), NoProgress(), "teacher")


def test_an_order_is_of_weights_alone(good: dict[str, Tensor], run: Run) -> None:
    with pytest.raises(ConfigError, match=r"^teacher.class_order: is of teacher.weights"):
        run(good, weights=None, class_order=["0", "1"])
