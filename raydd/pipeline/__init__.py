"""Which artefacts a config needs, which exist, and in what order the others are made.

Nothing is written before everything that can be known to be wrong has been looked at.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from raydd import config as configs
from raydd import networks, prepared, report
from raydd.config import RunConfig
from raydd.errors import ArtefactError
from raydd.evaluation import records
from raydd.evaluation.trials import Trial
from raydd.methods.initial import require_images
from raydd.pipeline.run import CONFIG, LOCK, Run
from raydd.progress import Progress
from raydd.storage import Artefact, Folder
from raydd.synthetic import SyntheticSet
from raydd.trajectories import KIND as EXPERTS


class Executor(Protocol):
    """Who does the work: this process alone, or Ray."""

    def check(self, run: Run, progress: Progress) -> None:
        """Refuse a run for which the resources are not there, before anything is written."""

    def experts(self, run: Run, numbers: Sequence[int], progress: Progress) -> None:
        """Train these experts."""

    def distill(self, run: Run, progress: Progress) -> None:
        """Distil every stage."""

    def evaluate(self, run: Run, trials: Sequence[Trial], progress: Progress) -> None:
        """Train these students."""


STEPS = ("experts", "distill", "evaluate", "report")
"""In the order in which one needs the other."""


def execute(config: RunConfig, executor: Executor, progress: Progress, last_step: str = "report") -> Run:
    """Make what the config names, up to and including `last_step`; skip what exists, resume what is unfinished.

    Args:
        config: the run.
        executor: who does the work.
        progress: is told how it goes.
        last_step: one of `STEPS`.

    Raises:
        UserError: something is wrong with config, data, resources or the run's folder; nothing was written.
        RunError: the work broke off; the same call resumes it.
    """
    run = Run(config, Folder.at(config.out))
    _check(run)
    if not _is_finished(run):
        executor.check(run, progress)
    makers: dict[str, Callable[[Run, Executor, Progress], None]] = {
        "experts": _make_experts,
        "distill": _make_synthetic,
        "evaluate": _make_records,
        "report": lambda run, executor, progress: report.write(run.folder),
    }
    with run.folder.lock(LOCK):
        run.folder.write(CONFIG, configs.to_yaml(config).encode())
        for step in STEPS[: STEPS.index(last_step) + 1]:
            makers[step](run, executor, progress)
    return run


def write_report(config: RunConfig) -> Run:
    """Write report and preview of what is in the run's folder."""
    run = Run(config, Folder.at(config.out))
    report.write(run.folder)
    return run


def verify(folder: Folder) -> list[str]:
    """Check every sha256 and schema below a run's folder; returns what was checked.

    Raises:
        ArtefactError: naming the first file that is not as it was written.
    """
    checked = []
    for path in _artefact_folders(folder):
        artefact = Artefact.find(path)
        assert artefact is not None
        artefact.verify()
        checked.append(path.uri)
    records.read(folder / "results")
    if not checked:
        raise ArtefactError(f"{folder.uri}: there are no finished artefacts here")
    return checked


def _check(run: Run) -> None:
    """Everything that can be wrong before the work begins."""
    run.folder.check_writable()
    data = run.data
    for network in (run.config.network, *run.config.evaluate.networks):
        networks.build(network, data.shape, data.num_classes)
    require_images(data, run.config.method.images_per_class)
    run.require_same()
    if run.has_synthetic():
        SyntheticSet.load(run.synthetic)
    elif run.has_experts():
        _verify_experts(run)


def _is_finished(run: Run) -> bool:
    return run.has_synthetic() and not _missing_trials(run)


def _missing_trials(run: Run) -> list[Trial]:
    found = ((trial, records.find(run.results, run.record_id(trial))) for trial in run.trials())
    return [trial for trial, record in found if record is None or record.status == "failed"]


def _verify_experts(run: Run) -> None:
    artefact = Artefact.find(run.trajectories.folder, EXPERTS)
    assert artefact is not None
    artefact.verify()
    run.trajectories.check(run.config.experts.count, run.config.experts.training.epochs)


def _make_experts(run: Run, executor: Executor, progress: Progress) -> None:
    if run.has_synthetic() and run.has_experts():
        return
    missing = [n for n in range(run.config.experts.count) if not run.trajectories.has(n)]
    if missing:
        _share_data(run)
        executor.experts(run, missing, progress)
    if not run.has_experts():
        run.trajectories.publish(run.experts_key)
        _verify_experts(run)
        _write_curves(run)


def _make_synthetic(run: Run, executor: Executor, progress: Progress) -> None:
    if not run.has_synthetic():
        _share_data(run)
        executor.distill(run, progress)


def _make_records(run: Run, executor: Executor, progress: Progress) -> None:
    missing = _missing_trials(run)
    if missing:
        _share_data(run)
        executor.evaluate(run, missing, progress)


def _share_data(run: Run) -> None:
    """Put the prepared data where every worker maps it from."""
    folder = run.work / "data"
    if prepared.open_saved(folder, run.data_key) is None:
        prepared.save(run.data, folder, run.data_key)


def _write_curves(run: Run) -> None:
    rows = [
        {"expert": number, **point}
        for number in range(run.config.experts.count)
        for point in run.trajectories.reader(number).curve()
        if point["epoch"]
    ]
    run.metrics.write("experts.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def _artefact_folders(folder: Folder) -> Iterator[Folder]:
    if folder.has("manifest.json"):
        yield folder
    for name in folder.folders():
        yield from _artefact_folders(folder / name)
