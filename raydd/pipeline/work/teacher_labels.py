"""What a teacher adds to the training of students: labels of views of their images."""

from dataclasses import replace

from raydd.core.progress import Progress
from raydd.evaluation.students.training import TrainingSet
from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.ingredients import view_labels
from raydd.ingredients.view_labels import HardLabels, OnlineLabels, StoredLabels, ViewLabels
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.diversity import diversity_of
from raydd.sets.synthetic import SyntheticSet
from raydd.storage import Artefact, stored_bytes
from raydd.training.views import ImageViews


class Relabelling:
    """The making of stored labels of the distilled set, epoch by epoch, in any order and by anybody."""

    def __init__(self, run: Run, store: LabelStore) -> None:
        """Open the set and the teacher."""
        self._folder, self._key = run.labels(store), run.labels_key(store)
        self._teacher, self._views_key = run.teacher.module, run.key().child("labels")
        images = SyntheticSet.load(run.synthetic).images.to(run.device)
        self._views = ImageViews(images, run.data.preprocessing, store.views)
        self._epochs = store.epochs

    def label(self, epoch: int) -> None:
        """Store the labels of one epoch, unless they are."""
        view_labels.label_epoch(self._folder, self._key, self._views, self._teacher, self._views_key, epoch)

    def finish(self, progress: Progress) -> None:
        """Store the labels of all epochs that are not, and make an artefact of them."""
        arguments = self._folder, self._key, self._views, self._teacher, self._views_key
        view_labels.make(*arguments, self._epochs, progress)


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
        labels, sizes["bytes.teacher"] = OnlineLabels(views, run.teacher.module), stored_bytes(run.teacher_folder)
    else:
        folder = run.labels(LabelStore.of(trial, run.config.evaluate.label_epochs))
        labels = StoredLabels(Artefact.require(folder, view_labels.KIND), views)
        sizes["bytes.labels"] = stored_bytes(folder)
    metrics = {**diversity_of(run, trial, chosen), **sizes}
    return replace(chosen, views=labels, bytes_total=sum(sizes.values()), metrics=metrics)
