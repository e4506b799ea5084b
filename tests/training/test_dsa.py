"""DSA: every operation against loops over samples and pixels, the distribution of its draws, and its gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, integer, uniform
from raydd.methods.condensation.family import siamese
from raydd.training.dsa import DSA, NO_AUGMENTATION, DSADraw, Operation, augmentation

KEY = Key.root(0)
GROUPS: tuple[Operation, ...] = DSA().strategy
SHAPES = [(3, 8, 8), (3, 9, 12), (1, 7, 6), (1, 1, 5)]


def batch(size: int, *shape: int) -> Tensor:
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def draw_of(group: Operation, size: int, key: Key = KEY) -> DSADraw:
    return DSADraw(group, uniform(key, torch.arange(size), 3))


def pixel(image: Tensor, channel: int, row: int, column: int) -> float:
    """One pixel; zero outside."""
    _, height, width = image.shape
    return float(image[channel, row, column]) if 0 <= row < height and 0 <= column < width else 0.0


def bilinear(image: Tensor, channel: int, row: float, column: float) -> float:
    """Bilinear interpolation from the four pixels around a place; zero outside."""
    top, left = math.floor(row), math.floor(column)
    return sum(
        (1 - abs(row - y)) * (1 - abs(column - x)) * pixel(image, channel, y, x)
        for y in (top, top + 1)
        for x in (left, left + 1)
    )


def each_pixel(image: Tensor, value: Callable[[int, int, int], float]) -> Tensor:
    channels, height, width = image.shape
    return torch.tensor(
        [[[value(c, i, j) for j in range(width)] for i in range(height)] for c in range(channels)], dtype=torch.float64
    )


def naive_color(image: Tensor, u: list[float]) -> Tensor:
    image = image + (u[0] - 0.5) * 1.0
    grey = image.mean(0)
    image = torch.stack([(plane - grey) * (2 * u[1]) + grey for plane in image])
    return (image - image.mean()) * (u[2] + 0.5) + image.mean()


def naive_crop(image: Tensor, u: list[float]) -> Tensor:
    reach = [int(0.125 * side + 0.5) for side in image.shape[1:]]
    dy, dx = (int(v * (2 * s + 1)) - s for v, s in zip(u, reach, strict=False))
    return each_pixel(image, lambda c, i, j: pixel(image, c, i + dy, j + dx))


def naive_cutout(image: Tensor, u: list[float]) -> Tensor:
    hidden = []
    for side, v in zip(image.shape[1:], u, strict=False):
        size = int(0.5 * side + 0.5)
        centres = side + 1 if size % 2 == 0 else side
        centre = int(v * centres)
        hidden.append({min(max(centre - size // 2 + k, 0), side - 1) for k in range(size)})
    return each_pixel(image, lambda c, i, j: 0.0 if i in hidden[0] and j in hidden[1] else float(image[c, i, j]))


def naive_flip(image: Tensor, u: list[float]) -> Tensor:
    width = image.shape[2]
    return each_pixel(image, lambda c, i, j: float(image[c, i, width - 1 - j if u[0] < 0.5 else j]))


def naive_scale(image: Tensor, u: list[float]) -> Tensor:
    sy, sx = (v * (1.2 - 1 / 1.2) + 1 / 1.2 for v in u[:2])
    cy, cx = ((side - 1) / 2 for side in image.shape[1:])
    return each_pixel(image, lambda c, i, j: bilinear(image, c, (i - cy) * sy + cy, (j - cx) * sx + cx))


def naive_rotate(image: Tensor, u: list[float]) -> Tensor:
    angle = math.radians((u[0] - 0.5) * 2 * 15)
    cy, cx = ((side - 1) / 2 for side in image.shape[1:])

    def value(c: int, i: int, j: int) -> float:
        radius, direction = math.hypot(i - cy, j - cx), math.atan2(i - cy, j - cx) + angle
        return bilinear(image, c, cy + radius * math.sin(direction), cx + radius * math.cos(direction))

    return each_pixel(image, value)


NAIVE: dict[Operation, Callable[[Tensor, list[float]], Tensor]] = {
    "color": naive_color,
    "crop": naive_crop,
    "cutout": naive_cutout,
    "flip": naive_flip,
    "scale": naive_scale,
    "rotate": naive_rotate,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", GROUPS)
def test_an_operation_equals_loops_over_samples_and_pixels(group: Operation, shape: tuple[int, int, int]) -> None:
    images, draw = batch(12, *shape), draw_of(group, 12)
    expected = [NAIVE[group](image, u) for image, u in zip(images, draw.uniforms.tolist(), strict=True)]
    torch.testing.assert_close(draw(images), torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", GROUPS)
def test_the_ends_of_every_range(group: Operation) -> None:
    below_one = 1 - 2**-24
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, below_one])] * 3)
    images = batch(len(corners), 3, 8, 8)
    expected = [NAIVE[group](image, u) for image, u in zip(images, corners.tolist(), strict=True)]
    torch.testing.assert_close(DSADraw(group, corners)(images), torch.stack(expected), rtol=0, atol=1e-12)


def test_scale_and_rotate_equal_grid_sample_on_square_images() -> None:
    images, zero = batch(20, 3, 16, 16), torch.zeros(20, dtype=torch.float64)
    scale, rotate = draw_of("scale", 20), draw_of("rotate", 20)
    y, x, _ = (scale.uniforms.double() * (1.2 - 1 / 1.2) + 1 / 1.2).T
    angle = (rotate.uniforms[:, 0].double() - 0.5) * math.radians(30)
    matrices = {
        scale: [x, zero, zero, zero, y, zero],
        rotate: [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero],
    }
    for draw, entries in matrices.items():
        grid = F.affine_grid(torch.stack(entries, 1).view(20, 2, 3), list(images.shape), align_corners=True)
        torch.testing.assert_close(draw(images), F.grid_sample(images, grid, align_corners=True), rtol=0, atol=1e-12)


def test_groups_are_equally_frequent() -> None:
    ids = torch.arange(2)
    groups = [DSA().draw(KEY.child(i), ids).group for i in range(3000)]
    counts = torch.tensor([groups.count(group) for group in GROUPS]).double()
    assert float(((counts - 500) ** 2 / 500).sum()) < 20.5  # 99.9 % of chi-square with 5 degrees of freedom
    assert {DSA(strategy=("crop", "flip")).draw(KEY.child(i), ids).group for i in range(30)} == {"crop", "flip"}


def test_shifts_reach_an_eighth_and_are_uniform() -> None:
    spot = torch.zeros(1, 1, 32, 32)
    spot[..., 16, 16] = 1
    moved = draw_of("crop", 8100)(spot.expand(8100, -1, -1, -1)).flatten(1).argmax(1)
    cells = (16 - moved // 32 + 4) * 9 + (16 - moved % 32 + 4)
    counts = cells.bincount(minlength=81)
    assert len(counts) == 81
    assert float(((counts - 100) ** 2 / 100).sum()) < 80 + 4 * math.sqrt(160)


def test_cutouts_hide_half_a_side_and_are_clipped_at_the_border() -> None:
    hidden = draw_of("cutout", 6600)(torch.ones(6600, 1, 32, 32))[:, 0] == 0
    for axis in (1, 2):
        lengths = hidden.any(3 - axis).sum(1).bincount(minlength=17)
        assert lengths[:8].sum() == 0
        assert lengths[8:16].tolist() == pytest.approx([400] * 8, abs=80)  # one centre at either side, of 33
        assert int(lengths[16]) == pytest.approx(17 * 200, abs=200)


def test_half_of_the_images_flip() -> None:
    ramp = torch.arange(4.0).expand(4000, 1, 4, 4)
    assert int((draw_of("flip", 4000)(ramp)[:, 0, 0, 0] == 3).sum()) == pytest.approx(2000, abs=150)


def test_brightness_scales_and_angles_fill_their_ranges() -> None:
    side, size = 33, 4000
    rows = (torch.arange(side, dtype=torch.float64) - 16).view(-1, 1).expand(size, 1, side, side)
    brightness = draw_of("color", size)(torch.zeros(size, 1, 2, 2))[:, 0, 0, 0]
    factors = draw_of("scale", size)(rows)[:, 0, 17, 16]
    sines = draw_of("rotate", size)(rows)[:, 0, 16, 17]
    for values, low, high in [
        (brightness, -0.5, 0.5),
        (factors, 1 / 1.2, 1.2),
        (sines.asin(), math.radians(-15), math.radians(15)),
    ]:
        assert low - 1e-6 <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high + 1e-6
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


@pytest.mark.parametrize("group", GROUPS)
def test_a_draw_is_affine_in_the_images(group: Operation) -> None:
    x, y = batch(10, 3, 9, 12), batch(20, 3, 9, 12)[10:]
    draw = draw_of(group, 10)
    torch.testing.assert_close(draw(1.7 * x - 0.7 * y), 1.7 * draw(x) - 0.7 * draw(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", GROUPS)
def test_the_gradient_is_the_adjoint_of_the_linear_part(group: Operation) -> None:
    x, step, cotangent = batch(30, 3, 9, 12).split(10)
    draw = draw_of(group, 10)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(draw(leaf), leaf, cotangent)
    torch.testing.assert_close((gradient * step).sum(), ((draw(x + step) - draw(x)) * cotangent).sum())
    small = batch(2, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(draw_of(group, 2), small)


@pytest.mark.parametrize("shared", [False, True])
def test_a_shard_is_augmented_as_in_the_whole_batch(shared: bool) -> None:
    ids, images, part = torch.arange(100, 130), batch(30, 3, 8, 8).float(), torch.tensor([3, 29, 4])
    for i in range(12):
        whole = DSA(shared=shared).draw(KEY.child(i), ids)
        assert torch.equal(DSA(shared=shared).draw(KEY.child(i), ids[part])(images[part]), whole(images)[part])


def test_shared_parameters_treat_all_samples_alike() -> None:
    images = batch(1, 3, 8, 8).expand(20, -1, -1, -1)
    for i in range(12):
        alike = DSA(shared=True).draw(KEY.child(i), torch.arange(20))(images)
        other_batch = DSA(shared=True).draw(KEY.child(i), torch.arange(50, 52))(images[:2])
        assert (alike == alike[:1]).all() and torch.equal(other_batch, alike[:2])
        apart = DSA().draw(KEY.child(i), torch.arange(20))(images)
        assert not (apart == apart[:1]).all()


def test_a_draw_repeats_and_the_global_generator_rests() -> None:
    images, before = batch(6, 3, 8, 8), torch.get_rng_state()
    for i in range(12):
        draw = DSA().draw(KEY.child(i), torch.arange(6))
        assert torch.equal(draw(images), draw(images))
        assert torch.equal(draw(images), DSA().draw(KEY.child(i), torch.arange(6))(images))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_other_precisions_are_close_to_float64(group: Operation, dtype: torch.dtype, tolerance: float) -> None:
    images, draw = batch(10, 3, 32, 32), draw_of(group, 10)
    rounded = draw(images.to(dtype))
    assert rounded.dtype == dtype
    torch.testing.assert_close(rounded.double(), draw(images), rtol=0, atol=tolerance)


IDC = "idc:color_crop_cutout_flip_scale_rotate"


def idc_by_hand(
    images: Tensor, alternatives: list[Operation], groups: list[Operation], key: Key, ids: Tensor
) -> Tensor:
    """Flip and color of every image, one of the alternatives, and cutout, each with numbers of its own."""
    for number, group in enumerate(groups):
        drawn = key.child("part", number)
        uniforms = uniform(drawn.child("parameters"), ids, 3).tolist()
        if group in alternatives:
            group = alternatives[integer(drawn.child("group"), 0, len(alternatives))]
        images = torch.stack([NAIVE[group](image, u) for image, u in zip(images, uniforms, strict=True)])
    return images


@pytest.mark.parametrize(
    "name, alternatives, groups",
    [
        (IDC, ["crop", "scale", "rotate"], ["flip", "color", "crop", "cutout"]),
        ("idc:color_crop_flip_scale_rotate", ["crop", "scale", "rotate"], ["flip", "color", "crop"]),
        ("idc:cutout_color_crop", ["crop"], ["color", "crop", "cutout"]),
        ("idc:flip_color", [], ["flip", "color"]),
        ("idc:rotate_scale", ["scale", "rotate"], ["scale"]),
    ],
)
def test_idc_applies_some_groups_always_and_one_of_the_others(
    name: str, alternatives: list[Operation], groups: list[Operation]
) -> None:
    images, ids = batch(6, 3, 8, 8), torch.arange(6)
    for i in range(8):
        found = augmentation(name).draw(KEY.child(i), ids)(images)
        wanted = idc_by_hand(images, alternatives, groups, KEY.child(i), ids)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_idcs_alternatives_are_equally_frequent() -> None:
    ids = torch.arange(2)
    chosen = [augmentation(IDC).parts[2].draw(KEY.child(i), ids).group for i in range(1500)]
    counts = torch.tensor([chosen.count(group) for group in ("crop", "scale", "rotate")]).double()
    assert counts.sum() == 1500 and float(((counts - 500) ** 2 / 500).sum()) < 13.8


def test_idc_treats_a_siamese_batch_alike_and_has_a_gradient() -> None:
    images = batch(1, 3, 8, 8).expand(6, -1, -1, -1)
    for i in range(6):
        out = siamese(IDC).draw(KEY.child(i), torch.arange(6))(images)
        assert (out == out[:1]).all()
        alone = siamese(IDC).draw(KEY.child(i), torch.arange(90, 92))(images[:2])
        assert torch.equal(alone, out[:2])
        apart = augmentation(IDC).draw(KEY.child(i), torch.arange(6))(images)
        assert not (apart == apart[:1]).all()
        assert torch.autograd.gradcheck(
            siamese(IDC).draw(KEY.child(i), torch.arange(2)), batch(2, 1, 4, 4).requires_grad_()
        )


def test_the_table_of_names() -> None:
    images = batch(2, 3, 8, 8)
    assert augmentation("none") is NO_AUGMENTATION
    assert NO_AUGMENTATION.draw(KEY, torch.arange(2))(images) is images
    assert augmentation("dsa") == DSA()
    assert augmentation("_".join(GROUPS)) == DSA()
    assert augmentation("color_crop_cutout_scale_rotate") == DSA(strategy=tuple(g for g in GROUPS if g != "flip"))


def test_joined_by_plus_all_are_applied_to_every_sample() -> None:
    images, ids = batch(40, 1, 16, 16), torch.arange(40)
    chain = augmentation("crop+flip")
    moved, flipped = 0, 0
    for i in range(5):
        draw = chain.draw(KEY.child(i), ids)
        out = draw(images)
        crop, flip = (
            DSA(strategy=(name,)).draw(KEY.child(i).child("part", number), ids)
            for number, name in enumerate(("crop", "flip"))
        )
        assert torch.equal(out, flip(crop(images))) and torch.equal(out, draw(images))
        moved += int((crop(images) != images).flatten(1).any(1).sum())
        flipped += int((flip(images) != images).flatten(1).any(1).sum())
        part = torch.tensor([3, 29, 4])
        assert torch.equal(chain.draw(KEY.child(i), ids[part])(images[part]), out[part])
    assert moved == pytest.approx(200 * 24 / 25, abs=15) and flipped == pytest.approx(100, abs=35)


def test_joined_crops_reach_four_of_32_pixels_on_all_sides() -> None:
    """As the usual crop from a margin of 4 does."""
    spot = torch.zeros(1, 1, 32, 32)
    spot[..., 16, 16] = 1
    found = augmentation("crop+crop").draw(KEY, torch.arange(4000))(spot.expand(4000, -1, -1, -1))
    rows, columns = found.flatten(1).argmax(1) // 32, found.flatten(1).argmax(1) % 32
    for places in (rows, columns):  # sums of two independent shifts of -4 .. 4
        assert (int(places.min()), int(places.max())) == (8, 24)


def test_a_joined_name_may_hold_a_choice() -> None:
    ids = torch.arange(2)
    chosen = {augmentation("flip+color_scale").parts[1].draw(KEY.child(i), ids).group for i in range(30)}
    assert chosen == {"color", "scale"}


@pytest.mark.parametrize("name", ["crop+blur", "blur+crop", "crop++flip", "crop+", "idc:blur", "idc:"])
def test_an_unknown_part_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="augmentation: '(blur|)' is neither none, dsa, nor some of .*joined by \\+"):
        augmentation(name)


@pytest.mark.parametrize("name", ["cutmix", "color_cutmix", "color_color", "", "DSA"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"augmentation: '{name}' is neither none, dsa, nor some of color_crop_"):
        augmentation(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("group", GROUPS)
def test_a_gpu_gives_the_same_pictures_and_deterministic_gradients(group: Operation) -> None:
    images, draw = batch(10, 3, 32, 32), draw_of(group, 10)
    torch.use_deterministic_algorithms(True)
    try:
        leaf = images.cuda().requires_grad_()
        output = draw(leaf)
        torch.testing.assert_close(output.cpu(), draw(images), rtol=0, atol=1e-12)
        first, second = (torch.autograd.grad(output.square().sum(), leaf, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)
    finally:
        torch.use_deterministic_algorithms(False)
