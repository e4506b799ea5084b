"""From somebody's images to the set that was chosen: decide once, try, finish the best, say so.

Everything lies in one folder: `auto.json`, what was decided; `tried/` and `finished/`, a run for each candidate;
`outcomes/`; `shared/`, experts and teachers; `best.yaml`, the config of the set that was chosen.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from raydd import config as configs
from raydd.core.errors import ConfigError, RunError
from raydd.core.progress import OfPart, Progress
from raydd.data import prepared, signature
from raydd.pipeline import execution
from raydd.pipeline.auto import record
from raydd.pipeline.auto.decide import Request, candidates_of, decide
from raydd.pipeline.auto.portfolio import Candidate
from raydd.pipeline.auto.record import Decision
from raydd.pipeline.auto.rounds import CandidateOutcome, CandidateRound, config_of
from raydd.pipeline.auto.verdict import Verdict, finalists, judge
from raydd.pipeline.executor import Executor
from raydd.pipeline.runs.run import Run
from raydd.storage import Folder
from raydd.storage.lock import locked

BEST, LOCK = "best.yaml", "auto.lock"


@dataclass(frozen=True, kw_only=True)
class AutoResult:
    """What came of it."""

    folder: Folder
    decision: Decision
    tried: tuple[CandidateOutcome, ...]
    finished: tuple[CandidateOutcome, ...]
    verdict: Verdict

    def __repr__(self) -> str:
        """Where it is, and what was chosen."""
        return f"AutoResult({self.folder.uri}: {self.verdict.sentence})"

    @property
    def best(self) -> Folder:
        """The run of the set that was chosen."""
        return Folder.at(self.verdict.chosen.candidate.config.out)


def auto(
    request: Request,
    executor: Executor,
    on_ray: bool,
    progress: Progress,
    announce: Callable[[Decision], None] = lambda decision: None,
) -> AutoResult:
    """Do all of it, or what is left of it.

    Args:
        request: what is asked for.
        executor: does the work.
        on_ray: whether it does so on several processes.
        progress: is told how it goes.
        announce: is told what was decided, before the work begins.

    Raises:
        UserError: something is wrong with the request, the data or the folder; nothing was written.
        RunError: the work broke off; the same call goes on from there.
    """
    folder = request.folder
    decision = record.read(folder)
    if decision is None:
        folder.check_writable()
        decision = decide(request, on_ray, progress)
    else:
        record.require_same(decision, request.identity(), signature(request.data), folder)
    tried = candidates_of(request, decision, is_last=False)
    if not folder.has(BEST):
        executor.check(_base(tried, folder), progress)
    with locked(folder, LOCK):
        record.write(decision, folder)
        announce(decision)
        _share(tried, folder, executor, progress)
        first = _round("tried", tried, folder, executor, progress)
        names = [made.candidate.name for made in finalists(first, decision.finalists)]
        last = [one for one in candidates_of(request, decision, is_last=True) if one.is_reference or one.name in names]
        finished = _round("finished", last, folder, executor, progress)
        verdict = judge(finished)
        if verdict is None:
            raise RunError(f"herding: {'; '.join(made.error for made in finished if made.candidate.is_reference)}")
        folder.write(BEST, _best_yaml(verdict, decision).encode())
    return AutoResult(folder=folder, decision=decision, tried=tuple(first), finished=tuple(finished), verdict=verdict)


def _base(tried: Sequence[Candidate], folder: Folder) -> Run:
    """The run in whose name rounds are made; nothing of it is ever distilled."""
    return Run(Run.of(tried[0].config).config, folder)


def _share(tried: Sequence[Candidate], folder: Folder, executor: Executor, progress: Progress) -> None:
    """Make what candidates have in common. Where that breaks off, each candidate that needs it says so by itself."""
    run, place = Run.of(tried[0].config), folder / "shared" / "data"
    if prepared.open_saved(place, run.data_key) is None:
        prepared.save(run.data, place, run.data_key)
    asked: dict[str, Candidate] = {}
    for one in tried:
        kinds = one.config.method.made_first
        for kind, step in (("experts", "experts"), ("ranking", "rank")):
            if kind in kinds:
                asked.setdefault(step, one)
    for step, one in asked.items():
        if not (folder / "outcomes").has(f"tried-{one.name}.json"):
            with suppress(RunError, ConfigError):
                execution.execute(one.config, executor, OfPart(progress), step)


def _round(
    name: str, candidates: Sequence[Candidate], folder: Folder, executor: Executor, progress: Progress
) -> list[CandidateOutcome]:
    base = _base(candidates, folder)
    made = CandidateRound(base, name, tuple(candidates), folder / "outcomes", folder / "shared" / "data")
    if made.pieces():
        executor.make(base, [made], progress)
    return made.open()


def _best_yaml(verdict: Verdict, decision: Decision) -> str:
    """The config, and why it is this."""
    said = [verdict.sentence, *decision.reasons]
    header = "".join(f"# {line}\n" for line in said)
    return header + configs.to_yaml(config_of(verdict.chosen))
