"""The best student of a distilled set, where `evaluate.keep` is `best`: chosen by the validation split.

Students leave their state behind when they are trained; once all have a record the best becomes an artefact, and the
others go.
"""

from raydd.evaluation import records
from raydd.evaluation.students.kept import KIND, KeptStudent
from raydd.evaluation.students.training import NetworkState
from raydd.evaluation.students.trials import SETS, Trial
from raydd.pipeline.runs.run import Run
from raydd.storage import Artefact, Folder, content_key, self_checked

_MODULE = "module."
"""What the names of a network's own tensors begin with in the state of a training."""


def lacks_state(run: Run, trial: Trial) -> bool:
    """Whether a student that may become the one that is kept has left no state behind."""
    return _competes(run, trial) and not is_kept(run) and not _states(run).has(_file(run, trial))


def leave(run: Run, trial: Trial, state: NetworkState) -> None:
    """Keep the state of a student that may become the one that is kept."""
    if _competes(run, trial) and not is_kept(run):
        own = {name.removeprefix(_MODULE): tensor for name, tensor in state.items() if name.startswith(_MODULE)}
        self_checked.write(_states(run), _file(run, trial), own)


def is_kept(run: Run) -> bool:
    """Whether the best of all is there, or none is to be."""
    if not _competing(run):
        return True
    artefact = Artefact.find(run.folder / KIND, KIND)
    return artefact is not None and artefact.manifest.key == _key(run)


def publish(run: Run) -> None:
    """Make the artefact of the best student of those that succeeded, the first of equals."""
    if is_kept(run):
        return
    found = [(trial, records.find(run.results, run.record_id(trial))) for trial in _competing(run)]
    finished = [(trial, record) for trial, record in found if record is not None and record.status == "ok"]
    if finished:
        trial, record = max(finished, key=lambda each: each[1].validation_accuracy or 0.0)
        parameters, _ = self_checked.read(_states(run), _file(run, trial))
        about = {name: getattr(record, name) for name in _SAID}
        KeptStudent(
            network=trial.network,
            parameters=parameters,
            shape=run.data.shape,
            class_names=run.data.class_names,
            preprocessing=run.data.preprocessing,
            about={**about, "lr": record.learned_lr, "chosen_by": "validation_accuracy", "among": len(finished)},
        ).save(run.folder / KIND, _key(run))
        _states(run).delete_all()


_SAID = ("record_id", "labels", "student_seed", "epochs", "augmentation", "validation_accuracy", "test_accuracy")


def _competes(run: Run, trial: Trial) -> bool:
    last = trial.stage == len(run.stages) - 1
    return run.config.evaluate.keep == "best" and trial.subject in SETS and trial.mode != "new_only" and last


def _competing(run: Run) -> list[Trial]:
    return [trial for trial in run.trials() if _competes(run, trial)]


def _key(run: Run) -> str:
    return content_key({"students": [run.record_id(trial) for trial in _competing(run)]})


def _states(run: Run) -> Folder:
    return run.work / "students"


def _file(run: Run, trial: Trial) -> str:
    return f"{run.record_id(trial)}.safetensors"
