"""The recipe in plain words: what it says of epochs and step sizes is what training does."""

import re
from pathlib import Path
from typing import Any

import pytest

from raydd import config as configs
from raydd.exchange.words import in_words
from raydd.training.optimizers import lr_factor
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig
from tests.support import ROOT

CONFIGS = [file for file in sorted((ROOT / "configs").rglob("*.yaml")) if file.parent.name != "kubernetes"]


def factors(recipe: Recipe) -> list[float]:
    epochs, warmup, decay = recipe.epochs, recipe.warmup_epochs, recipe.decay_epoch
    return [lr_factor(recipe.schedule, epoch, epochs, warmup, decay) for epoch in range(epochs)]


@pytest.mark.parametrize("schedule", ["step", "step_kept", "two_steps"])
@pytest.mark.parametrize("epochs", [7, 10, 300])
def test_steps_fall_in_the_epochs_that_are_said(schedule: Any, epochs: int) -> None:
    recipe = Recipe(epochs=epochs, lr=0.1, schedule=schedule)
    said = in_words(recipe, None, 10)["Step size"]
    wanted = [epoch for epoch in range(1, epochs) if factors(recipe)[epoch] != factors(recipe)[epoch - 1]]
    assert [int(number) for number in re.findall(r"from epoch (\d+)", said)] == wanted
    assert ("begun anew" in said) == (schedule == "step") and said.startswith("0.1;")


def test_cosines_warm_ups_and_constants() -> None:
    def said(**fields: Any) -> str:
        return in_words(Recipe(**{"epochs": 8, "lr": 0.5, **fields}), 0.25, 10)["Step size"]

    assert said() == "0.5; the same in all epochs."
    assert said(lr=None) == "0.25, which was learned together with the images; the same in all epochs."
    assert said(schedule="step", epochs=2) == "0.5; the same in all epochs."
    whole = "0.5; falling over the 8 epochs along a cosine to 0: times (1 + cos(pi e / 8)) / 2 in epoch e."
    assert said(schedule="cosine") == whole
    rising = "rising in the first 2 epochs in equal parts from 1 % of it"
    half = "falling over the 6 epochs after that along a cosine to a half: times (1 + cos(pi e / 12)) / 2 in epoch e"
    assert said(schedule="half_cosine", warmup_epochs=2) == f"0.5; {rising}; then {half}, counted from there."
    assert said(warmup_epochs=2) == f"0.5; {rising}; then the same from then on."
    assert in_words(Recipe(lr=None), None, 10)["Step size"].startswith("not known")


def test_epochs_and_batches() -> None:
    whole = in_words(Recipe(epochs=1000, batch_size=10), None, 10)["Epochs"]
    batch = "all 10 images are one batch, so that an epoch is one step"
    assert whole == f"1,000 passes over the images, a new random order in each; {batch}."
    parts = in_words(Recipe(epochs=5, batch_size=4, sampling="class_balanced"), None, 10)["Epochs"]
    assert "equally many of every class" in parts and "batches of 4 images (3 steps an epoch)" in parts


def test_optimisers() -> None:
    def said(**fields: Any) -> str:
        return in_words(Recipe(**fields), None, 10)["Optimiser"]

    assert said(momentum=0.9, weight_decay=5e-4) == "SGD, momentum 0.9, weight decay 0.0005."
    assert said(gsam_rho=0.01, gsam_alpha=0.3).startswith("SGD, momentum 0, weight decay 0, with a second gradient")
    assert said(optimizer="adamw", weight_decay=0.01).startswith("AdamW, betas 0.9 and 0.999, weight decay 0.01 of")


def test_augmentations() -> None:
    def said(**fields: Any) -> str:
        return in_words(Recipe(**fields), None, 10)["Augmentation"]

    assert said(augmentation="none") == "none: images are taken as they are."
    assert said().startswith("for every batch one of these 6 is picked at random") and said().count("(6) ") == 1
    both = said(augmentation="crop+flip")
    assert both.startswith("every image is shifted by whole pixels, up to 12.5 %") and ". Then every image is" in both
    assert "50 % of the batches are then mixed by CutMix" in said(cutmix=0.5, augmentation="flip")
    turns = said(augmentation="idc:color_crop_flip_scale_rotate")
    assert turns.index("mirrored") < turns.index("brightened") < turns.index("shifted") < turns.index("or turned")
    assert "blanked" not in turns
    views = ViewsConfig(randaugment_ops=2, randaugment_magnitude=5.0, patch_shuffle=2, mix="mixup", mix_alpha=0.8)
    seen = said(augmentation="none", views=views)
    for part in (
        "RandAugment, 2 operations (strength 5",
        "a grid of 2 x 2",
        "8 % to 100 % of its area",
        "Beta(0.8, 0.8)",
    ):
        assert part in seen
    assert "mixed" not in said(views=ViewsConfig(mix="none")) and "mirrored" not in said(views=ViewsConfig(flip=False))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(Path(file).relative_to(ROOT / "configs")))
def test_every_recipe_of_the_shipped_configs_has_words(file: Path) -> None:
    words = in_words(configs.load(str(file)).evaluate.recipe, 0.02, 100)
    assert list(words) == ["Epochs", "Optimiser", "Step size", "Augmentation"]
    assert all(text.endswith(".") and "  " not in text for text in words.values())
