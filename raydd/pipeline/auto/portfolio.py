"""The candidates: what is tried on a dataset, each an ordinary config, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from raydd.config import RunConfig
from raydd.config.cluster import ClusterConfig
from raydd.config.evaluate import EvaluateConfig
from raydd.data import DataConfig
from raydd.evaluation.record import LabelRegime
from raydd.ingredients.experts import ExpertsConfig
from raydd.ingredients.ranking import RankingConfig
from raydd.ingredients.teacher import TeacherConfig
from raydd.methods import DATMConfig, DELTConfig, DMConfig, IDCConfig, MethodConfig, RDEDConfig
from raydd.methods.coreset import CoresetConfig
from raydd.networks.config import NetworkConfig
from raydd.pipeline.auto.settings import MATCHED_BATCH, Settings
from raydd.storage import Folder
from raydd.training.recipe import Recipe

Labels = Literal["hard", "soft", "any"]
"""What students may be told: the classes; labels that come with a set, or a teacher's; whichever is best."""
LABELS: Final = get_args(Labels)
HERDING: Final = "herding"
"""Real images, chosen; the candidate that others have to beat."""
HERDING_VIEWS: Final = "herding_views"
"""The same, whose students see views, under a teacher's labels where these are allowed."""
REFERENCES: Final = (HERDING, HERDING_VIEWS)
TAUGHT: Final = ("rded", "delt", HERDING_VIEWS)
"""Candidates that a teacher is made for."""
_REASONS: Final[Mapping[str, str]] = {
    "idc": "matches gradients, stores several small images in the place of one",
    "dm": "matches mean features: the cheapest",
    "datm": "matches how experts learn",
    "rded": "crops of real images that a teacher knows best: nothing is optimised",
    "delt": "images that are optimised against a teacher",
    HERDING: "real images near the mean of their class: what all others have to beat; random ones beside",
    HERDING_VIEWS: "the same, whose students see crops of the images, as those of rded and delt do",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for, and what follows from the data alone."""

    data: DataConfig
    """As all candidates see it."""
    images_per_class: int
    labels: Labels
    seed: int
    folder: Folder
    smallest_class: int
    """Real images of it to distil."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method with its settings."""

    name: str
    config: RunConfig
    reason: str

    @property
    def is_reference(self) -> bool:
        """Whether it is real images."""
        return self.name in REFERENCES


def names(labels: Labels) -> tuple[str, ...]:
    """The candidates under labels, those that take longest first."""
    chosen = {"hard": ("idc", "datm", "dm"), "soft": ("datm",), "any": ("idc", "datm", "dm")}[labels]
    return (*chosen, "delt", "rded", HERDING_VIEWS, *((HERDING,) if labels != "soft" else ()))


def candidates(wanted: Wanted, settings: Settings) -> list[Candidate]:
    """All that are tried, or would be finished, with these settings."""
    return [candidate(name, wanted, settings) for name in names(wanted.labels)]


def candidate(name: str, wanted: Wanted, settings: Settings) -> Candidate:
    """One of them."""
    method, shared = _method(name, wanted, settings), wanted.folder / "shared"
    network = NetworkConfig(width=settings.width, depth="auto", norm="batch" if name in TAUGHT else "instance")
    config = RunConfig(
        name=name,
        seed=wanted.seed,
        out=(wanted.folder / ("finished" if settings.is_last else "tried") / name).uri,
        data=wanted.data,
        network=network,
        experts=_experts(settings, shared),
        teacher=_teacher(settings, shared),
        ranking=RankingConfig(store=(shared / "ranking").uri),
        method=method,
        evaluate=_evaluate(name, method, wanted, settings),
        cluster=ClusterConfig(num_workers=1),
    )
    return Candidate(name=name, config=config, reason=_REASONS[name])


def _method(name: str, wanted: Wanted, settings: Settings) -> MethodConfig:
    count, thorough = wanted.images_per_class, settings.effort >= 1 / 4
    match name:
        case "idc":
            return IDCConfig(
                images_per_class=count,
                iterations=settings.iterations(3),
                inner_loops=10 if thorough else 3,
                image_lr=0.05,
                num_real=min(500 if thorough else 100, settings.facts.num_train),
                repeat_images=wanted.smallest_class < 4 * count,
            )
        case "dm":
            iterations = settings.iterations(60)
            return DMConfig(
                images_per_class=count, iterations=iterations, real_batch_size=64, augmentation=settings.siamese
            )
        case "datm":
            return _datm(wanted, settings)
        case "delt":
            rounds = settings.iterations(16)
            return DELTConfig(images_per_class=count, iterations=8 * rounds, round_iterations=rounds)
        case "rded":
            return RDEDConfig(images_per_class=count)
        case _:
            return CoresetConfig(images_per_class=count, taught=name == HERDING_VIEWS)


def _datm(wanted: Wanted, settings: Settings) -> DATMConfig:
    epochs, iterations = _expert_epochs(settings), settings.iterations(40)
    return DATMConfig(
        images_per_class=wanted.images_per_class,
        iterations=iterations,
        synthetic_steps=10,
        expert_epochs=1,
        synthetic_batch_size=min(MATCHED_BATCH, settings.facts.num_classes * wanted.images_per_class),
        synthetic_lr_init="auto",
        initial_max_start_epoch=max(1, epochs // 4),
        max_start_epoch=max(1, epochs // 2),
        expansion_iterations=max(1, iterations // 2),
        labels="hard" if wanted.labels == "hard" else "learned",
        augmentation=settings.siamese,
        repeat_images=True,
    )


def _expert_epochs(settings: Settings) -> int:
    return settings.epochs_on_real(0.4, 4)


def _experts(settings: Settings, shared: Folder) -> ExpertsConfig:
    recipe = Recipe(
        epochs=_expert_epochs(settings), lr=0.02, batch_size=settings.real_batch(20), augmentation=settings.siamese
    )
    count = 2 if settings.effort < 1 / 4 else 4 if settings.effort < 8 else 16
    return ExpertsConfig(count=count, training=recipe, store=(shared / "experts").uri)


def _teacher(settings: Settings, shared: Folder) -> TeacherConfig:
    recipe = Recipe(
        epochs=settings.epochs_on_real(1.0, 3),
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=settings.real_batch(20),
        schedule="cosine",
        warmup_epochs=1,
        augmentation="crop+flip" if settings.mirrored else "crop",
    )
    return TeacherConfig(training=recipe, store=(shared / "teacher").uri)


def _evaluate(name: str, method: MethodConfig, wanted: Wanted, settings: Settings) -> EvaluateConfig:
    shown = settings.facts.num_classes * method.images_per_class * method.decoded_images
    recipe = settings.taught_student(shown) if name in TAUGHT else settings.student(shown)
    selector = Recipe(
        epochs=settings.epochs_on_real(0.8, 2),
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=settings.real_batch(10),
        augmentation="none",
    )
    return EvaluateConfig(
        num_students=settings.num_students,
        random_draws=settings.random_draws,
        selector=selector,
        recipe_name="auto",
        recipe=settings.learned_student(shown) if name == "datm" else recipe,
        baselines=_baselines(name, wanted, settings),
        labels=_regimes(name, wanted.labels),
        full_epochs=settings.full_epochs,
    )


def _baselines(
    name: str, wanted: Wanted, settings: Settings
) -> tuple[Literal["init", "random", "k_center", "herding", "full"], ...]:
    """What is measured beside a candidate: where its labels or its recipe are its own, real images under the same."""
    full: tuple[Literal["full"], ...] = ("full",) if settings.is_last and name == names(wanted.labels)[-1] else ()
    if name == "datm" and wanted.labels != "hard" and settings.is_last:
        return ("random", "herding")
    return ("random", *full) if name in REFERENCES else ()


def _regimes(name: str, labels: Labels) -> tuple[LabelRegime, ...]:
    """How students of a candidate are told labels: in the one way by which it is judged."""
    if labels == "hard":
        return ("hard",)
    return ("online",) if name in TAUGHT else ("stored",) if name == "datm" else ("hard",)
