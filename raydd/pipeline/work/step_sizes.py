"""Step sizes that are searched for: one for every training set, network and recipe, kept until its students are done.

They are chosen by the validation split, by one student of a seed of its own, so that no student that is reported has
helped to choose. Draws of random images share what is found for the first of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from raydd.core.interruption import Interruption
from raydd.core.progress import NoProgress, Progress, Work
from raydd.evaluation.students.step_search import REAL_LR, searched_recipe
from raydd.evaluation.students.training import Provenance, Pupil, TrainingSet, train_students
from raydd.evaluation.students.trials import SETS, Trial
from raydd.ingredients.base import SIGNALS, Ingredient, Spread
from raydd.pipeline.runs.run import Run
from raydd.pipeline.work.student_needs import needed_by
from raydd.pipeline.work.training_sets import training_set
from raydd.storage import Folder, content_key
from raydd.training.recipe import Recipe

SEARCH_SEED: Final = -1
"""Of the student that is trained with every step size."""
_NOBODY: Final = Provenance(run="", method="", dataset="", recipe_name="", distill_seed=0, config_key="")


def searched(trial: Trial) -> Trial:
    """The trial whose search a trial shares."""
    return replace(trial, student_seed=SEARCH_SEED, draw=0)


def own_recipe(run: Run, trial: Trial, progress: Progress) -> Recipe:
    """The recipe of a trial's students; searched for now where it is to be and has not been."""
    if not trial.searched:
        return trial.recipe
    common = searched(trial)
    file = _file(run, common)
    if not _folder(run).has(file):
        found = _search(run, common, progress)
        _folder(run).write(file, json.dumps({"lr": found.lr, "epochs": found.epochs}).encode())
    return replace(trial.recipe, **json.loads(_folder(run).read(file)))


@dataclass(frozen=True)
class StepSizes(Ingredient[Mapping[str, Recipe]]):
    """What is searched for before some students are trained."""

    run: Run
    trials: tuple[Trial, ...]
    """The students."""

    kind = "step_sizes"
    title = "searches for step sizes"

    @property
    def spread(self) -> Spread:
        """A trial for each training set."""
        return "trials"

    def key(self) -> str:
        """Of all searches."""
        return content_key({"searches": [_file(self.run, trial) for trial in self._searched()]})

    def needs(self) -> tuple[Ingredient[Any], ...]:
        """What students are trained on."""
        return needed_by(self.run, self.trials)

    def is_made(self) -> bool:
        """Whether all are found."""
        return not self.pieces()

    def pieces(self) -> Sequence[Trial]:
        """Those that are not found yet."""
        there = set(_folder(self.run).files())
        return [trial for trial in self._searched() if _file(self.run, trial) not in there]

    def name_of(self, piece: Trial) -> str:
        """What is trained on."""
        return piece.title

    def make(self, piece: Trial, progress: Progress, interruption: Interruption = SIGNALS) -> dict[str, float]:
        """Search for one."""
        found = own_recipe(self.run, piece, progress)
        return {"lr": found.lr or 0.0, "epochs": found.epochs}

    def open(self) -> Mapping[str, Recipe]:
        """What was found, by the name of the search."""
        return {_file(self.run, trial): own_recipe(self.run, trial, NoProgress()) for trial in self._searched()}

    def _searched(self) -> list[Trial]:
        return list(dict.fromkeys(searched(trial) for trial in self.trials if trial.searched))


def _search(run: Run, trial: Trial, progress: Progress) -> Recipe:
    learned = training_set(run, trial)
    lengthens, done = trial.subject == "full", 0
    work = Work("search", f"for the step size of {trial.subject}, {trial.labels} labels, {trial.network.label}")

    def held_out(recipe: Recipe) -> float | None:
        nonlocal done
        accuracy = _held_out(run, replace(trial, recipe=recipe), learned)
        done += 1
        progress.update(
            work, done, done + 1, f"{recipe.lr:.3g} for {recipe.epochs} epochs: {100 * (accuracy or 0):.1f}"
        )
        return accuracy

    first, validation = trial.recipe.completed(_first_lr(trial, learned)), run.data.validation
    assert validation is not None
    found = searched_recipe(first, held_out, len(validation), lengthens)
    progress.update(work, done, done, f"{found.lr:.3g} for {found.epochs} epochs")
    return found


def _held_out(run: Run, trial: Trial, learned: TrainingSet) -> float | None:
    """The validation accuracy of a student."""
    compiles = run.compiles(trial.network, trial.recipe, len(learned.images))
    pupil = Pupil(trial, run.record_id(trial))
    (student,) = train_students([pupil], run.data, learned, _NOBODY, run.device, NoProgress(), compiles)
    return student.record.validation_accuracy


def _first_lr(trial: Trial, learned: TrainingSet) -> float | None:
    """The step size that the recipe begins with where it names none: what came with a set, not with its rivals."""
    return learned.learned_lr if trial.subject in (*SETS, "ema", "init") else REAL_LR


def _folder(run: Run) -> Folder:
    return run.work / "step_sizes"


def _file(run: Run, trial: Trial) -> str:
    return f"{run.record_id(trial)}.json"
