"""The distance of batch moments from running statistics: values by hand, gradients, groups, formats."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from raydd.methods.decoupled.moments import FrozenMoments, averages, bn_loss, measured_norm, measuring
from tests.reference import recover as reference
from tests.support import taught


def norm(channels: int, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    """A layer in evaluation mode with running statistics of some size."""
    generator = torch.Generator().manual_seed(channels)
    layer = nn.BatchNorm2d(channels, dtype=dtype).eval().requires_grad_(False)
    layer.running_mean.copy_(torch.randn(channels, generator=generator))
    layer.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    layer.weight.copy_(torch.randn(channels, generator=generator))
    layer.bias.copy_(torch.randn(channels, generator=generator))
    return layer


def moment_distance(images: Tensor, layer: nn.BatchNorm2d, averages_PN: Tensor) -> Tensor:
    return measured_norm(images, layer, averages_PN)[1]


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("first_weight", "wanted"), [(10.0, 10 * (2 + 3) + 4 + 35), (1.0, 5 + 39), (0.0, 39)])
def test_value_of_two_layers_by_hand(first_weight: float, wanted: float) -> None:
    # Pixels 1 and 3, twice: mean 2, variance 1, so that the first layer is at |2 - 0| + |1 - 4|. It maps x to x / 2
    # (variance 4, eps 0); tripled that is 1.5 and 4.5: mean 3, variance 2.25, against 7 and 37.25.
    net = nn.Sequential(nn.BatchNorm2d(1, eps=0), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)).eval()
    net.requires_grad_(False)
    net[0].running_var.fill_(4)
    net[1].weight.fill_(3)
    net[1].bias.fill_(0)
    net[2].running_mean.fill_(7)
    net[2].running_var.fill_(37.25)
    images = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).view(2, 1, 1, 2)
    with measuring([net[0], net[2]], averages(torch.tensor([0, 0]), 1)) as found:
        net(images)
    assert [float(found[layer]) for layer in (0, 1)] == pytest.approx([5, 39])
    assert float(bn_loss(found, first_weight)) == pytest.approx(wanted)


def test_norms_are_not_squared_over_channels() -> None:
    layer = nn.BatchNorm2d(2).eval()
    layer.running_mean.copy_(torch.tensor([3.0, 4.0]))
    constant, alone = torch.zeros(1, 2, 2, 2), averages(torch.tensor([0]), 1)
    assert moment_distance(constant, layer, alone).item() == pytest.approx(5 + math.sqrt(2))


def test_gradient_is_that_of_the_value() -> None:
    averages_PN = averages(torch.tensor([1, 0, 1, 1, 0]), 2)
    images = randn(5, 3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(partial(measured_norm, norm=norm(3), averages_PN=averages_PN), images)


def test_no_gradient_where_the_moments_fit() -> None:
    images = randn(4, 2, 3, 3).requires_grad_()
    layer = norm(2)
    layer.running_mean.copy_(images.detach().double().mean((0, 2, 3)))
    distance = moment_distance(images, layer, averages(torch.zeros(4, dtype=torch.int64), 1))
    (gradient,) = torch.autograd.grad(distance.sum(), images)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_every_group_has_moments_of_its_own(dtype: torch.dtype, tolerance: float, channels_last: bool) -> None:
    groups = torch.tensor([0, 2, 1, 1, 2, 1, 0])
    images = (3 * randn(7, 4, 5, 6) + 1).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    found = moment_distance(images, norm(4), averages(groups, 3))
    (gradient,) = torch.autograd.grad(found @ torch.tensor([1.0, 2.0, 3.0]).double(), images)
    assert (found.dtype, gradient.dtype) == (torch.float64, dtype)
    for group in range(3):
        exact = images.detach()[groups == group].double().requires_grad_()
        _, wanted = reference.moment_loss(norm(4), exact, 1.0)
        assert found[group].item() == pytest.approx(wanted.item(), rel=1e-5)
        (by_hand,) = torch.autograd.grad((group + 1) * wanted, exact)
        assert (gradient[groups == group] - by_hand).norm() < tolerance * by_hand.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_output_and_its_gradient_are_the_layers(dtype: torch.dtype, channels_last: bool) -> None:
    images = randn(4, 3, 5, 6, dtype=torch.float32).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    layer = norm(3, dtype if dtype == torch.float64 else torch.float32)
    found, distance = measured_norm(images, layer, averages(torch.zeros(4, dtype=torch.int64), 1))
    assert found.stride() == images.stride()
    (by_norm,) = torch.autograd.grad((found.sin()).sum() + 0 * distance.sum(), images)
    assert by_norm.stride() == images.stride()
    exact = images.detach().double().requires_grad_()
    wanted = norm(3)(exact)
    (gradient,) = torch.autograd.grad(wanted.sin().sum(), exact)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    assert (found - wanted).norm() < tolerance * wanted.norm()
    assert (by_norm - gradient).norm() < tolerance * gradient.norm()


def test_network_is_as_before_when_measured() -> None:
    teacher = taught.teacher()
    images = taught.data().train.images[:6]
    alone = teacher.module(images)
    with measuring(teacher.batch_norms(), averages(torch.zeros(6, dtype=torch.int64), 1)) as found:
        assert torch.allclose(teacher.module(images), alone, atol=1e-5)
    logits, wanted = reference.moment_loss(teacher.module, images, 10.0)
    assert torch.equal(logits, alone)
    assert sorted(found) == [0, 1]
    assert bn_loss(found, 10.0).item() == pytest.approx(wanted.item(), rel=1e-5)
    with pytest.raises(ValueError, match="stop"), measuring(teacher.batch_norms(), averages(torch.tensor([0]), 1)):
        raise ValueError("stop")
    assert torch.equal(teacher.module(images), alone)


# Together with images that are constants


def frozen_moments(images: Tensor, members_PM: Tensor, dtype: torch.dtype = torch.float64) -> FrozenMoments:
    teacher = taught.teacher(dtype)
    return FrozenMoments.of(teacher.module, teacher.batch_norms(), images.to(dtype).split(3), members_PM)


def test_moments_with_constants_by_hand() -> None:
    # Pixels 1 and 3 beside the constants 4, 4, 6 and 6 of two images: mean (1 + 3 + 4 + 4 + 6 + 6) / 6 = 4, mean square
    # 114 / 6 = 19, variance 3. The second group has the pixels 0 and 2, and no constants: mean 1, variance 1.
    layer = nn.BatchNorm2d(1, eps=0).eval().requires_grad_(False)
    layer.running_mean.fill_(10)
    layer.running_var.fill_(5)
    constants = torch.tensor([[4.0, 4.0], [6.0, 6.0]], dtype=torch.float64).view(2, 1, 1, 2)
    known = FrozenMoments.of(layer.double(), [layer], [constants], torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double())
    images = torch.tensor([[0.0, 2.0], [1.0, 3.0]], dtype=torch.float64).view(2, 1, 1, 2)
    with measuring([layer], averages(torch.tensor([1, 0]), 2), known) as found:
        layer(images)
    assert found[0].tolist() == pytest.approx([6 + 2, 9 + 4])


@pytest.mark.parametrize("num_frozen", [1, 7])
def test_gradient_beside_constants_is_that_of_the_value(num_frozen: int) -> None:
    averages_PN = averages(torch.tensor([1, 0, 1, 1, 0]), 2)
    layer, images = norm(3), randn(5, 3, 2, 4).requires_grad_()
    members = torch.tensor([[1.0] * num_frozen, [0.0] * num_frozen]).double()
    known = FrozenMoments.of(layer, [layer], [2 * randn(num_frozen, 3, 2, 4) + 1], members)
    averages_PN, (constants,) = known.beside(averages_PN)
    call = partial(measured_norm, norm=layer, averages_PN=averages_PN, constants=constants)
    assert torch.autograd.gradcheck(call, images)


def test_moments_are_those_of_one_batch_with_the_constants() -> None:
    """Of three groups: one with two frozen images, one with six, of which the two share one, and one without any."""
    teacher, data = taught.teacher(torch.float64), taught.data().train
    frozen, images = data.images[:7].double(), data.images[10:16].double().requires_grad_()
    groups = torch.tensor([0, 2, 1, 1, 2, 1])
    members = torch.zeros(3, 7, dtype=torch.float64)
    members[0, [0, 3]] = 1
    members[1, [1, 2, 3, 4, 5, 6]] = 1
    with measuring(teacher.batch_norms(), averages(groups, 3), frozen_moments(frozen, members)) as found:
        logits = teacher.module(images)
    loss = bn_loss(found, 10.0)
    (gradient,) = torch.autograd.grad(logits.sin().sum() + loss @ torch.tensor([1.0, 2.0, 3.0]).double(), images)
    for group in range(3):
        own = images.detach()[groups == group].requires_grad_()
        logits, wanted = reference.moment_loss(teacher.module, own, 10.0, frozen[members[group] > 0])
        assert loss[group].item() == pytest.approx(wanted.item(), rel=1e-10)
        (by_hand,) = torch.autograd.grad(logits.sin().sum() + (group + 1) * wanted, own)
        assert (gradient[groups == group] - by_hand).norm() < 1e-9 * by_hand.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_without_constants_is_as_before_to_the_bit(dtype: torch.dtype) -> None:
    teacher, images = taught.teacher(dtype), taught.data().train.images[:].to(dtype)
    averages_PN, members = averages(torch.tensor([0, 1, 0, 1, 1]), 2), torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()
    both = []
    for known in (None, frozen_moments(images[20:22], members, dtype)):
        leaf = images[:5].clone().requires_grad_()
        with measuring(teacher.batch_norms(), averages_PN, known) as found:
            teacher.module(leaf)
        loss = bn_loss(found, 10.0)
        both.append((loss.detach(), torch.autograd.grad(loss[0], leaf)[0]))
    (alone, gradient), (beside, other_gradient) = both
    assert alone[0] == beside[0]
    assert abs(alone[1] - beside[1]) > 1e-3
    assert torch.equal(gradient, other_gradient)


def test_constants_leave_no_graph_and_no_hooks() -> None:
    teacher = taught.teacher()
    images = taught.data().train.images[:4].requires_grad_()
    known = frozen_moments(images, torch.ones(1, 4, dtype=torch.float64), torch.float32)
    assert not any(sums.requires_grad for sums in known.sums)
    assert not any(layer._forward_pre_hooks for layer in teacher.batch_norms())
    assert [tuple(sums.shape) for sums in known.sums] == [(2, 1, 4), (2, 1, 4)]
    assert known.count_P.tolist() == [4]
