"""What a teacher adds to the training of students: labels of views of their images."""

from dataclasses import replace

from raydd.evaluation.students.training import TrainingSet
from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.ingredients import view_labels
from raydd.ingredients.view_labels import HardLabels, OnlineLabels, StoredLabels, ViewLabels
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.diversity import diversity_of
from raydd.storage import Artefact, stored_bytes
from raydd.training.views import ImageViews


def with_teacher(run: Run, trial: Trial, chosen: TrainingSet) -> TrainingSet:
    """The set with the views and labels that a trial names.

    `bytes_total` counts the labels or the teacher as well; the parts are among the `metrics`, as `bytes.images`, ...
    """
    assert trial.recipe.views is not None
    views = ImageViews(chosen.images[:].to(run.device), run.data.preprocessing, trial.recipe.views)
    sizes = {"bytes.images": chosen.bytes_total}
    labels: ViewLabels
    if trial.labels == "hard":
        labels = HardLabels(views, chosen.targets, run.data.num_classes)
    elif trial.labels == "online":
        labels, sizes["bytes.teacher"] = (
            OnlineLabels(views, run.teacher.open().module),
            stored_bytes(run.teacher.folder),
        )
    else:
        folder = run.labels(LabelStore.of(trial, run.config.evaluate.label_epochs))
        labels = StoredLabels(Artefact.require(folder, view_labels.KIND), views)
        sizes["bytes.labels"] = stored_bytes(folder)
    metrics = {**diversity_of(run, trial, chosen), **sizes}
    return replace(chosen, views=labels, bytes_total=sum(sizes.values()), metrics=metrics)
