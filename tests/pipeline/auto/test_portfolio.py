"""Candidates follow from facts alone: which there are, what they share, what they are compared with."""

from dataclasses import replace

import pytest

from raydd import config as configs
from raydd.data import DataConfig
from raydd.pipeline.auto.portfolio import HERDING, HERDING_VIEWS, Labels, Wanted, candidate, candidates, names
from raydd.pipeline.auto.settings import EFFORTS, FINISHING, Settings
from raydd.storage import Folder
from tests.pipeline.auto.pictures import look_of


def wanted(labels: Labels = "hard", images_per_class: int = 10, smallest: int = 320) -> Wanted:
    return Wanted(
        data=DataConfig(source="imagefolder", root="/things", image_size=32, validation_fraction=0.2),
        images_per_class=images_per_class,
        labels=labels,
        seed=3,
        folder=Folder.at("/runs/auto"),
        smallest_class=smallest,
    )


def settings(effort: float = 1.0, mirrored: bool = True, is_last: bool = False, images: int = 400) -> Settings:
    facts = look_of((images,) * 5).facts(32, 0.2)
    return Settings(effort=effort, mirrored=mirrored, facts=facts, is_last=is_last)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("hard", ["idc", "datm", "dm", "delt", "rded", "herding_views", "herding"]),
        ("any", ["idc", "datm", "dm", "delt", "rded", "herding_views", "herding"]),
        ("soft", ["datm", "delt", "rded", "herding_views"]),
    ],
)
def test_methods_of_every_family_are_tried(labels: Labels, expected: list[str]) -> None:
    assert [one.name for one in candidates(wanted(labels), settings())] == expected == list(names(labels))


@pytest.mark.parametrize("labels", ["hard", "soft", "any"])
@pytest.mark.parametrize(
    ("effort", "images_per_class", "images"), [(EFFORTS[0], 1, 5), (1.0, 10, 400), (EFFORTS[-1], 50, 40_000)]
)
def test_every_candidate_is_a_config_that_can_be_written(
    labels: Labels, effort: float, images_per_class: int, images: int
) -> None:
    for one in candidates(wanted(labels, images_per_class), settings(effort, True, images == 400, images)):
        sized = replace(one.config, network=one.config.network.sized(32))
        assert configs.parse(configs.to_yaml(sized).encode(), "here") == sized
        assert one.config.data.validation_fraction == 0.2 and one.config.cluster.num_workers == 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("hard", {"idc": "hard", "datm": "hard", "rded": "hard", "herding": "hard", "herding_views": "hard"}),
        ("any", {"idc": "hard", "datm": "stored", "rded": "online", "herding": "hard", "herding_views": "online"}),
        ("soft", {"datm": "stored", "delt": "online", "herding_views": "online"}),
    ],
)
def test_students_are_told_what_is_allowed(labels: Labels, expected: dict[str, str]) -> None:
    for name, regime in expected.items():
        assert candidate(name, wanted(labels), settings()).config.evaluate.labels == (regime,)


def test_what_is_made_first_is_shared_between_trials_and_finishing() -> None:
    pairs = zip(candidates(wanted(), settings()), candidates(wanted(), settings(is_last=True)), strict=True)
    for tried, finished in pairs:
        for part in ("data", "network", "experts", "teacher", "ranking"):
            assert getattr(tried.config, part) == getattr(finished.config, part)
        assert finished.config.method.iterations == FINISHING * tried.config.method.iterations
        assert tried.config.out != finished.config.out
    taught = [one.config for one in candidates(wanted(), settings()) if "teacher" in one.config.method.made_first]
    assert len(taught) == 3 and len({config.teacher for config in taught}) == len({c.network for c in taught}) == 1


def test_real_images_have_the_recipe_of_the_methods_with_the_same_labels() -> None:
    """Students take as many steps as those of dm, and those of idc, which sees four times as many images."""
    found = {one.name: one.config for one in candidates(wanted(), settings())}
    assert found["dm"].evaluate.recipe == found[HERDING].evaluate.recipe
    assert found["rded"].evaluate.recipe == found["delt"].evaluate.recipe == found[HERDING_VIEWS].evaluate.recipe
    for config, images in ((found["idc"], 200), (found[HERDING], 50), (found["rded"], 50), (found["datm"], 50)):
        assert abs(config.evaluate.recipe.steps(images) - 400) <= 4


@pytest.mark.parametrize("mirrored", [True, False])
def test_nothing_is_mirrored_that_must_not_be(mirrored: bool) -> None:
    for one in candidates(wanted("any"), settings(mirrored=mirrored)):
        config = one.config
        recipe = config.evaluate.recipe
        real = config.experts.training, config.teacher.training
        augmentations = [each.augmentation for each in (recipe, *real)] + [getattr(config.method, "augmentation", "")]
        flips = [name for name in augmentations if "flip" in name or name == "dsa"]
        assert bool(flips) == mirrored
        assert recipe.views is None or recipe.views.flip == mirrored


def test_full_and_random_are_measured_once_where_real_images_are() -> None:
    tried = {one.name: one.config.evaluate.baselines for one in candidates(wanted(), settings())}
    last = {one.name: one.config.evaluate.baselines for one in candidates(wanted(), settings(is_last=True))}
    assert tried == {name: ("random",) if name.startswith("herding") else () for name in names("hard")}
    assert last == tried | {HERDING: ("random", "full")}
    soft = {one.name: one.config.evaluate.baselines for one in candidates(wanted("soft"), settings(is_last=True))}
    assert soft == {"datm": ("random", "herding"), "delt": (), "rded": (), HERDING_VIEWS: ("random", "full")}


@pytest.mark.parametrize(("smallest", "repeats"), [(39, True), (40, False)])
def test_small_classes_fill_mosaics_by_repetition(smallest: int, repeats: bool) -> None:
    assert candidate("idc", wanted(smallest=smallest), settings()).config.method.repeat_images == repeats


@pytest.mark.parametrize(
    ("effort", "width", "students", "last_students", "draws"),
    [
        (3 / 32, 16, 1, 3, 1),
        (1 / 8, 24, 1, 3, 1),
        (3 / 16, 24, 1, 3, 1),
        (1 / 4, 32, 1, 3, 1),
        (1 / 2, 32, 2, 3, 1),
        (2, 32, 2, 3, 3),
        (8, 64, 2, 5, 3),
        (32, 128, 2, 5, 3),
    ],
)
def test_more_time_makes_wider_networks_and_more_students(
    effort: float, width: int, students: int, last_students: int, draws: int
) -> None:
    tried, last = settings(effort), settings(effort, is_last=True)
    assert (tried.width, tried.num_students, last.num_students) == (width, students, last_students)
    assert (tried.random_draws, last.random_draws) == (1, draws)


@pytest.mark.parametrize(
    ("effort", "images", "epochs"), [(1, 1_280, 19), (1, 24_000, 3), (1, 100_000, 3), (1, 60, 200), (4, 1_280, 38)]
)
def test_epochs_follow_from_the_number_of_images(effort: float, images: int, epochs: int) -> None:
    facts = replace(settings().facts, num_train=images)
    assert replace(settings(effort), facts=facts).epochs_on_real(1.0, 3) == epochs
