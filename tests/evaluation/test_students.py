"""Students trained side by side, each as if it were alone, and what is measured on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor

import raydd
from raydd import networks
from raydd.core.progress import NoProgress
from raydd.data.prepared import LabelledImages, PreparedData
from raydd.evaluation.students.training import (
    OnMeasured,
    Provenance,
    Pupil,
    Student,
    TrainingSet,
    student_training,
    train_students,
)
from raydd.evaluation.students.trials import Trial, alike
from raydd.networks.config import NetworkConfig
from raydd.training.recipe import Recipe
from tests.reference import scores as reference
from tests.support import tiny
from tests.support.small import finished_run

RECIPE = Recipe(epochs=1, lr=0.05, momentum=0.9, weight_decay=5e-4, batch_size=64, augmentation="dsa")
TRIALS = [
    Trial(subject="synthetic", labels="stored", network=NetworkConfig(width=4, depth=2), recipe=RECIPE, student_seed=s)
    for s in range(3)
]


def training_set() -> TrainingSet:
    return TrainingSet(
        images=tiny.randn(0, 6, 1, 8, 8, dtype=torch.float32),
        targets=tiny.randn(1, 6, 3, dtype=torch.float32),
        learned_lr=None,
        images_per_class=2,
        bytes_total=0,
    )


def after_one_step(trials: list[Trial]) -> list[Tensor]:
    training = student_training(trials, tiny.data(), training_set(), tiny.CPU, compiled=False)
    training.run_epoch(0)
    return [torch.cat([p.detach().flatten() for p in module.parameters()]) for module in training.modules]


def test_stacked_students_equal_separate_ones_after_a_step() -> None:
    stacked = after_one_step(TRIALS)
    separate = [student for trial in TRIALS for student in after_one_step([trial])]
    for found, wanted in zip(stacked, separate, strict=True):
        assert (found - wanted).abs().max() < 1e-5
    assert (stacked[0] - stacked[1]).abs().max() > 1e-2


def test_only_seeds_may_differ_in_a_pack() -> None:
    other = [replace(trial, labels="hard") for trial in TRIALS]
    assert alike([*TRIALS, *other]) == [TRIALS, other]


def with_validation() -> PreparedData:
    """The tiny data, a third of whose test images are held out."""
    images, labels = tiny.data().test.images, tiny.data().test.labels
    held_out = torch.arange(len(labels)) % 3 == 0
    return replace(
        tiny.data(),
        test=LabelledImages(images[~held_out], labels[~held_out]),
        validation=LabelledImages(images[held_out], labels[held_out]),
    )


def trained(data: PreparedData, seeds: int, on_measured: OnMeasured | None = None, **changes: Any) -> list[Student]:
    """Students on the tiny set, of so many epochs, measured every so often."""
    recipe = replace(RECIPE, epochs=changes.pop("epochs", 7), lr=changes.pop("lr", 0.3))
    trials = [replace(trial, recipe=recipe, **changes) for trial in TRIALS[:seeds]]
    provenance = Provenance(
        run="tiny", method="datm", dataset="tiny", recipe_name="own", distill_seed=0, config_key="0" * 16
    )
    pupils = [Pupil(trial, str(trial.student_seed)) for trial in trials]
    told = {"on_measured": on_measured}
    return train_students(pupils, data, training_set(), provenance, tiny.CPU, NoProgress(), **told)


@pytest.mark.parametrize("seeds", [1, 3])
def test_measuring_on_the_way_leaves_the_students_as_they_were(seeds: int) -> None:
    data = with_validation()
    often, once = trained(data, seeds, measure_every=2), trained(data, seeds)
    for one, other in zip(often, once, strict=True):
        assert one.state is not None and other.state is not None
        tiny.assert_equal(dict(one.state), dict(other.state))
        assert one.record.test_accuracy == other.record.test_accuracy
        assert one.record.validation_accuracy == other.record.validation_accuracy
        assert other.record.best_test_accuracy is None and "validation_epoch" not in other.record.metrics


def test_the_best_epoch_is_among_those_measured_and_the_validation_split_chooses_another() -> None:
    """Against students that were trained for so many epochs only, which at a constant step size are the same."""
    data, epochs = with_validation(), (2, 4, 6, 7)
    records = [student.record for student in trained(data, 3, measure_every=2)]
    shorter = {epoch: trained(data, 3, epochs=epoch) for epoch in epochs}
    for number, record in enumerate(records):
        curve = {epoch: students[number].record for epoch, students in shorter.items()}
        assert record.best_test_accuracy == max(one.test_accuracy for one in curve.values())
        best = max(one.validation_accuracy for one in curve.values())
        chosen = next(epoch for epoch in epochs if curve[epoch].validation_accuracy == best)
        assert record.metrics["validation_epoch"] == chosen
        assert record.metrics["test_accuracy_at_validation_epoch"] == curve[chosen].test_accuracy
    assert any(record.best_test_accuracy > record.test_accuracy for record in records)
    (alone,) = trained(tiny.data(), 1, measure_every=2)
    assert alone.record.best_test_accuracy is not None and "validation_epoch" not in alone.record.metrics


def test_records_have_calibration_and_the_worst_class() -> None:
    data = tiny.data()
    for student in trained(data, 2):
        assert student.state is not None and student.record.class_accuracy is not None
        network = networks.build(TRIALS[0].network, data.shape, data.num_classes)
        network.load_state_dict({n.removeprefix("module."): t for n, t in student.state.items() if "module." in n})
        logits = network.eval()(data.test.images[:]).detach().double().numpy()
        found, labels = student.record.metrics, data.test.labels.tolist()
        assert found["ece"] == pytest.approx(reference.calibration_error(logits, labels), abs=1e-6)
        assert found["nll"] == pytest.approx(log_loss(labels, reference.probabilities(logits)), abs=1e-6)
        assert found["worst_class_accuracy"] == min(student.record.class_accuracy)


def test_somebody_is_told_of_every_measurement_and_may_end_it() -> None:
    data, heard = with_validation(), []
    students = trained(data, 3, lambda epoch, found: heard.append((epoch, list(found))), measure_every=3)
    assert [epoch for epoch, _ in heard] == [3, 6, 7]
    assert heard[-1][1] == [student.record.validation_accuracy for student in students]
    heard.clear()
    trained(tiny.data(), 2, lambda epoch, found: heard.append((epoch, list(found))))
    assert heard == [(7, [None, None])]

    def stop(epoch: int, found: Sequence[float | None]) -> None:
        heard.append((epoch, list(found)))
        if epoch == 4:
            raise LookupError("enough") from KeyError("why")

    for seeds in (1, 3):
        heard.clear()
        with pytest.raises(LookupError, match="enough") as raised:
            trained(data, seeds, stop, measure_every=2)
        assert isinstance(raised.value.__cause__, KeyError)
        assert [epoch for epoch, _ in heard] == [2, 4] and {len(found) for _, found in heard} == {seeds}


def test_students_that_break_off_are_failures_and_nobody_hears_of_them_again() -> None:
    heard: list[int] = []
    broken = trained(with_validation(), 2, lambda epoch, _: heard.append(epoch), measure_every=1, lr=1e30)
    assert [student.record.status for student in broken] == ["failed"] * 2
    assert all(student.record.best_test_accuracy is None and student.state is None for student in broken)
    assert heard == [1], "of the two side by side, and not of each once more alone"


def test_a_run_packs_students_and_writes_one_record_each(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    before = {row["record_id"]: row for row in raydd.results(run.out).to_pylist()}
    flags = "--evaluate.num-students", 4, "--cluster.pack", 2
    assert run.does("evaluate", *flags) == 0
    after = {row["record_id"]: row for row in raydd.results(run.out).to_pylist()}
    assert before.items() <= after.items() and len(after) == 4 * 6 + 1
    assert run.does("evaluate", *flags, "--out", run.out) == 0
    alone = finished_run(tmp_path / "alone")
    assert alone.does("evaluate", "--evaluate.num-students", 4) == 0
    for row in raydd.results(alone.out).to_pylist():
        assert after[row["record_id"]]["test_accuracy"] == pytest.approx(row["test_accuracy"], abs=0.05)


def test_one_that_fails_does_not_take_the_others_along(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    flags = "--evaluate.recipe.lr", "1e30", "--evaluate.num-students", 2, "--cluster.pack", 2
    assert run.does("evaluate", *flags, "--evaluate.baselines", "init") == 0
    failed = [row for row in raydd.results(run.out).to_pylist() if row["status"] == "failed"]
    assert len(failed) == 8 and all("loss" in row["error"] for row in failed)
