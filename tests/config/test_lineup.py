"""Which students are trained: every kind of method under its regimes, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from raydd import config as configs
from raydd.config.lineup import plan_trials
from raydd.core.errors import ConfigError
from raydd.evaluation.students.trials import Trial
from raydd.networks.config import NetworkConfig
from raydd.plan import DataFacts, make_plan
from raydd.plan.students import num_trained_on
from raydd.training.recipe import Recipe
from tests.pipeline.test_condensation_runs import METHODS as OF_DATA
from tests.pipeline.test_condensation_runs import RECIPE
from tests.pipeline.test_decoupled_runs import CONFIG as TEACHER
from tests.support.small import COMMON, CONFIG

FACTS = DataFacts(120, 296, (1, 8, 8), 10)
SELECTED = ["init", "random", "k_center", "herding", "full"]
IMPORTED = {"name": "imported", "path": "/nowhere", "fingerprint": "0" * 64, "images_per_class": 1}
FTD = {**COMMON, "name": "ftd", "ema_decay": 0.75}


def config_of(base: dict[str, Any], method: dict[str, Any] | None = None, **evaluate: Any) -> configs.RunConfig:
    values = {**base, "evaluate": {**base["evaluate"], **evaluate}}
    return configs.from_mapping(values if method is None else {**values, "method": method})


def trials_of(config: configs.RunConfig) -> list[Trial]:
    return plan_trials(config.evaluate, config.network, config.methods, config.stages, 10, "digits")


def lineup(trials: Sequence[Trial]) -> list[str]:
    """Subjects in order, each with its regimes."""
    regimes: dict[str, list[str]] = {}
    for trial in trials:
        regimes.setdefault(trial.subject, []).append(trial.labels)
    return [f"{subject}: {' '.join(labels)}" for subject, labels in regimes.items()]


# regimes


@pytest.mark.parametrize(
    ("base", "method", "labels", "own", "compared"),
    [
        (CONFIG, None, None, "stored hard", "stored hard"),
        (CONFIG, None, ["hard"], "hard", "hard"),
        (CONFIG, None, ["stored"], "stored", "stored"),
        (CONFIG, FTD, None, "hard", "hard"),
        (CONFIG, {**CONFIG["method"], "labels": "hard"}, None, "hard", "hard"),
        (TEACHER, None, None, "online", "online"),
        (TEACHER, None, ["online", "replayed", "hard"], "online replayed hard", "online hard"),
        (TEACHER, None, ["replayed"], "replayed", None),
        (CONFIG, OF_DATA["dm"], None, "hard", "hard"),
        (CONFIG, {**IMPORTED, "labels": "stored"}, None, "stored hard", "hard"),
        (CONFIG, IMPORTED, None, "hard", "hard"),
    ],
    ids=[
        "soft labels",
        "soft labels, hard alone",
        "soft labels alone",
        "an average",
        "hard DATM",
        "teacher",
        "teacher, all",
        "replayed alone",
        "data",
        "imported, soft",
        "imported",
    ],
)
def test_every_subject_has_every_regime_that_it_can_have(
    base: dict[str, Any], method: dict[str, Any] | None, labels: list[str] | None, own: str, compared: str | None
) -> None:
    given: dict[str, Any] = {"baselines": SELECTED, "labels": labels}
    if method is not None and method["name"] in ("dm", "imported"):
        given["recipe"] = RECIPE
    config = config_of(base, method, **given)
    is_imported = config.method.name == "imported"
    wanted = [f"imported: {own}"] if is_imported else [f"synthetic: {own}"]
    wanted += [f"ema: {own}"] * config.method.has_average
    if compared is not None:
        wanted += [f"init: {compared}"] * (not is_imported)
        wanted += [f"{subject}: {compared}" for subject in ("random", "k_center", "herding")]
    assert lineup(trials_of(config)) == [*wanted, "full: hard"]


def test_without_being_asked_nobody_selects() -> None:
    config = configs.from_mapping({**CONFIG, "evaluate": {"num_students": 1}})
    random = "random: " + " ".join(["stored hard"] * 3)
    assert lineup(trials_of(config)) == ["synthetic: stored hard", "init: stored hard", random, "full: hard"]


def test_chains_go_under_every_regime_but_replayed() -> None:
    stages = {"stages": {"count": 2, "pool_size": 2, "epochs": 3, "trajectory_epochs": 4}}
    soft = config_of({**CONFIG, **stages}, baselines=["herding"])
    ways = {(trial.subject, trial.labels, trial.mode) for trial in trials_of(soft)}
    of_set = {("synthetic", labels, mode) for labels in ("stored", "hard") for mode in ("chain", "single_shot")}
    assert ways == of_set | {("herding", labels, "single_shot") for labels in ("stored", "hard")}
    method = {"name": "rded", "images_per_class": 2, "candidates": 6, "crops": 2}
    taught = config_of({**TEACHER, "stages": {"count": 2, "conditioning": "none"}}, method, baselines=[])
    assert {(trial.labels, trial.mode) for trial in trials_of(taught)} == {
        ("online", "chain"),
        ("hard", "chain"),
        *((labels, "single_shot") for labels in ("online", "replayed", "hard")),
    }


def test_classes_in_place_of_logits_have_no_temperature() -> None:
    recipe = {**CONFIG["evaluate"]["recipe"], "temperature": 4.0}
    found = {trial.labels: trial.recipe.temperature for trial in trials_of(config_of(CONFIG, recipe=recipe))}
    assert found == {"stored": 4.0, "hard": 1.0}


# augmentations and measurements


def test_every_student_is_trained_under_other_augmentations_besides() -> None:
    names = ["dsa", "crop+flip"]
    config = config_of(CONFIG, augmentations=names, num_students=2)
    trials = trials_of(config)
    assert [trial for trial in trials if trial.recipe.augmentation == "none"] == trials_of(
        config_of(CONFIG, num_students=2)
    )
    for name in names:
        own = [trial for trial in trials if trial.recipe.augmentation == name]
        plain = [replace(trial, recipe=replace(trial.recipe, augmentation="none")) for trial in own]
        assert plain == trials_of(config_of(CONFIG, num_students=2))
    assert len({trial.title for trial in trials}) == len(trials) == 3 * (6 * 2 + 1)


def test_what_measures_more_is_another_student() -> None:
    plain, measured = (trials_of(config_of(CONFIG, measure_every=every)) for every in (None, 2))
    assert [replace(trial, measure_every=None) for trial in measured] == plain
    assert {trial.measure_every for trial in measured} == {2}
    names = [[trial.record_id("tests", "set") for trial in trials] for trials in (plain, measured)]
    assert len({*names[0], *names[1]}) == 2 * len(plain)


COMMON_TRIAL: dict[str, Any] = {
    "network": NetworkConfig(width=4, depth=2),
    "recipe": Recipe(epochs=5, lr=0.05, augmentation="none"),
}
NAMES = {
    "c5fa595c4b7f0676": Trial(subject="synthetic", labels="stored", student_seed=3, **COMMON_TRIAL),
    "fe725234694a79ea": Trial(subject="random", labels="hard", draw=1, student_seed=0, **COMMON_TRIAL),
    "a9b126ed5f70b524": Trial(
        subject="synthetic", labels="hard", student_seed=0, mode="chain", budget="matched", stage=1, **COMMON_TRIAL
    ),
}
"""As raydd 0.1 has named them since before there were selections."""


@pytest.mark.parametrize("name", NAMES)
def test_names_of_old_records_stay(name: str) -> None:
    assert NAMES[name].record_id("tests", "set") == name
    assert replace(NAMES[name], measure_every=5).record_id("tests", "set") != name
    assert NAMES[name].record_id("tests", "set", "a selection") != name


# errors


@pytest.mark.parametrize(
    ("base", "method", "labels", "message"),
    [
        (CONFIG, COMMON | {"name": "mtt"}, ["hard", "stored"], "the set of mtt has no soft labels: leave out stored"),
        (CONFIG, None, ["online"], "datm has no teacher that labels: leave out online"),
        (CONFIG, None, ["stored", "replayed"], "datm has no teacher that labels: leave out replayed"),
        (TEACHER, None, ["stored"], "the set of delt has no soft labels: leave out stored"),
    ],
    ids=["stored", "online", "replayed", "teacher"],
)
def test_labels_that_a_set_cannot_have_are_refused(
    base: dict[str, Any], method: dict[str, Any] | None, labels: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^evaluate.labels: {message}$"):
        checked(base, method, labels=labels)


def checked(base: dict[str, Any], method: dict[str, Any] | None, **evaluate: Any) -> None:
    config = config_of(base, method, **evaluate)
    config.evaluate.check(config.method, config.stages.count)


def test_students_need_a_step_size() -> None:
    without = {**RECIPE, "lr": None}
    for method in (OF_DATA["dm"], IMPORTED):
        with pytest.raises(ConfigError, match=r"^evaluate.recipe.lr: this method's set comes without a step size"):
            checked(CONFIG, method, recipe=without)
        checked(CONFIG, method, recipe=RECIPE)
    for method in (FTD, {**IMPORTED, "learned_lr": True}):
        checked(CONFIG, method, recipe=without)
    checked({**TEACHER, "evaluate": {"protocol": "rded"}}, None)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"labels": []}, "evaluate.labels: name at least one"),
        ({"labels": ["hard", "stored", "hard"]}, "evaluate.labels: names hard twice"),
        ({"labels": ["soft"]}, r"evaluate.labels.0: .* got 'soft'"),
        ({"baselines": ["random", "random"]}, "evaluate.baselines: names random twice"),
        ({"measure_every": 0}, "evaluate.measure_every: must be at least 1, is 0"),
        ({"augmentations": ["dsa", "blur"]}, r"evaluate.augmentations.1: 'blur' is neither none, dsa, nor"),
        ({"augmentations": ["dsa", "none"]}, r"evaluate.augmentations.1: none is the recipe's, or named before"),
        (
            {"augmentations": ["dsa", "color_crop_cutout_flip_scale_rotate"]},
            r"evaluate.augmentations.1: color_crop_cutout_flip_scale_rotate is the recipe's, or named before",
        ),
        ({"selector": {"lr": None}}, "evaluate.selector.lr: must be given"),
        ({"selector": {"epochs": 0}}, "evaluate.selector.epochs: must be at least 1, is 0"),
        ({"selector": {"views": {}}}, "evaluate.selector.views: the network learns from classes"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(evaluate: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        config_of(CONFIG, **evaluate)


@pytest.mark.parametrize("views", [{}, {"recipe": {}, "protocol": "rded"}], ids=["views", "protocol"])
def test_views_are_augmented_in_no_other_way(views: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^evaluate.augmentations: are for recipes that augment"):
        config_of(TEACHER, augmentations=["dsa"], **views)


# the plan


def test_a_plan_counts_selections_and_the_training_that_makes_them() -> None:
    selector = {"epochs": 3, "lr": 0.1, "batch_size": 50, "augmentation": "none"}
    plans = [
        {step.work: step for step in make_plan(config_of(CONFIG, baselines=baselines, selector=selector), FACTS).steps}
        for baselines in (["random"], ["k_center"], ["k_center", "herding"])
    ]
    random, one, both = (plan["evaluate"] for plan in plans)
    assert [plan["evaluate"].units for plan in plans] == [4, 4, 6]
    assert one.makes == random.makes == "students"
    assert one.optimizer_steps - random.optimizer_steps == 3 * 3
    assert both.optimizer_steps - one.optimizer_steps == 2 * 5
    trained = plans[0]["experts"].flops / 2  # an expert: 4 epochs of as many images, and the test images
    forward = trained / (3 * 4 * 120 + 296)
    assert one.flops - random.flops == pytest.approx((3 * 3 + 1) * 120 * forward, rel=0.1)
    assert one.disk_bytes > random.disk_bytes and one.working_disk_bytes > random.working_disk_bytes == 0


def test_as_many_real_images_are_selected_as_are_stored_however_many_are_decoded() -> None:
    method = {"name": "idc", "images_per_class": 2, "iterations": 2, "factor": 2, "num_real": 50}
    config = config_of({**CONFIG, "data": {"source": "cifar10"}}, method, recipe=RECIPE, baselines=SELECTED)
    facts = DataFacts(1000, 100, (3, 32, 32), 10)
    seen = {trial.subject: num_trained_on(config, facts, trial) for trial in trials_of(config)}
    assert seen == {"synthetic": 80, "init": 80, "random": 20, "k_center": 20, "herding": 20, "full": 1000}
