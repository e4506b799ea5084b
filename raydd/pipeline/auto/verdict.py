"""Which set is the best, by held-out images alone, and in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from raydd.pipeline.auto.portfolio import HERDING, REFERENCES
from raydd.pipeline.auto.rounds import CandidateOutcome


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was chosen, and why."""

    chosen: CandidateOutcome
    bar: float
    """What the best choice of real images reaches on held-out images."""
    is_distilled: bool
    """Whether a method has beaten that."""
    sentence: str


def finalists(tried: Sequence[CandidateOutcome], count: int) -> list[CandidateOutcome]:
    """The methods that are finished: those that did best on held-out images; of equals the first."""
    methods = [made for made in tried if made.candidate.name not in REFERENCES and made.held_out is not None]
    return sorted(methods, key=lambda made: -(made.held_out or 0.0))[:count]


def judge(finished: Sequence[CandidateOutcome]) -> Verdict | None:
    """Choose among the sets that were finished; None where there is not even one of real images.

    A method is chosen where its set beats herding's, whichever way that is trained on, and also under labels of its
    own.
    """
    references = [made for made in finished if made.candidate.name in REFERENCES and made.held_out is not None]
    if not references:
        return None
    best_real = max(references, key=lambda made: made.held_out or 0.0)
    bar = best_real.held_out or 0.0
    better = [made for made in finished if made not in references and _beats(made, bar)]
    chosen = max(better, key=lambda made: made.held_out or 0.0, default=best_real)
    return Verdict(
        chosen=chosen, bar=bar, is_distilled=bool(better), sentence=_sentence(chosen, finished, bar, bool(better))
    )


def _beats(made: CandidateOutcome, bar: float) -> bool:
    own = made.of("herding")[0] or 0.0
    return made.held_out is not None and made.held_out > max(bar, own)


def _sentence(chosen: CandidateOutcome, finished: Sequence[CandidateOutcome], bar: float, is_distilled: bool) -> str:
    here = f"{100 * (chosen.held_out or 0.0):.1f} % of the held-out images"
    if is_distilled:
        return f"{chosen.candidate.name} is best: {here}, real images chosen by herding {100 * bar:.1f} %"
    way = "" if chosen.candidate.name == HERDING else ", whose students see crops of them"
    tried = [made for made in finished if made.candidate.name not in REFERENCES and made.held_out is not None]
    said = [f"{made.candidate.name} {100 * (made.held_out or 0.0):.1f} %" for made in tried]
    others = f"no method beats them ({', '.join(said)})" if said else "no method could be finished"
    return f"take real images chosen by herding{way}: {here}, and {others}; more hours may change that"
