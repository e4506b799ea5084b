"""A recipe in plain words, for whoever trains on an exported set without raydd."""

import math
from collections.abc import Mapping
from typing import Final

from raydd.training.dsa import CROP_FRACTION, CUTOUT_FRACTION, MAX_BRIGHTNESS, MAX_DEGREES, MAX_SCALE
from raydd.training.optimizers import BETAS, FIFTH, FLOOR, WARMUP_START
from raydd.training.recipe import Recipe
from raydd.training.views import ViewsConfig

_SHRUNK, _STRETCHED = round(100 / MAX_SCALE), round(100 * MAX_SCALE)
_OPERATIONS: Final[Mapping[str, str]] = {
    "color": f"brightened or darkened by up to {MAX_BRIGHTNESS:g} (in units of network space), its saturation "
    "multiplied by 0 to 2 and its contrast by 0.5 to 1.5",
    "crop": f"shifted by whole pixels, up to {100 * CROP_FRACTION:g} % of a side either way, and filled up with zeros",
    "cutout": f"blanked to zero in a box of {100 * CUTOUT_FRACTION:g} % of each side, anywhere, also partly outside",
    "flip": "mirrored left to right half of the time",
    "scale": f"resized about the centre, height and width each to {_SHRUNK} % to {_STRETCHED} %",
    "rotate": f"turned about the centre by up to {MAX_DEGREES:g} degrees either way",
}
"""What becomes of an image."""
_ALL: Final = tuple(_OPERATIONS)


def in_words(recipe: Recipe, learned_lr: float | None, num_images: int) -> dict[str, str]:
    """Paragraphs on epochs, optimiser, step size and augmentation, by their headings.

    Args:
        recipe: how networks are trained.
        learned_lr: the step size that came with the set, if any.
        num_images: of the set, decoded.
    """
    return {
        "Epochs": _epochs(recipe, num_images),
        "Optimiser": _optimiser(recipe),
        "Step size": _step_size(recipe.completed(learned_lr), learned=recipe.lr is None),
        "Augmentation": _augmentation(recipe),
    }


def _epochs(recipe: Recipe, num_images: int) -> str:
    steps = math.ceil(num_images / recipe.batch_size)
    if num_images <= recipe.batch_size:
        batches = f"all {num_images:,} images are one batch, so that an epoch is one step"
    else:
        batches = f"batches of {recipe.batch_size:,} images ({steps:,} steps an epoch), the last, smaller one kept"
    order = "a new random order in each"
    if recipe.sampling == "class_balanced":
        order = (
            "in each as many images as there are, but equally many of every class: those of small classes several times"
        )
    return f"{recipe.epochs:,} passes over the images, {order}; {batches}."


def _optimiser(recipe: Recipe) -> str:
    if recipe.optimizer == "adamw":
        spared = "all parameters" if recipe.decays_all else "weights alone, not of biases and norms"
        decay = f"weight decay {recipe.weight_decay:g} of {spared}"
        return f"AdamW, betas {BETAS[0]:g} and {BETAS[1]:g}, {decay}."
    text = f"SGD, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"
    if recipe.is_gsam:
        sharp = f"rho {recipe.gsam_rho:g}, alpha {recipe.gsam_alpha:g}" + ", adaptive" * recipe.gsam_adaptive
        text += f", with a second gradient in every step (GSAM, {sharp}; without it expect a little less)"
    return f"{text}."


def _step_size(recipe: Recipe, learned: bool) -> str:
    if recipe.lr is None:
        return "not known: none was learned with the images, and the recipe has none. Try some."
    size = f"{recipe.lr:.6g}" + ", which was learned together with the images" * learned
    warmup, whole = recipe.warmup_epochs, recipe.epochs
    rest = f"over the {whole - warmup:,} epochs after that" if warmup else f"over the {whole:,} epochs"
    match recipe.schedule:
        case "constant":
            course = "the same in all epochs" if not warmup else "the same from then on"
        case "step" | "step_kept":
            momenta = "the optimiser begun anew, its momenta forgotten" if recipe.schedule == "step" else "momenta kept"
            course = f"a tenth of it from epoch {recipe.decay_epoch} on (counted from 0), {momenta}"
            if recipe.decay_epoch >= whole:
                course = "the same in all epochs"
        case "two_steps":
            first, second = (warmup + (whole - warmup) * sixths // 6 for sixths in (4, 5))
            course = f"times {FIFTH:g} from epoch {first} on (counted from 0), and again from epoch {second} on"
        case "cosine":
            course = f"falling {rest} along a cosine to 0: times (1 + cos(pi e / {whole - warmup})) / 2 in epoch e"
        case "half_cosine":
            factor = f"(1 + cos(pi e / {2 * (whole - warmup)})) / 2"
            course = f"falling {rest} along a cosine to a half: times {factor} in epoch e"
        case "cosine_floor":
            factor = f"{FLOOR:g} + {1 - FLOOR:g} (1 + cos(pi e / {whole - warmup})) / 2"
            course = f"falling {rest} along a cosine to a hundredth: times {factor} in epoch e"
    if warmup:
        start = 0.0 if recipe.schedule == "cosine_floor" else 100 * WARMUP_START
        rising = f"rising in the first {warmup:,} epochs in equal parts from {start:g} % of it"
        return f"{size}; {rising}; then {course}{', counted from there' * ('epoch e' in course)}."
    return f"{size}; {course}."


def _augmentation(recipe: Recipe) -> str:
    if recipe.views is not None:
        return _views(recipe.views)
    parts = [] if recipe.augmentation == "none" else [_part(part) for part in recipe.augmentation.split("+")]
    text = " Then ".join(parts) if parts else "none: images are taken as they are."
    if recipe.cutmix:
        box = "one box, of uniformly random size and the image's proportions, is cut out of every image"
        loss = "the loss is that of both labels, weighted by the areas"
        mixed = f"{100 * recipe.cutmix:g} % of the batches are then mixed by CutMix"
        text += f" {mixed}: {box} and filled from another of the batch; {loss}."
    return text


def _part(name: str) -> str:
    """One of those that are joined by plus signs."""
    groups = name.removeprefix("idc:").split("_") if name != "dsa" else list(_ALL)
    chosen = [group for group in _ALL if group in groups]
    if name.startswith("idc:"):
        turns = [("flip",), ("color",), tuple(g for g in chosen if g not in ("flip", "color", "cutout")), ("cutout",)]
        said = [" or ".join(_OPERATIONS[group] for group in turn if group in chosen) for turn in turns]
        return f"every image is, in turn, {'; '.join(part for part in said if part)}."
    if len(chosen) == 1:
        return f"every image is {_OPERATIONS[chosen[0]]}."
    listed = "; ".join(f"({number}) {_OPERATIONS[group]}" for number, group in enumerate(chosen, 1))
    picked = f"for every batch one of these {len(chosen)} is picked at random"
    return f"{picked}, and each of its images is, with random numbers of its own: {listed}."


def _views(views: ViewsConfig) -> str:
    """What students of the decoupled family see."""
    steps = []
    if views.randaugment_ops:
        strength = f"strength {views.randaugment_magnitude:g} of 10, deviation {views.randaugment_std:g}"
        colour = ", what movements uncover in ImageNet's mean colour" * (views.randaugment_fill == "imagenet")
        steps.append(f"RandAugment, {views.randaugment_ops} operations ({strength}, as timm has it{colour})")
    if views.patch_shuffle > 1:
        grid = f"{views.patch_shuffle} x {views.patch_shuffle}"
        steps.append(f"its rows and columns of patches, a grid of {grid}, put in random order")
    part = f"{100 * views.min_scale:g} % to 100 % of its area"
    resized = f"a random box of {part} enlarged to the whole (RandomResizedCrop)"
    shifted = f"shifted by whole pixels, up to {views.crop_padding} either way, and filled up with black"
    steps.append(shifted if views.crop_padding else resized)
    if views.flip:
        steps.append("mirrored left to right half of the time")
    text = f"every image anew in every epoch, as pixels: {'; '.join(steps)}."
    if views.mix == "none":
        return text
    name = "CutMix" if views.mix == "cutmix" else "MixUp"
    alpha = f"{views.mix_alpha:g}"
    loss = "the loss is that of both labels, weighted by the shares"
    return f"{text} Then each is mixed with another by {name}, its own share drawn from Beta({alpha}, {alpha}); {loss}."
