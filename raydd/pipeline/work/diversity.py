"""How diverse a training set is in the eyes of the network that its run has trained; measured once, and kept."""

import math
from statistics import fmean
from typing import Any

from raydd import networks
from raydd.evaluation.students import diversity
from raydd.evaluation.students.training import TrainingSet
from raydd.evaluation.students.trials import Trial
from raydd.networks import Network
from raydd.pipeline.runs.run import Run
from raydd.storage import content_key, self_checked
from raydd.training.loop import features


def diversity_of(run: Run, trial: Trial, chosen: TrainingSet) -> dict[str, float]:
    """What records say of how diverse the images of a class are: the mean over classes of each measure, and each class.

    They are looked at by the teacher or, where trajectories are matched, by the first expert after its last epoch;
    nothing is said of all the data, nor where neither is there. Students of one set share what was found, in `work/`.
    """
    key = None if trial.subject == "full" else _network_key(run)
    if key is None:
        return {}
    identity: dict[str, Any] = {
        "network": key,
        "set": run.stages[trial.stage].union_key,
        "subject": trial.subject,
        "draw": trial.draw,
        "selection": None if trial.coreset is None else run.selection.key(),
        "new_only": trial.mode == "new_only",
    }
    folder, file = run.work / "diversity", f"{content_key(identity)}.json"
    if not folder.has(file):
        self_checked.write_facts(folder, file, _measured(run, chosen))
    found: dict[str, float] = self_checked.read_facts(folder, file)
    return found


def _measured(run: Run, chosen: TrainingSet) -> dict[str, float]:
    classes = chosen.targets if chosen.classes is None else chosen.classes
    found = diversity.per_class(features(_network(run), chosen.images), classes)
    numbers: dict[str, float] = {}
    for name in next(iter(found.values())):
        of_class = {run.data.class_names[label]: own[name] for label, own in found.items()}
        if not any(map(math.isnan, of_class.values())):
            numbers[name] = fmean(of_class.values())
            numbers |= {f"{name}.{label}": value for label, value in of_class.items()}
    return numbers


def _network_key(run: Run) -> str | None:
    """Content key of the network that looks at the images; None where there is none."""
    if "teacher" in run.made_first:
        return run.teacher.key()
    if "experts" in run.made_first and run.experts.store.has(0):
        return run.experts.key()
    return None


def _network(run: Run) -> Network:
    if "teacher" in run.made_first:
        return run.teacher.open().module
    network = networks.build(run.config.network, run.data.shape, run.data.num_classes)
    last = run.experts.store.params(0, run.config.experts.training.epochs)
    network.load_state_dict(run.experts.store.card.unflatten(last), strict=False)
    return network.to(run.device)
