"""From what was asked for to everything that the work goes by: looked up, measured and decided, nothing written."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from raydd import config as configs
from raydd.config import RunConfig
from raydd.core.errors import UserError
from raydd.core.keyed_random import Key
from raydd.core.progress import Progress
from raydd.data import DataConfig, prepared, signature
from raydd.data.folder_layout import TakenFolder, take
from raydd.data.prepared import PreparedData
from raydd.pipeline.auto import budget
from raydd.pipeline.auto.budget import PricedPlan, Speed
from raydd.pipeline.auto.look import (
    DataLook,
    as_used,
    held_out_fraction,
    look,
    require_enough,
    sides_to_try,
)
from raydd.pipeline.auto.mirror import Mirrored, look_in_mirror
from raydd.pipeline.auto.portfolio import LABELS, Candidate, Labels, Wanted, candidates
from raydd.pipeline.auto.record import Decision
from raydd.pipeline.auto.settings import EFFORTS, FINISHING, Settings
from raydd.pipeline.auto.speed import measured
from raydd.storage import Folder


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    source: str
    """A folder of images, or a config, whose data are taken."""
    config: RunConfig | None
    """That config."""
    images_per_class: int
    hours: float = 0.5
    labels: Labels = "hard"
    seed: int = 0
    out: str

    def __post_init__(self) -> None:
        """Refuse what nobody can do.

        Raises:
            UserError: names the option.
        """
        if self.images_per_class < 1:
            raise UserError(f"--images-per-class: must be at least 1, is {self.images_per_class}")
        if not 0 < self.hours < float("inf"):
            raise UserError(f"--hours: must be positive, is {self.hours:g}")
        if self.labels not in LABELS:
            raise UserError(f"--labels: must be one of {', '.join(LABELS)}, is {self.labels}")
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"--seed: must fit into 64 bits, is {self.seed}")

    @classmethod
    def of(cls, source: str, images_per_class: int, out: str | None = None, **asked: Any) -> "Request":
        """What is asked for of a folder of images, or of the data of a config.

        Args:
            source: which one.
            images_per_class: to make.
            out: where everything lies; by default `runs/auto-NAME-N`.
            asked: hours, labels, seed.

        Raises:
            UserError: there is no such folder or config, or an option is wrong.
        """
        config = configs.load(source) if source.endswith((".yaml", ".yml")) else None
        if config is None and "://" not in source and not Path(source).is_dir():
            raise UserError(f"{source}: there is no such folder; give a folder of images, or a config (.yaml)")
        name = Path(source).resolve().name if config is None else config.name
        place = out or f"runs/auto-{name}-{images_per_class}"
        return cls(source=source, config=config, images_per_class=images_per_class, out=place, **asked)

    @cached_property
    def taken(self) -> TakenFolder:
        """The data that are named, by their absolute path: those of a config, or a folder as it is read."""
        taken = take(self.source) if self.config is None else TakenFolder(self.config.data, ())
        return replace(taken, data=RunConfig(data=taken.data).located().data)

    @property
    def data(self) -> DataConfig:
        """The data, by their absolute path."""
        return self.taken.data

    @property
    def folder(self) -> Folder:
        """Where everything lies."""
        return Folder.at(self.out)

    def identity(self) -> dict[str, Any]:
        """What another request has to have in common with this one to go on from what it has made."""
        said = {"images_per_class": self.images_per_class, "hours": self.hours, "labels": self.labels}
        data = self.data.identity()
        data["classes"] = None if data["classes"] is None else list(data["classes"])
        return {"source": data["root"] or data["source"], "data": data, **said, "seed": self.seed}


def decide(request: Request, on_ray: bool, progress: Progress) -> Decision:
    """Look at the data, measure the machine, and choose.

    Args:
        request: what is asked for.
        on_ray: whether candidates are tried side by side.
        progress: is told how it goes.

    Raises:
        UserError: something is wrong with the data, or there is no time for anything.
    """
    began = time.perf_counter()
    found = look(request.data, progress)
    reading = time.perf_counter() - began
    share = held_out_fraction(request.data, found)
    require_enough(found, request.images_per_class, share)
    sides = sides_to_try(request.data, found)
    mirror = _in_mirror(request, found, sides[-1], share)

    def settings_of(side: int, effort: float) -> tuple[Wanted, Settings]:
        return wanted_of(request, found, share, side), _settings(found, share, mirror, side, effort)

    speed = _speed(settings_of(sides[-1], _usual(request, sides)), on_ray, reading, progress)
    seconds = 3600 * request.hours
    plan = budget.fit_into(seconds, time.perf_counter() - began, sides, settings_of, speed)
    if plan.side != sides[-1]:
        speed = _speed(settings_of(plan.side, plan.effort), on_ray, reading, progress)
        plan = budget.fit_into(seconds, time.perf_counter() - began, (plan.side,), settings_of, speed)
    spent = time.perf_counter() - began
    wanted, settings = settings_of(plan.side, plan.effort)
    return Decision(
        arguments=request.identity(),
        files=signature(request.data),
        look=found,
        validation_fraction=share,
        mirror=mirror,
        side=plan.side,
        effort=plan.effort,
        finalists=budget.num_finalists(speed.processes),
        speed=_said(speed),
        seconds={**asdict(plan.price), "measuring": spent},
        hours=(plan.price.total + spent) / 3600,
        reasons=tuple(reasons(request, found, plan, mirror, candidates(wanted, settings), sides)),
    )


def candidates_of(request: Request, decision: Decision, is_last: bool) -> list[Candidate]:
    """The candidates that were decided for, to be tried or to be finished."""
    wanted = wanted_of(request, decision.look, decision.validation_fraction, decision.side)
    settings = _settings(decision.look, decision.validation_fraction, decision.mirror, decision.side, decision.effort)
    return candidates(wanted, replace(settings, is_last=is_last))


def wanted_of(request: Request, found: DataLook, share: float, side: int) -> Wanted:
    """What candidates follow from, beside settings."""
    return Wanted(
        data=as_used(request.data, found, side, share),
        images_per_class=request.images_per_class,
        labels=request.labels,
        seed=request.seed,
        folder=request.folder,
        smallest_class=min(found.left_of_classes(share)),
    )


def prepared_data(wanted: Wanted) -> PreparedData:
    """The data as candidates see them."""
    return prepared.prepare(wanted.data, Key.root(wanted.seed))


def _settings(found: DataLook, share: float, mirror: Mirrored, side: int, effort: float) -> Settings:
    return Settings(effort=effort, mirrored=mirror.keeps_classes, facts=found.facts(side, share))


def _in_mirror(request: Request, found: DataLook, side: int, share: float) -> Mirrored:
    train = prepared_data(wanted_of(request, found, share, side)).train
    step = max(1, -(-len(train) // 2_000))
    rows = torch.arange(0, len(train), step)
    return look_in_mirror(train.images[rows], train.labels[rows])


def _usual(request: Request, sides: tuple[int, ...]) -> float:
    """The effort at which the machine is measured: the kind of work, not its amount, is what counts."""
    return 1.0 if request.hours > 0.05 else EFFORTS[0]


def _speed(chosen: tuple[Wanted, Settings], on_ray: bool, reading: float, progress: Progress) -> Speed:
    wanted, settings = chosen
    tried = [budget.sized(one, min(settings.facts.shape[1:])) for one in candidates(wanted, settings)]
    return measured(tried, settings.facts, on_ray, reading, progress)


def _said(speed: Speed) -> Mapping[str, Any]:
    return {
        "processes": speed.processes,
        "availability": round(speed.availability, 3),
        "flops_per_second": {name: dict(rates.flops_per_second) for name, rates in speed.rates.items()},
    }


def reasons(
    request: Request,
    found: DataLook,
    plan: PricedPlan,
    mirror: Mirrored,
    tried: list[Candidate],
    sides: tuple[int, ...],
) -> list[str]:
    """Every choice in a line."""
    config, facts = tried[0].config, found.facts(plan.side, held_out_fraction(request.data, found))
    said = [
        *request.taken.said,
        f"{found.num_classes} classes, {found.num_train:,} images to learn from ({min(found.train)} to "
        f"{max(found.train)} a class), {found.num_test:,} to test on",
        f"held out to choose by: {facts.num_validation:,} of the images to learn from; the test images choose nothing",
        _size_reason(request, found, plan.side, sides),
        f"mirrored images: {'yes' if mirror.keeps_classes else 'no'}, as {mirror.mirrored:.0%} are recognised in a "
        f"mirror and {mirror.upright:.0%} upright (nearest neighbour; {mirror.chance:.0%} by chance)",
        f"networks: ConvNets of width {config.network.width}, depth by the size of the images",
    ]
    if found.undecodable:
        said.append(f"left out: {found.undecodable:,} images that cannot be decoded (raydd inspect names them)")
    if found.leaked:
        said.append(f"careful: {found.leaked:,} test images are training images, too (raydd inspect names them)")
    for one in tried:
        said.append(f"{one.name}: {one.reason}{_work_in_words(one)}")
    return said


def _size_reason(request: Request, found: DataLook, side: int, sides: tuple[int, ...]) -> str:
    words = f"images of {side}x{side}: "
    if request.data.image_size is not None:
        return words + "as the config says"
    if len(sides) == 1:
        return words + "as they are stored"
    if side == sides[0]:
        return words + f"stored ones have {found.median_side}, and there is time"
    return words + f"stored ones have {found.median_side}, larger ones would take more hours"


def _work_in_words(one: Candidate) -> str:
    config, recipe = one.config, one.config.evaluate.recipe
    said = (
        [f"{config.method.iterations} iterations, {FINISHING} times as many to finish"]
        if config.method.iterations
        else []
    )
    if one.name == "datm":
        said.append(f"{config.experts.count} experts of {config.experts.training.epochs} epochs")
    if "teacher" in config.method.made_first:
        said.append(f"a teacher of {config.teacher.training.epochs} epochs")
    said.append(f"{config.evaluate.num_students} students of {recipe.epochs} epochs, batches of {recipe.batch_size}")
    return f" ({', '.join(said)})"
