"""Keyed draws: the bits against a restatement in Python's integers, and their statistics."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from raydd.core.keyed_random import Key, initial_seed, integer, integers, normal, permutation, seeded, uniform

KEY = Key.root(0)
MASK = 2**64 - 1


def splitmix(state: int, steps: int) -> int:
    """The output of SplitMix64 after `steps` steps from a state, after Vigna's public-domain description."""
    z = (state + steps * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def bits(key: Key, sample: int, draw: int) -> int:
    return splitmix(splitmix(key.value, sample), draw + 1)


def chi_square_z(counts: Tensor) -> float:
    """How many standard deviations the chi-square statistic of equal cells lies above its mean."""
    expected = counts.double().mean()
    degrees = counts.numel() - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees))


def pairs_z(a: Tensor, b: Tensor, cells: int = 16) -> float:
    """The same for the joint distribution of two uniform variables on a square of cells."""
    joint = (a * cells).long() * cells + (b * cells).long()
    return chi_square_z(joint.bincount(minlength=cells * cells))


@pytest.mark.parametrize("key", [Key(0), Key(MASK), KEY, KEY.child("crop", 7)])
def test_the_bits_are_splitmix64_over_ids_and_draws(key: Key) -> None:
    ids = torch.tensor([0, 1, 2, 49_999, 2**40, -1, -(2**63), 2**63 - 1])
    values = uniform(key, ids, draws=3)
    for (row, sample), draw in itertools.product(enumerate(ids.tolist()), range(3)):
        assert values[row, draw].item() == (bits(key, sample, draw) >> 40) / 2**24
    expected = [(bits(key, i, 0) >> 1) % 17 - 5 for i in ids.tolist()]
    assert integers(key, ids, -5, 12).tolist() == expected


def test_splitmix_restatement_gives_the_published_first_output() -> None:
    assert splitmix(0, 1) == 0xE220A8397B1DCDAF


def test_golden_values_never_change() -> None:
    ids = torch.arange(3)
    assert KEY.value == 0x9C09BF85306200AC
    assert KEY.child("stage", 2).value == 0x61BB6E0798D0796E
    assert initial_seed(KEY) == 2617884549
    assert (uniform(KEY, ids, 2) * 2**24).long().tolist() == [
        [5464472, 16752369],
        [2413326, 11408263],
        [12534229, 5878243],
    ]
    assert normal(KEY, ids)[:, 0].tolist() == pytest.approx(
        [-0.4517960846424103, -1.063200831413269, 0.6653863191604614], abs=1e-7
    )
    assert integers(KEY, ids, -3, 7).tolist() == [6, 0, 5]
    assert integer(KEY, 0, 10) == 9
    assert permutation(KEY, 8).tolist() == [6, 5, 4, 2, 3, 7, 1, 0]


def test_children_are_told_apart_by_types_borders_and_order() -> None:
    families = [
        ("a", 1),
        ("a1",),
        ("a", "1"),
        (1, "a"),
        ("1",),
        (1,),
        (-1,),
        (),
        ("",),
        ("", ""),
        ("a,1",),
        ('a", "1',),
    ]
    values = {KEY.child(*parts).value for parts in families} | {KEY.value, Key.root(1).value, Key.root(-1).value}
    assert len(values) == len(families) + 3
    assert KEY.child("a").child(1) != KEY.child("a", 1)
    assert KEY.child("a", 1) == Key(KEY.value).child("a", 1)
    assert all(0 <= value <= MASK for value in values)


def test_a_row_depends_on_its_own_id_only() -> None:
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    for draw in (uniform, normal):
        whole = draw(KEY, ids, 4)
        assert torch.equal(whole[200:207], draw(KEY, ids[200:207], 4))
        assert torch.equal(whole[:, :2], draw(KEY, ids, 2))
    assert torch.equal(integers(KEY, ids, 0, 99)[500:], integers(KEY, ids[500:], 0, 99))


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    uniform(KEY, torch.arange(3)), normal(KEY, torch.arange(3)), permutation(KEY, 5), integer(KEY, 0, 9)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("ids", [torch.arange(2**16), torch.arange(2**16) * 1000, torch.arange(2**16) << 40])
def test_uniform_is_uniform_and_independent(ids: Tensor) -> None:
    u = uniform(KEY, ids, draws=2)
    assert u.dtype == torch.float32 and u.min() >= 0 and u.max() < 1
    sibling, seed = uniform(KEY.child("x", 1), ids)[:, 0], uniform(Key.root(1), ids)[:, 0]
    other = uniform(KEY.child("x", 2), ids)[:, 0]
    assert abs(chi_square_z((u[:, 0] * 1024).long().bincount(minlength=1024))) < 5
    low_bits = (u[:, 0].double() * 2**24).long() % 1024
    assert abs(chi_square_z(low_bits.bincount(minlength=1024))) < 5
    for a, b in [
        (u[:-1, 0], u[1:, 0]),
        (u[:, 0], u[:, 1]),
        (u[:-1, 1], u[1:, 0]),
        (sibling, other),
        (u[:, 0], seed),
    ]:
        assert abs(pairs_z(a, b)) < 5


def test_the_statistic_notices_dependence() -> None:
    u = uniform(KEY, torch.arange(2**16))[:, 0]
    assert pairs_z(u, (u + 0.01) % 1) > 50


def test_every_bit_of_the_id_moves_half_of_the_output() -> None:
    ids = torch.arange(256)
    plain = (uniform(KEY, ids) * 2**24).long()
    for position in range(63):
        flipped = plain ^ (uniform(KEY, ids ^ (1 << position)) * 2**24).long()
        moved = sum(bin(value).count("1") for value in flipped[:, 0].tolist()) / (256 * 24)
        assert 0.45 < moved < 0.55


def test_normal_is_standard_normal() -> None:
    z = normal(KEY, torch.arange(2**15), draws=2)
    assert z.dtype == torch.float32 and z.isfinite().all()
    quantiles = (0.5 * (1 + torch.erf(z.double() / math.sqrt(2)))).flatten()
    assert abs(chi_square_z((quantiles * 256).long().bincount(minlength=256))) < 5
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 5 / math.sqrt(2**15)


def test_integers_are_uniform_in_their_range() -> None:
    values = integers(KEY, torch.arange(70_000), -3, 4)
    assert abs(chi_square_z((values + 3).bincount(minlength=7))) < 5
    assert {integer(KEY.child(i), 5, 8) for i in range(50)} == {5, 6, 7}


def test_permutations_are_uniform() -> None:
    order = [permutation(KEY.child(i), 4) for i in range(4800)]
    codes = torch.stack(order) @ torch.tensor([64, 16, 4, 1])
    counts = codes.bincount()
    assert len(counts[counts > 0]) == 24
    assert abs(chi_square_z(counts[counts > 0])) < 5
    assert permutation(KEY, 1000).sort().values.tolist() == list(range(1000))
    assert permutation(KEY, 0).tolist() == []


def test_seeded_repeats_and_restores() -> None:
    outside = torch.get_rng_state()
    with seeded(KEY):
        first = torch.rand(3)
        with seeded(KEY.child("inner")):
            assert not torch.equal(torch.rand(3), first)
        second = torch.rand(3)
    with seeded(KEY):
        assert torch.equal(torch.rand(6), torch.cat([first, second]))
    assert torch.equal(outside, torch.get_rng_state())


def test_seeded_restores_after_an_error() -> None:
    outside = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(KEY):
        torch.rand(1) / (1 // 0)
    assert torch.equal(outside, torch.get_rng_state())


def test_initial_seed_fits_every_library() -> None:
    seeds = {initial_seed(KEY.child(i)) for i in range(100)}
    assert len(seeds) == 100 and all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_bits() -> None:
    ids = torch.arange(1000)
    for draw in (uniform, normal):
        assert torch.equal(draw(KEY, ids.cuda(), 3).cpu(), draw(KEY, ids, 3))
    assert torch.equal(permutation(KEY, 1000, "cuda").cpu(), permutation(KEY, 1000))
    with seeded(KEY):
        first = torch.rand(3, device="cuda")
    with seeded(KEY):
        assert torch.equal(first, torch.rand(3, device="cuda"))
