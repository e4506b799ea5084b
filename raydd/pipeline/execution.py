"""Which artefacts a config needs, which exist, and in what order the others are made.

Nothing is written before everything that can be known to be wrong has been looked at.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from raydd import config as configs
from raydd import networks
from raydd.config import RunConfig
from raydd.core.errors import ConfigError, UserError
from raydd.core.progress import NoProgress, ObservedProgress, Progress, Work
from raydd.data import prepared, problems, size_of
from raydd.data.outline import outline
from raydd.data.passed_over import division, passed_over
from raydd.data.prepared import PreparedData
from raydd.data.streamed_splits import expected, streams
from raydd.ingredients.base import Ingredient
from raydd.ingredients.order import Name, chain, everything, name_of, unmade
from raydd.methods.initial import require_images
from raydd.pipeline import observers
from raydd.pipeline.executor import Executor
from raydd.pipeline.graph import NumberedSteps, WrittenReport, target
from raydd.pipeline.local import LocalExecutor
from raydd.pipeline.runs.conflicts import require_apart, require_same
from raydd.pipeline.runs.resolved import resolved
from raydd.pipeline.runs.run import CONFIG, LOCK, Run
from raydd.pipeline.runs.size import counted
from raydd.pipeline.time_left import PlannedTime, TimeLeft
from raydd.pipeline.work.own_records import set_aside
from raydd.plan import DataFacts, Plan, make_plan
from raydd.storage import verify_below
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
    config = resolved(config)
    run = replace(Run.of(config), reader=executor.reader)
    steps = _steps(config, last_step)
    _check(run)
    log, others = EventLog(), executor.observers(run)
    logged = ObservedProgress(progress, log)
    if count := problems.count(run.work):
        logged.update(
            Work("images", "left out, changed, or read with a warning"),
            count,
            count,
            f"listed in {problems.uri(run.work)}",
        )
    if unmade(_results(run)):
        _tell_passed_over(run, logged)
        executor.check(run, logged)
    who = {"name": config.name, "steps": steps, "executor": type(executor).__name__}
    looked_on = observers.observed(run.folder, config.cluster, log, others, progress, **who)
    with locked(run.folder, LOCK), looked_on as observed:
        run.folder.write(CONFIG, configs.to_yaml(config).encode())
        if not run.has_synthetic():
            set_aside(run, logged)
        wanted = [target(run, step) for step in steps]
        counted = NumberedSteps(everything(wanted), _time_left(run, wanted, executor), progress)
        for number, step in enumerate(steps):
            observed.step(step, partial(_make, run, wanted[number:], executor, counted))
    return run


def ready_plan(config: RunConfig, no_ray: bool) -> Plan:
    """`plan_of` a run that `execute` would not refuse, as far as that is known without Ray; nothing is written.

    Pixels are read where finished artefacts of the run may be in the way, and where nobody can do without them. Data
    that are not here, and of published size, are planned with that, and nothing else is checked.

    Args:
        config: the run.
        no_ray: whether one process would do the work.

    Raises:
        UserError: as `execute`.
    """
    run = Run.of(config)
    size, streamed = size_of(run.config.data), streams(run.config.data)
    if size is not None and size.published:
        return make_plan(run.config, size)
    if _is_new(run) and (size is not None or streamed):
        run = OutlinedRun(run.config, run.folder)
    _check(run)
    if no_ray and unmade(_results(run)):
        here = LocalExecutor()
        here.check(run, NoProgress())
        here.observers(run)
    return make_plan(run.config, size or (expected(run.config.data) if streamed else counted(run.data)))


class OutlinedRun(Run):
    """A run that knows its data by their labels alone."""

    @cached_property
    def data(self) -> PreparedData:
        """Without pixels."""
        return outline(self.config.data, self.key())


def _is_new(run: Run) -> bool:
    """Whether nothing is there that another config may have made."""
    config = run.config
    stores = (config.experts.store, config.teacher.store, config.teacher.weights, config.ranking.store)
    return not run.folder.exists() and config.stages.store is None and not any(stores)


def write_report(config: RunConfig) -> Run:
    """Write report and preview of what is in the run's folder."""
    run = Run.of(config)
    WrittenReport(run, run).make(0, NoProgress())
    return run


def plan_of(config: RunConfig) -> Plan:
    """What the run will take, from the size of its dataset. One that has a name need not be there.

    Writes nothing, but for a list of images that cannot be decoded.

    Raises:
        UserError: the data cannot be read, or are smaller than a network can pool.
    """
    config = resolved(config)
    return make_plan(config, size_of(config.data) or _counted(config))


def graph_of(config: RunConfig) -> tuple[list[Ingredient[Any]], list[Ingredient[Any]]]:
    """All ingredients of a run, in an order in which one needs the other, and those that it will make. Writes nothing.

    What is needed for nothing but what is there, as the trajectories of finished stages, is not made again.
    """
    wanted = _targets(Run.of(config))
    return list(everything(wanted)), unmade(wanted)


def _counted(config: RunConfig) -> DataFacts:
    """The size of a dataset that no publication tells."""
    return expected(config.data) if streams(config.data) else counted(Run.of(config).data)


def _steps(config: RunConfig, last_step: str) -> list[str]:
    """What is made up to and including a step.

    Raises:
        ConfigError: the method has no such step, or the config asks nothing.
    """
    method = config.method
    own = {"experts": {"experts"}, "teacher": {"teacher", "rank"}}
    left_out = {"experts", "teacher", "rank"}.difference(*(own.get(kind, set()) for kind in method.made_first))
    if "ranking" not in method.made_first and last_step != "rank":
        left_out.add("rank")
    if last_step in left_out:
        said = {"experts": "expert trajectories", "teacher": "a teacher"}
        needed = [said[kind] for kind in method.made_first if kind in said] or ["the images alone"]
        problem = f"{method.name} works on {needed[0]}: there is no step `{last_step}`"
        raise ConfigError("method.name", problem)
    if not config.evaluate.probes:
        if last_step == "probe":
            raise ConfigError("evaluate.probes", "name what to ask")
        left_out.add("probe")
    return [step for step in STEPS[: STEPS.index(last_step) + 1] if step not in left_out]


def _targets(run: Run) -> list[Ingredient[Any]]:
    """What all steps of a run make."""
    return [target(run, step) for step in _steps(run.config, "report")]


def _results(run: Run) -> list[Ingredient[Any]]:
    """What a finished run has: the distilled set, the students' records, and the answers to what is asked."""
    steps = ("distill", "evaluate", "probe") if run.config.evaluate.probes else ("distill", "evaluate")
    return [target(run, step) for step in steps]


def _check(run: Run) -> None:
    """Everything that can be wrong before the work begins."""
    run.folder.check_writable()
    require_apart(run)
    _check_networks(run)
    require_images(run.data, run.config.images_per_class, run.config.method.repeat_images)
    require_same(run, everything(_targets(run)))
    for number, method in enumerate(run.config.methods):
        method.open_source(run.data, number)
    _check_inputs(run, _results(run))


def _tell_passed_over(run: Run, progress: Progress) -> None:
    """Say which split is tested on, where that is not plain, and how many files are not read, and why."""
    given = division(run.config.data)
    if given is not None and not given.is_plain:
        progress.update(Work("splits", "of the data"), 1, 1, given.in_words())
    for reason, count in passed_over(run.config.data).most_common():
        progress.update(Work("files", "passed over"), count, count, reason)


def _check_networks(run: Run) -> None:
    shape, num_classes = run.data.shape, run.data.num_classes
    networks.build(run.config.network, shape, num_classes)
    if "teacher" in run.made_first:
        networks.build(run.config.teacher_network, shape, num_classes)
    for number, network in enumerate(run.config.evaluate.networks):
        try:
            networks.build(network, shape, num_classes)
        except ConfigError as error:
            name = error.field.replace("network", f"evaluate.networks.{number}", 1)
            raise ConfigError(name, error.problem) from error


def _check_inputs(run: Run, wanted: Sequence[Ingredient[Any]]) -> None:
    """See that whatever is finished and will be read is as it was written, before it is asked anything."""
    seen: set[tuple[Name, bool]] = set()

    def look_at(ingredient: Ingredient[Any], is_read: bool) -> None:
        if (name_of(ingredient), is_read) not in seen:
            seen.add((name_of(ingredient), is_read))
            ingredient.verify(is_read)
            is_read = not ingredient.is_made()
            for needed in ingredient.needs():
                look_at(needed, is_read)

    for ingredient in wanted:
        look_at(ingredient, True)
    if unmade(wanted):
        verify_below(run.work)


def _make(
    run: Run, wanted: Sequence[Ingredient[Any]], executor: Executor, counted: NumberedSteps, progress: Progress
) -> bool:
    """Make the first of these and whatever it needs that is not there; returns whether anything was left to make.

    The others come later: an executor may begin what they need, too.
    """
    made, done = False, set[Name]()
    while missing := unmade(wanted[:1], done):
        if not missing[0].num_missing():
            missing[0].finish()
            done.add(name_of(missing[0]))
            continue
        next_ones = chain(missing)
        done.update(map(name_of, next_ones))
        others = unmade(wanted, done)
        if any(ingredient.uses_data for ingredient in (*next_ones, *others)):
            _share_data(run)
        with counted.under_way(next_ones, progress) as told:
            executor.make(run, next_ones, told, others)
        made = True
    return made


def _time_left(run: Run, wanted: Sequence[Ingredient[Any]], executor: Executor) -> TimeLeft | None:
    """What takes note of how long a run still takes; None where nothing of it can be planned."""
    try:
        on_ray = not isinstance(executor, LocalExecutor)
        return TimeLeft(PlannedTime.of(run, unmade(wanted), counted(run.data), on_ray))
    except UserError:
        return None


def _share_data(run: Run) -> None:
    """Put the prepared data where every worker maps it from."""
    folder = run.work / "data"
    if prepared.open_saved(folder, run.data_key) is None:
        prepared.save(run.data, folder, run.data_key)
