"""Which artefacts a config needs, which exist, and in what order the others are made.

Nothing is written before everything that can be known to be wrong has been looked at.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial

import pyarrow.compute as pc

from raydd import config as configs
from raydd import data, networks
from raydd.config import RunConfig
from raydd.core.errors import ArtefactError, ConfigError
from raydd.core.progress import ObservedProgress, Progress, Work
from raydd.data import prepared, problems
from raydd.data.prepared import PreparedData
from raydd.data.streamed_splits import expected, streams
from raydd.evaluation import records
from raydd.evaluation.students.trials import LabelStore, Trial
from raydd.methods.imported import ImportedConfig
from raydd.methods.initial import require_images
from raydd.pipeline import observers
from raydd.pipeline.executor import Executor
from raydd.pipeline.runs.conflicts import require_same
from raydd.pipeline.runs.run import CONFIG, CURVES, LOCK, Run
from raydd.pipeline.work import distill, probes
from raydd.plan import DataFacts, Plan, make_plan
from raydd.storage import Artefact, Folder
from raydd.storage.event_log import EventLog
from raydd.storage.lock import locked

STEPS = ("experts", "teacher", "rank", "distill", "evaluate", "probe", "report")
"""In the order in which one needs the other; which a method has, `_steps` says."""


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
    config = config.sized()
    run = Run.of(config)
    steps = _steps(config, last_step)
    _check(run)
    log, others = EventLog(), executor.observers(run)
    logged = ObservedProgress(progress, log)
    if count := problems.count(run.work):
        logged.update(Work("images", "left out or changed"), count, count, f"listed in {problems.uri(run.work)}")
    if not _is_finished(run):
        executor.check(run, logged)
    makers: dict[str, Callable[[Run, Executor, Progress], bool]] = {
        "experts": _make_experts,
        "teacher": _make_teacher,
        "rank": _make_ranking,
        "distill": _make_synthetic,
        "evaluate": _make_records,
        "probe": _make_answers,
        "report": lambda run, executor, progress: _write_report(run),
    }
    who = {"name": config.name, "steps": steps, "executor": type(executor).__name__}
    looked_on = observers.observed(run.folder, config.cluster, log, others, progress, **who)
    with locked(run.folder, LOCK), looked_on as observed:
        run.folder.write(CONFIG, configs.to_yaml(config).encode())
        for step in steps:
            observed.step(step, partial(makers[step], run, executor))
    return run


def write_report(config: RunConfig) -> Run:
    """Write report and preview of what is in the run's folder."""
    run = Run.of(config)
    _write_report(run)
    return run


def plan_of(config: RunConfig) -> Plan:
    """What the run will take, from the size of its dataset. One that has a name need not be there.

    Writes nothing, but for a list of images that cannot be decoded.

    Raises:
        UserError: the data cannot be read, or are smaller than a network can pool.
    """
    config = config.sized()
    return make_plan(config, data.size_of(config.data) or _counted(config))


def verify(folder: Folder) -> list[str]:
    """Check every sha256 and schema below a run's folder; returns what was checked.

    Raises:
        ArtefactError: naming the first file that is not as it was written.
    """
    checked = _intact(folder)
    records.read(folder / "results")
    if not checked:
        raise ArtefactError(f"{folder.uri}: there are no finished artefacts here")
    return checked


def _write_report(run: Run) -> bool:
    """The figures' library is loaded here: it would keep every worker waiting."""
    from raydd import report

    report.write(run.folder)
    return True


def _counted(config: RunConfig) -> DataFacts:
    """The size of a dataset that no publication tells."""
    return expected(config.data) if streams(config.data) else _size_of(Run.of(config).data)


def _size_of(data: PreparedData) -> DataFacts:
    held_out = 0 if data.validation is None else len(data.validation)
    return DataFacts(len(data.train), len(data.test), data.shape, data.num_classes, held_out)


def _steps(config: RunConfig, last_step: str) -> list[str]:
    """What is made up to and including a step.

    Raises:
        ConfigError: the method has no such step, or the config asks nothing.
    """
    method = config.method
    own = {"trajectories": {"experts"}, "teacher": {"teacher", "rank"}, "data": set[str]()}[method.works_on]
    left_out = {"experts", "teacher", "rank"} - own
    if not method.uses_ranking and last_step != "rank":
        left_out.add("rank")
    if last_step in left_out:
        needs = {"trajectories": "expert trajectories", "teacher": "a teacher", "data": "the images alone"}
        problem = f"{method.name} works on {needs[method.works_on]}: there is no step `{last_step}`"
        raise ConfigError("method.name", problem)
    if not config.evaluate.probes:
        if last_step == "probe":
            raise ConfigError("evaluate.probes", "name what to ask")
        left_out.add("probe")
    return [step for step in STEPS[: STEPS.index(last_step) + 1] if step not in left_out]


def _check(run: Run) -> None:
    """Everything that can be wrong before the work begins."""
    run.folder.check_writable()
    _check_networks(run)
    require_images(run.data, run.config.images_per_class, run.config.method.repeat_images)
    require_same(run)
    for number, method in enumerate(run.config.methods):
        if isinstance(method, ImportedConfig):
            method.open(run.data, number)
    _check_inputs(run)


def _check_networks(run: Run) -> None:
    shape, num_classes = run.data.shape, run.data.num_classes
    networks.build(run.config.network, shape, num_classes)
    if run.config.method.works_on == "teacher":
        networks.build(run.config.teacher_network, shape, num_classes)
    for number, network in enumerate(run.config.evaluate.networks):
        try:
            networks.build(network, shape, num_classes)
        except ConfigError as error:
            name = error.field.replace("network", f"evaluate.networks.{number}", 1)
            raise ConfigError(name, error.problem) from error


def _check_inputs(run: Run) -> None:
    """See that whatever is finished and will be read is as it was written."""
    missing = _missing_trials(run)
    folders = [run.synthetic, run.average, *(folder for stage in run.stages for folder in stage.finished_folders())]
    if missing or not run.has_synthetic():
        folders.append(run.work)
    works_on = run.config.method.works_on
    uses_experts = not run.has_synthetic() or any(trial.uses_experts for trial in missing)
    uses_experts = uses_experts and works_on == "trajectories"
    if uses_experts:
        folders.append(run.trajectories.folder)
    if works_on == "teacher":
        folders += [run.teacher_folder, run.ranking_folder]
    asked = [question.trial for question in probes.unanswered(run)]
    if _uses_selection([*missing, *asked]):
        folders.append(run.selection_folder)
    if asked:
        folders.append(run.observer_folder)
    folders += map(run.labels, LabelStore.needed(missing, run.config.evaluate.label_epochs))
    for folder in folders:
        _intact(folder)
    if uses_experts and not run.has_experts():
        for number in filter(run.trajectories.has, range(run.config.experts.count)):
            run.trajectories.reader(number)


def _is_finished(run: Run) -> bool:
    return run.has_synthetic() and not _missing_trials(run) and not probes.unanswered(run)


def _missing_trials(run: Run) -> list[Trial]:
    found = records.read(run.results)
    finished = set(found.filter(pc.equal(found["status"], "ok"))["record_id"].to_pylist())
    return [trial for trial in run.trials() if not finished.issuperset(map(run.record_id, trial.legs()))]


def _uses_selection(trials: Sequence[Trial]) -> bool:
    return any(trial.coreset is not None for trial in trials)


def _make_experts(run: Run, executor: Executor, progress: Progress) -> bool:
    missing = run.unfinished_experts()
    if missing:
        _share_data(run)
        if any(map(run.trajectories.has, missing)):
            run.trajectories.withdraw()
        executor.experts(run, missing, progress)
    finished = run.has_experts()
    if not (finished and run.metrics.has(CURVES)):
        run.trajectories.check(run.config.experts.count, run.config.experts.training.epochs)
        _write_curves(run)
    if not finished:
        run.trajectories.publish(run.experts_key)
    return bool(missing)


def _make_teacher(run: Run, executor: Executor, progress: Progress) -> bool:
    return _make(executor.teacher, run, run.has_teacher(), progress)


def _make_ranking(run: Run, executor: Executor, progress: Progress) -> bool:
    return _make(executor.rank, run, run.has_ranking(), progress)


def _make(work: Callable[[Run, Progress], None], run: Run, is_there: bool, progress: Progress) -> bool:
    if not is_there:
        _share_data(run)
        work(run, progress)
    return not is_there


def _make_synthetic(run: Run, executor: Executor, progress: Progress) -> bool:
    if run.has_synthetic():
        return False
    _share_data(run)
    if not run.has_scores():
        executor.score(run, progress)
    executor.distill(run, progress)
    distill.gather(run)
    return True


def _make_records(run: Run, executor: Executor, progress: Progress) -> bool:
    missing = _missing_trials(run)
    if missing:
        _share_data(run)
        for store in LabelStore.needed(missing, run.config.evaluate.label_epochs):
            if Artefact.find(run.labels(store)) is None:
                executor.relabel(run, store, progress)
        _make_selection(run, missing, executor, progress)
        executor.evaluate(run, missing, progress)
    return bool(missing)


def _make_selection(run: Run, trials: Sequence[Trial], executor: Executor, progress: Progress) -> None:
    if _uses_selection(trials) and not run.has_selection():
        _make_observer(run, executor, progress)
        executor.select(run, progress)


def _make_observer(run: Run, executor: Executor, progress: Progress) -> None:
    if not run.has_observer():
        executor.observe(run, progress)


def _make_answers(run: Run, executor: Executor, progress: Progress) -> bool:
    missing = probes.unanswered(run)
    if missing:
        _share_data(run)
        _make_observer(run, executor, progress)
        _make_selection(run, [question.trial for question in missing], executor, progress)
        executor.probe(run, missing, progress)
    return bool(missing)


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
    run.metrics.write(CURVES, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _intact(folder: Folder) -> list[str]:
    """Compare every finished artefact in and below a folder with its manifest; returns where they are."""
    artefact = Artefact.find(folder)
    if artefact is not None:
        artefact.verify()
    below = [uri for name in folder.folders() for uri in _intact(folder / name)]
    return below if artefact is None else [folder.uri, *below]
