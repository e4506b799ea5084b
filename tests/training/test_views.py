"""Views: crops against torchvision and loops, CutMix against loops over pixels, and the freedom of batches."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, uniform
from raydd.data.fit_preprocessing import fit_zca
from raydd.data.preprocessing import Standardise
from raydd.training.randaugment import randaugment
from raydd.training.views import (
    ImageViews,
    ViewsConfig,
    crop_boxes,
    fill,
    pasted_boxes,
    resized_crops,
    shuffle_patches,
    symmetric_beta,
)

KEY = Key.root(0)
STANDARDISE = Standardise(torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.3, 0.25]).double())
PLAIN = ViewsConfig(min_scale=1.0, mix="none", flip=False)
CONFIGS = {
    "default": ViewsConfig(),
    "mixup": ViewsConfig(mix="mixup", mix_alpha=0.8),
    "unmixed": ViewsConfig(mix="none"),
    "mosaic": ViewsConfig(min_scale=0.5, patch_shuffle=2),
    "shifted": ViewsConfig(crop_padding=4),
    "delt": ViewsConfig(min_scale=0.25, randaugment_ops=2, randaugment_magnitude=6, randaugment_std=1),
}


def images(size: int = 40, height: int = 16, width: int = 16) -> Tensor:
    """Pixels in network space, float32 [M, 3, H, W]."""
    pixels = torch.randint(0, 256, (size, 3, height, width), generator=torch.Generator().manual_seed(1))
    return STANDARDISE.forward(pixels.to(torch.uint8))


def naive_box(draws: list[float], height: int, width: int, min_scale: float) -> list[int]:
    """RandomResizedCrop's rule for one image: ten areas, ten ratios and a place."""
    for area, ratio in zip(draws[:10], draws[10:20], strict=True):
        size = (min_scale + (1 - min_scale) * area) * height * width
        aspect = math.exp(math.log(3 / 4) + ratio * (math.log(4 / 3) - math.log(3 / 4)))
        h, w = round(math.sqrt(size / aspect)), round(math.sqrt(size * aspect))
        if 0 < h <= height and 0 < w <= width:
            return [int(draws[20] * (height - h + 1)), int(draws[21] * (width - w + 1)), h, w]
    h, w = height, width
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize("min_scale", [0.08, 0.25, 1.0])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (9, 12), (8, 40), (50, 7), (1, 1)])
def test_boxes_follow_the_rule_of_torchvision(height: int, width: int, min_scale: float) -> None:
    ids = torch.arange(500)
    boxes = crop_boxes(KEY, ids, height, width, min_scale)
    expected = [naive_box(draws, height, width, min_scale) for draws in uniform(KEY, ids, 22).double().tolist()]
    assert boxes.tolist() == expected
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([height, width])).all()


def test_boxes_are_distributed_as_torchvisions() -> None:
    from torchvision.transforms import RandomResizedCrop

    image, size = torch.zeros(1, 32, 24), 4000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(size)])
    ours = crop_boxes(KEY, torch.arange(size), 32, 24, 0.08)
    for mine, other in zip(ours.double().T, theirs.double().T, strict=True):
        places = torch.linspace(0, 32, 33)
        gap = ((mine[:, None] <= places).double().mean(0) - (other[:, None] <= places).double().mean(0)).abs().max()
        assert gap < 1.95 * math.sqrt(2 / size)  # Kolmogorov and Smirnov, 99.9 %


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 24, 40), (3, 64, 64)])
def test_a_crop_is_torchvisions_resized_crop(channels: int, height: int, width: int) -> None:
    from torchvision.transforms.v2 import functional as reference

    pixels = torch.rand(30, channels, height, width, generator=torch.Generator().manual_seed(1))
    boxes = crop_boxes(KEY, torch.arange(30), height, width, 0.08)
    boxes[0], boxes[1] = torch.tensor([0, 0, height, width]), torch.tensor([height - 1, width - 1, 1, 1])
    expected = torch.stack(
        [
            reference.resized_crop(image, *box, [height, width], antialias=True)
            for image, box in zip(pixels, boxes.tolist(), strict=True)
        ]
    )
    mirrored = torch.arange(30) % 3 == 0
    expected[mirrored] = expected[mirrored].flip(3)
    torch.testing.assert_close(resized_crops(pixels, boxes, mirrored), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", [1, 4])
def test_a_padded_crop_is_torchvisions(padding: int) -> None:
    """RandomCrop(size, padding) of pixels, before they are normalised; every place is as likely as any other."""
    from torchvision.transforms.v2 import functional as reference

    config = ViewsConfig(crop_padding=padding, mix="none")
    drawn = ImageViews(images(), STANDARDISE, config)
    ids = torch.arange(40)
    found = STANDARDISE.inverse(drawn.views(KEY, 3, ids))
    places = range(2 * padding + 1)
    seen = set()
    for image, view in zip(STANDARDISE.inverse(images()), found, strict=True):
        padded = reference.pad(image, [padding] * 4)
        fits = [
            (top, left, flipped)
            for top in places
            for left in places
            for flipped in (False, True)
            if torch.allclose(_cut(padded, top, left, flipped), view, atol=1e-6)
        ]
        assert len(fits) == 1
        seen |= {*fits}
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == {*places}
    assert {flipped for _, _, flipped in seen} == {False, True}


def _cut(padded: Tensor, top: int, left: int, flipped: bool) -> Tensor:
    crop = padded[:, top : top + 16, left : left + 16]
    return crop.flip(2) if flipped else crop


def test_what_movements_uncover() -> None:
    """The set's mean, or DELT's constant; the luminance of that in grey images."""
    pixels = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    assert fill("imagenet", pixels).tolist() == [124, 116, 104]
    assert fill("imagenet", pixels[:, :1]).tolist() == [round(0.299 * 124 + 0.587 * 116 + 0.114 * 104)]
    torch.testing.assert_close(fill("mean", pixels), 255 * torch.stack([pixels[:, c].mean() for c in range(3)]))
    torch.testing.assert_close(fill("imagenet", pixels[:, :2]), fill("mean", pixels[:, :2]))
    dark = STANDARDISE.forward(torch.zeros(60, 3, 16, 16, dtype=torch.uint8))
    config = ViewsConfig(randaugment_ops=1, randaugment_magnitude=10, randaugment_fill="imagenet", mix="none")
    seen = STANDARDISE.inverse(ImageViews(dark, STANDARDISE, config).views(KEY, 0, torch.arange(60)))
    colour = torch.tensor([124, 116, 104]) / 255
    assert any(bool(((view - colour[:, None, None]).abs().amax(0) < 1e-3).any()) for view in seen)


def test_views_are_keyed_by_what_changes_them() -> None:
    assert "crop_padding" not in ViewsConfig().identity() and "randaugment_fill" not in ViewsConfig().identity()
    assert ViewsConfig(crop_padding=4).identity()["crop_padding"] == 4
    assert {*ViewsConfig(crop_padding=4, randaugment_fill="imagenet").identity()} == {*asdict(ViewsConfig())}
    with pytest.raises(ConfigError, match="crop_padding"):
        ViewsConfig(crop_padding=-1)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_patches_change_places(factor: int) -> None:
    pixels = torch.rand(20, 2, 6, 12)
    orders = uniform(KEY, torch.arange(20), 2 * factor).view(20, 2, factor).argsort(2)
    found = shuffle_patches(pixels, orders)
    for image, (rows, columns), shuffled in zip(pixels, orders.tolist(), found, strict=True):
        for i in range(6):
            for j in range(12):
                patch_i, patch_j = i // (6 // factor), j // (12 // factor)
                source = rows[patch_i] * (6 // factor) + i % (6 // factor)
                across = columns[patch_j] * (12 // factor) + j % (12 // factor)
                assert torch.equal(shuffled[:, i, j], image[:, source, across])


def test_all_orders_of_patches_are_equally_frequent() -> None:
    corners = torch.zeros(1, 1, 8, 8)
    corners[..., :4, 4:], corners[..., 4:, :4], corners[..., 4:, 4:] = 1, 2, 3
    shuffled = ImageViews(
        corners.expand(2000, 3, 8, 8), Standardise(torch.zeros(3), torch.ones(3)), replace(PLAIN, patch_shuffle=2)
    ).views(KEY, 0, torch.arange(2000))
    quarters = shuffled[:, 0, ::4, ::4].flatten(1).round().int().tolist()
    counts = [quarters.count(order) for order in ([0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0])]
    assert sum(counts) == 2000
    assert counts == pytest.approx([500] * 4, abs=90)


def naive_paste(share: float, row: float, column: float, height: int, width: int) -> Tensor:
    """CutMix's box as its authors place it, pixel by pixel."""
    cut_height, cut_width = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
    y, x = int(row * height), int(column * width)
    top, bottom = max(y - cut_height // 2, 0), min(y + cut_height // 2, height)
    left, right = max(x - cut_width // 2, 0), min(x + cut_width // 2, width)
    return torch.tensor([[top <= i < bottom and left <= j < right for j in range(width)] for i in range(height)])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (1, 5)])
def test_a_cutmix_box_equals_a_loop_over_pixels(height: int, width: int) -> None:
    draws = torch.cat([uniform(KEY, torch.arange(200), 3).double(), torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.999]])])
    expected = torch.stack([naive_paste(*draw, height, width) for draw in draws.tolist()])
    assert torch.equal(pasted_boxes(*draws.T, height, width), expected)


def test_cutmix_pastes_the_partners_own_view() -> None:
    views, ids = ImageViews(images(), STANDARDISE, ViewsConfig()), torch.arange(40)
    mixed = views.mix(KEY, 3, ids)
    own, other = views.views(KEY, 3, ids), views.views(KEY, 3, mixed.partners)
    from_own, from_other = (mixed.images == own).all(1), (mixed.images == other).all(1)
    assert (from_own | from_other).all()
    assert mixed.shares[mixed.partners != ids].min() < 0.5 < mixed.shares.max()
    apart = mixed.partners != ids
    torch.testing.assert_close(from_own[apart].float().mean((1, 2)), mixed.shares[apart])


def test_mixup_adds_the_partners_own_view() -> None:
    views, ids = ImageViews(images(), STANDARDISE, CONFIGS["mixup"]), torch.arange(40)
    mixed = views.mix(KEY, 3, ids)
    own, other = views.views(KEY, 3, ids), views.views(KEY, 3, mixed.partners)
    shares = mixed.shares[:, None, None, None]
    torch.testing.assert_close(mixed.images, other + shares * (own - other))
    assert len(mixed.shares.unique()) == 40


def test_cutmix_counts_what_is_left_of_a_uniform_share() -> None:
    views = ImageViews(torch.zeros(4000, 3, 16, 16), STANDARDISE, ViewsConfig())
    shares = views.mix(KEY, 0, torch.arange(4000)).shares.double()
    grid = (torch.arange(2000).double() + 0.5) / 2000
    kept = [1 - naive_paste(share, *place, 16, 16).double().mean() for share, place in sample_places(grid)]
    assert float(shares.mean()) == pytest.approx(float(torch.stack(kept).mean()), abs=0.02)


def sample_places(shares: Tensor) -> list[tuple[float, tuple[float, float]]]:
    places = torch.rand(len(shares), 2, generator=torch.Generator().manual_seed(2)).tolist()
    return [(share, (row, column)) for share, (row, column) in zip(shares.tolist(), places, strict=True)]


def test_partners_are_any_images_of_the_set() -> None:
    views = ImageViews(torch.zeros(50, 3, 4, 4), STANDARDISE, ViewsConfig())
    partners = torch.cat([views.mix(KEY, epoch, torch.arange(50)).partners for epoch in range(100)])
    counts = partners.bincount(minlength=50).double()
    assert len(counts) == 50
    assert float(((counts - 100) ** 2 / 100).sum()) < 85.4  # 99.9 % of chi-square with 49 degrees of freedom


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 3.0])
def test_shares_have_the_moments_of_a_beta_distribution(alpha: float) -> None:
    shares = symmetric_beta((torch.arange(20_000).double() + 0.5) / 20_000, alpha)
    variance = 1 / (4 * (2 * alpha + 1))
    kurtosis = -6 / (2 * alpha + 3)
    assert float(shares.mean()) == pytest.approx(0.5, abs=1e-4)
    assert float((shares - 0.5).square().mean()) == pytest.approx(variance, rel=1e-3)
    assert float((shares - 0.5).pow(4).mean()) == pytest.approx((3 + kurtosis) * variance**2, rel=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_view_depends_on_key_epoch_and_image_alone(name: str) -> None:
    views = ImageViews(images(), STANDARDISE, CONFIGS[name])
    whole = views.mix(KEY, 5, torch.arange(40))
    before = torch.get_rng_state()
    for rows in [torch.arange(40).flip(0), torch.tensor([17]), torch.arange(3, 40, 5), torch.tensor([4, 4])]:
        again = views.mix(KEY, 5, rows)
        assert torch.equal(again.images, whole.images[rows])
        assert torch.equal(again.partners, whole.partners[rows])
        assert torch.equal(again.shares, whole.shares[rows])
    assert torch.equal(before, torch.get_rng_state())
    for key, epoch in [(KEY, 6), (KEY.child("other"), 5)]:
        other = views.mix(key, epoch, torch.arange(40)).images
        assert (other != whole.images).flatten(1).any(1).double().mean() > 0.9


def test_without_any_operation_images_stay_as_they_are() -> None:
    mixed = ImageViews(images(), STANDARDISE, PLAIN).mix(KEY, 0, torch.tensor([3, 1]))
    torch.testing.assert_close(mixed.images, images()[[3, 1]], rtol=0, atol=1e-5)
    assert mixed.partners.tolist() == [3, 1]
    assert mixed.shares.tolist() == [1, 1]


def test_half_of_the_views_are_mirrored() -> None:
    ramp = torch.arange(8.0).expand(4000, 3, 8, 8)
    views = ImageViews(ramp, STANDARDISE, replace(PLAIN, flip=True)).views(KEY, 0, torch.arange(4000))
    mirrored = views[:, 0, 0, 0] > 3
    assert int(mirrored.sum()) == pytest.approx(2000, abs=110)
    torch.testing.assert_close(views[mirrored], ramp[mirrored].flip(3), rtol=0, atol=1e-4)


def test_pixels_are_cropped_and_whitened_afterwards() -> None:
    pixels = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    zca = fit_zca(pixels)
    views = ImageViews(zca.forward(pixels), zca, ViewsConfig(min_scale=0.5, flip=False, mix="none"))
    boxes = crop_boxes(KEY.child("crop", 2), torch.arange(30), 8, 8, 0.5)
    expected = zca.forward(resized_crops(pixels.float() / 255, boxes, torch.zeros(30, dtype=torch.bool)))
    torch.testing.assert_close(views.views(KEY, 2, torch.arange(30)), expected, rtol=0, atol=1e-4)


def test_randaugment_comes_first_on_whole_pixels() -> None:
    config = replace(PLAIN, randaugment_ops=2, randaugment_magnitude=6, randaugment_std=1)
    ids = torch.tensor([30, 2, 11])
    views = ImageViews(images(), STANDARDISE, config).views(KEY, 4, ids)
    pixels = (STANDARDISE.inverse(images()) * 255).round().to(torch.uint8)
    expected = randaugment(
        pixels[ids],
        pixels.double().mean((0, 2, 3)),
        KEY.child("randaugment", 4),
        ids,
        layers=2,
        magnitude=6,
        std=1,
    )
    torch.testing.assert_close(views, STANDARDISE.forward(expected), rtol=0, atol=1e-5)
    assert not torch.equal(expected, pixels[ids])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_scale", 0.0),
        ("min_scale", 1.5),
        ("randaugment_ops", -1),
        ("randaugment_magnitude", 11.0),
        ("randaugment_std", -1.0),
        ("patch_shuffle", 0),
        ("mix_alpha", 0.0),
        ("mix_alpha", math.nan),
    ],
)
def test_what_cannot_be_drawn_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: must be"):
        ViewsConfig(**{field: value})


def test_a_grid_that_does_not_divide_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch_shuffle: 3 does not divide images of 16x16"):
        ImageViews(images(), STANDARDISE, ViewsConfig(patch_shuffle=3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpu_draws_the_same_views(name: str) -> None:
    there = ImageViews(images().cuda(), STANDARDISE, CONFIGS[name]).mix(KEY, 5, torch.arange(40))
    here = ImageViews(images(), STANDARDISE, CONFIGS[name]).mix(KEY, 5, torch.arange(40))
    assert torch.equal(there.partners.cpu(), here.partners)
    torch.testing.assert_close(there.shares.cpu(), here.shares)
    apart = (there.images.cpu() - here.images).abs() > (0.03 if CONFIGS[name].randaugment_ops else 1e-4)
    assert apart.double().mean() < 1e-3
