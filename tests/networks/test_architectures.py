"""The networks: sizes and orders of the specification, their equations, and second derivatives."""

import math
import pickle
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn import functional as F

from raydd.adjoint.convnet import ConvNetSteps
from raydd.adjoint.inner_loop import DifferentiatedSteps, InnerBatch
from raydd.core.errors import ArtefactError, ConfigError
from raydd.core.keyed_random import Key, seeded
from raydd.networks import Network, build, load_state, named_as_here
from raydd.networks.config import NetworkConfig
from raydd.networks.flat import FlatNetwork
from raydd.networks.losses import hard_cross_entropy
from raydd.training.stacked import Pack

KEY = Key.root(0)
ALL = [NetworkConfig(name=name) for name in ("convnet", "resnet18", "vgg11", "alexnet", "lenet", "mlp")]
BATCH_NORM = [NetworkConfig(name=name, norm="batch") for name in ("convnet", "resnet18", "vgg11")]
NO_NORM = [NetworkConfig(name=name, norm="none") for name in ("convnet", "resnet18", "vgg11")]
label = NetworkConfig.label.fget


def keyed(config: NetworkConfig, shape: tuple[int, int, int], num_classes: int = 10, key: Key = KEY) -> Network:
    with seeded(key):
        return build(config, shape, num_classes)


def batch(size: int, *shape: int) -> Tensor:
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("depth", "width", "side", "num_classes", "expected"),
    [
        (3, 128, 32, 10, 320_010),
        (3, 128, 32, 100, 504_420),
        (4, 128, 64, 200, 857_160),
        (4, 128, 64, 1000, 2_496_360),
        (5, 128, 128, 10, 615_690),
        (3, 32, 32, 10, 24_714),
    ],
)
def test_convnet_has_the_published_number_of_parameters(
    depth: int, width: int, side: int, num_classes: int, expected: int
) -> None:
    net = build(NetworkConfig(depth=depth, width=width), (3, side, side), num_classes)
    assert num_parameters(net) == expected
    assert net.head.in_features == width * 16


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet18", 11_173_962), ("vgg11", 9_231_114), ("alexnet", 1_872_202), ("lenet", 62_006), ("mlp", 411_146)],
)
def test_the_others_have_the_sizes_of_their_small_image_forms(name: str, expected: int) -> None:
    assert num_parameters(build(NetworkConfig(name=name), (3, 32, 32), 10)) == expected


def test_the_flat_order_is_block_by_block_then_the_head() -> None:
    names = [name for name, _ in build(NetworkConfig(depth=2), (3, 8, 8), 10).named_parameters()]
    block = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    assert names == [f"body.{i}.{part}" for i in range(2) for part in block] + ["head.weight", "head.bias"]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 9, 13)])
def test_convnet_equals_its_equations(shape: tuple[int, int, int]) -> None:
    net = keyed(NetworkConfig(depth=2, width=5), shape).double()
    parameters = iter([p.detach() + 0.1 for p in net.parameters()])
    x = images = batch(4, *shape)
    for i in range(2):
        weight, bias, scale, shift = (next(parameters) for _ in range(4))
        x = F.conv2d(x, weight, bias, padding=3 if i == 0 and shape == (1, 28, 28) else 1)
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        height, width = (side // 2 * 2 for side in x.shape[2:])
        x = x.clamp(min=0)[:, :, :height, :width]
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    features = x.flatten(1)
    logits = features @ next(parameters).T + next(parameters)
    for p in net.parameters():
        p.data += 0.1
    torch.testing.assert_close(net.features(images), features)
    torch.testing.assert_close(net(images), logits)


def normalised(norm: str, x: Tensor, groups: int) -> Tensor:
    """By the equations, without scale and shift."""
    if norm == "none":
        return x
    shaped = x.unflatten(1, (groups, -1))
    axes = (0, 2, 3, 4) if norm == "batch" else (2, 3, 4)
    mean, variance = shaped.mean(axes, keepdim=True), shaped.var(axes, correction=0, keepdim=True)
    return ((shaped - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)


def pooled(pooling: str, x: Tensor) -> Tensor:
    if pooling == "none":
        return x
    height, width = (side // 2 * 2 for side in x.shape[2:])
    corners = torch.stack([x[..., i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])
    return corners.amax(0) if pooling == "max" else corners.mean(0)


ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
}
SEARCHED = [
    NetworkConfig(depth=2, width=8, norm=norm, activation=activation, pooling=pooling)
    for norm, activation, pooling in [
        ("layer", "relu", "avg"),
        ("group", "relu", "avg"),
        ("instance", "leaky_relu", "max"),
        ("none", "sigmoid", "none"),
        ("batch", "sigmoid", "max"),
        ("layer", "leaky_relu", "none"),
    ]
]


@pytest.mark.parametrize("config", SEARCHED, ids=label)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 13)])
def test_searched_convnets_equal_their_equations(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    net = keyed(config, shape).double()
    for number, p in enumerate(net.parameters()):
        p.data += 0.1 * batch(*p.shape) + 0.01 * number
    parameters = iter([p.detach() for p in net.parameters()])
    x = images = batch(4, *shape)
    groups = {"instance": 8, "batch": 8, "layer": 1, "group": 4, "none": 1}[config.norm]
    for i in range(2):
        x = F.conv2d(x, next(parameters), next(parameters), padding=3 if i == 0 and shape == (1, 28, 28) else 1)
        x = normalised(config.norm, x, groups)
        if config.norm != "none":
            scale, shift = next(parameters), next(parameters)
            assert scale.shape == (x.shape[1:] if config.norm == "layer" else (8,))
            x = x * scale.view(-1, *scale.shape[1:] or (1, 1)) + shift.view(-1, *shift.shape[1:] or (1, 1))
        x = pooled(config.pooling, ACTIVATIONS[config.activation](x))
    logits = x.flatten(1) @ next(parameters).T + next(parameters)
    torch.testing.assert_close(net(images), logits)


@pytest.mark.parametrize("config", [c for c in SEARCHED if c.norm != "batch"], ids=label)
def test_searched_convnets_train_side_by_side_and_backwards(config: NetworkConfig) -> None:
    """In a pack as alone; and gradients of gradients, as trajectory matching takes them."""
    nets = [keyed(config, (3, 8, 8)).double(), keyed(config, (3, 8, 8), key=Key.root(1)).double()]
    images = batch(6, 3, 8, 8).view(2, 3, 3, 8, 8)
    alone = torch.stack([net(own) for net, own in zip(nets, images, strict=True)])
    torch.testing.assert_close(Pack(nets)(images), alone)
    flat = FlatNetwork(nets[0])
    assert ConvNetSteps.of(flat, config, (3, 8, 8)) is None
    steps, rows = DifferentiatedSteps(flat, hard_cross_entropy), InnerBatch(images[0], torch.tensor([0, 5, 9]), 3)
    params, direction = flat.flat(), batch(flat.size)
    pulled = steps.pull_back(params, rows, direction, True, None)
    ahead, behind = (steps.gradient(params + step * direction, rows)[0] for step in (1e-6, -1e-6))
    torch.testing.assert_close(pulled.by_params[:-1], (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", ALL + BATCH_NORM + NO_NORM, ids=label)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64), (1, 28, 28)])
def test_every_network_takes_the_usual_images(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    net, images = keyed(config, shape), batch(3, *shape).float()
    features, logits = net.eval().features(images), net(images)
    assert features.shape == (3, net.head.in_features) and logits.shape == (3, 10)
    torch.testing.assert_close(net.head(features), logits)
    assert logits[0].ne(logits[1]).all()


@pytest.mark.parametrize(
    ("name", "shape", "last_map"),
    [
        ("resnet18", (3, 32, 32), (512, 4, 4)),
        ("resnet18", (3, 64, 64), (512, 4, 4)),
        ("resnet18", (3, 128, 128), (512, 4, 4)),
        ("vgg11", (3, 32, 32), (512, 1, 1)),
        ("vgg11", (3, 64, 64), (512, 1, 1)),
        ("vgg11", (1, 28, 28), (512, 1, 1)),
        ("alexnet", (3, 32, 32), (192, 4, 4)),
        ("alexnet", (3, 64, 64), (192, 4, 4)),
        ("alexnet", (1, 28, 28), (192, 4, 4)),
        ("lenet", (3, 32, 32), (16, 5, 5)),
        ("lenet", (3, 64, 64), (16, 5, 5)),
        ("lenet", (1, 28, 28), (16, 5, 5)),
    ],
)
def test_the_last_map_has_the_size_of_the_literature(
    name: str, shape: tuple[int, int, int], last_map: tuple[int, int, int]
) -> None:
    net = build(NetworkConfig(name=name), shape, 10).to("meta")
    layer = {"resnet18": "layer4", "lenet": "0.5"}.get(name, str(len(list(net.body.children())) - 1))
    sizes = []
    net.body.get_submodule(layer).register_forward_hook(lambda _, __, output: sizes.append(output.shape[1:]))
    net(torch.empty(2, *shape, device="meta"))
    assert sizes == [last_map]


def test_resnet_is_torchvisions_with_a_small_stem() -> None:
    ours = keyed(NetworkConfig(name="resnet18", norm="batch"), (3, 32, 32))
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = batch(4, 3, 32, 32).float()
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("stem", "side", "halvings", "last_map"),
    [("small", 64, 0, 8), ("small", 128, 0, 16), ("imagenet", 64, 2, 2), ("imagenet", 33, 2, 2), ("auto", 64, 1, 4)],
)
def test_the_stem_can_be_chosen(stem: str, side: int, halvings: int, last_map: int) -> None:
    net = build(NetworkConfig(name="resnet18", norm="batch", stem=stem), (3, side, side), 10).to("meta")
    sizes = []
    for layer in (net.body.maxpool, net.body.layer4):
        layer.register_forward_hook(lambda _, __, output: sizes.append(output.shape[2:]))
    net(torch.empty(2, 3, side, side, device="meta"))
    assert sizes == [(math.ceil(side / 2**halvings),) * 2, (last_map,) * 2]
    assert net.body.conv1.weight.shape[2:] == ((7, 7) if stem == "imagenet" else (3, 3))


def torchvisions(stem: str, num_classes: int = 10) -> nn.Module:
    """With statistics of their own, in which a swap of two layers would show."""
    theirs = torchvision.models.resnet18(num_classes=num_classes)
    if stem == "small":
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs(batch(4, 3, 64, 64).float())
    return theirs.eval()


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("stem", "side"), [("small", 64), ("imagenet", 64), ("auto", 32), ("auto", 128)])
def test_torchvisions_parameters_are_taken_over(stem: str, side: int, counted: bool) -> None:
    theirs = torchvisions("imagenet" if side == 128 or stem == "imagenet" else "small")
    ours = keyed(NetworkConfig(name="resnet18", norm="batch", stem=stem), (3, side, side)).eval()
    state = {name: t for name, t in theirs.state_dict().items() if counted or "num_batches" not in name}
    load_state(ours, named_as_here(state))
    images = batch(2, 3, side, side).float()
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("stem", "num_classes", "message"),
    [
        ("small", 10, r"body\.conv1\.weight is \[64, 3, 3, 3\] there and \[64, 3, 7, 7\] in the network"),
        ("imagenet", 9, r"head\.bias is \[9\] there and \[10\] in the network"),
    ],
)
def test_parameters_of_another_network_are_refused(stem: str, num_classes: int, message: str) -> None:
    ours = keyed(NetworkConfig(name="resnet18", norm="batch", stem="imagenet"), (3, 64, 64))
    with pytest.raises(ArtefactError, match=message):
        load_state(ours, named_as_here(torchvisions(stem, num_classes).state_dict()))
    with pytest.raises(ArtefactError, match=r"body\.0\.conv\.bias is absent there and \[5\] in the network"):
        load_state(keyed(NetworkConfig(width=5), (3, 8, 8)), {})


@pytest.mark.parametrize("config", ALL + BATCH_NORM, ids=label)
def test_initialisation_is_torchs_default_and_keyed(config: NetworkConfig) -> None:
    net, again = keyed(config, (3, 32, 32)), keyed(config, (3, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert 0.95 * bound < layer.weight.abs().max() <= bound
            assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        elif isinstance(layer, nn.GroupNorm | nn.BatchNorm2d):
            assert layer.weight.eq(1).all() and layer.bias.eq(0).all() and layer.eps == 1e-5


@pytest.mark.parametrize("config", ALL, ids=label)
def test_a_network_is_copied_and_compiled_whole(config: NetworkConfig) -> None:
    net, images = keyed(config, (3, 32, 32)), batch(2, 3, 32, 32).float()
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), net(images))
    assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(images), net(images))


def test_instance_norm_treats_samples_apart_and_batch_norm_does_not() -> None:
    images = batch(4, 3, 32, 32).float()
    for norm, apart in [("instance", True), ("batch", False)]:
        net = keyed(NetworkConfig(norm=norm, width=16), (3, 32, 32))
        assert torch.allclose(net(images)[:2], net(images[:2]), atol=1e-6) is apart


SMALL = [
    (NetworkConfig(depth=2, width=4), (1, 8, 8)),
    (NetworkConfig(depth=2, width=4, norm="none"), (1, 8, 8)),
    (NetworkConfig(name="resnet18"), (1, 9, 9)),
    (NetworkConfig(name="vgg11"), (1, 28, 28)),
    (NetworkConfig(name="alexnet"), (1, 8, 8)),
    (NetworkConfig(name="lenet"), (1, 16, 16)),
    (NetworkConfig(name="mlp"), (1, 8, 8)),
]


@pytest.mark.parametrize(("config", "shape"), SMALL, ids=[config.label for config, _ in SMALL])
def test_hessian_vector_products_agree(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    """Reverse over reverse against forward over reverse, both in float64."""
    net = keyed(config, shape).double()
    images, labels = batch(3, *shape), torch.tensor([0, 5, 9])
    params = {name: p.detach() for name, p in net.named_parameters()}
    direction = {name: batch(*p.shape) for name, p in params.items()}

    def loss(theta: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, theta, (images,)), labels)

    _, forward = jvp(grad(loss), (params,), (direction,))
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    product = sum((g * v).sum() for g, v in zip(first, direction.values(), strict=True))
    reverse = torch.autograd.grad(product, list(leaves.values()))
    for a, b in zip(forward.values(), reverse, strict=True):
        torch.testing.assert_close(a, b)
    assert any(b.abs().max() > 1e-6 for b in reverse)


def test_the_hessian_vector_product_of_convnet_equals_finite_differences() -> None:
    net = keyed(NetworkConfig(depth=2, width=4), (1, 8, 8)).double()
    images, labels = batch(5, 1, 8, 8), torch.arange(5)
    params = {name: p.detach() for name, p in net.named_parameters()}
    direction = {name: batch(*p.shape) for name, p in params.items()}

    def gradient(step: Tensor | float) -> dict[str, Tensor]:
        moved = {name: p + step * direction[name] for name, p in params.items()}
        return grad(lambda theta: F.cross_entropy(functional_call(net, theta, (images,)), labels))(moved)

    _, product = jvp(gradient, (torch.zeros(()).double(),), (torch.ones(()).double(),))
    ahead, behind = gradient(1e-6), gradient(-1e-6)
    for name in params:
        torch.testing.assert_close(product[name], (ahead[name] - behind[name]) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", BATCH_NORM, ids=label)
def test_batch_norm_networks_have_second_derivatives(config: NetworkConfig) -> None:
    net, images = keyed(config, (3, 32, 32)), batch(3, 3, 32, 32).float().requires_grad_()
    parameters = list(net.parameters())
    gradient = torch.autograd.grad(net(images).logsumexp(1).sum(), parameters, create_graph=True)
    (pixels,) = torch.autograd.grad(sum(g.square().sum() for g in gradient), images)
    assert pixels.isfinite().all() and pixels.abs().max() > 0


@pytest.mark.parametrize(("config", "shape"), SMALL, ids=[config.label for config, _ in SMALL])
def test_the_smallest_images_still_matter(config: NetworkConfig, shape: tuple[int, int, int]) -> None:
    logits = keyed(config, shape).double()(batch(3, *shape))
    assert (logits[0] - logits[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (NetworkConfig(depth=4), (1, 8, 8), "network.depth: 4 blocks pool an image of 8x8 to nothing; take at most 3"),
        (
            NetworkConfig(depth=6),
            (1, 28, 28),
            "network.depth: 6 blocks pool an image of 28x28 to nothing; take at most 5",
        ),
        (NetworkConfig(name="resnet18"), (1, 8, 8), "network.name: resnet18 needs images of at least 9x9, not 8x8"),
        (NetworkConfig(name="vgg11"), (3, 28, 40), "network.name: vgg11 needs images of at least 32x32, not 28x40"),
        (NetworkConfig(name="lenet"), (1, 8, 8), "network.name: lenet needs images of at least 16x16, not 8x8"),
        (NetworkConfig(name="alexnet"), (3, 7, 8), "network.name: alexnet needs images of at least 8x8, not 7x8"),
    ],
)
def test_images_too_small_to_pool_are_refused(config: NetworkConfig, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config, shape, 10)


def test_a_stem_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^network\.stem: imagenet needs images of at least 33 pixels .* not 32x40"):
        build(NetworkConfig(name="resnet18", stem="imagenet"), (3, 32, 40), 10)
    with pytest.raises(
        ConfigError, match=r"^network\.stem: only torchvision's have a choice of stems, vgg11 takes auto"
    ):
        NetworkConfig(name="vgg11", stem="small")


@pytest.mark.parametrize("field", ["width", "depth"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"network.{field}: must be at least 1, not 0"):
        NetworkConfig(**{field: 0})


def test_labels() -> None:
    assert [config.label for config in ALL] == [
        "convnet-d3-w128-instance",
        "resnet18-instance",
        "vgg11-instance",
        "alexnet",
        "lenet",
        "mlp",
    ]
    assert NetworkConfig(name="resnet18", norm="batch").label == "resnet18-batch"
    assert NetworkConfig(name="resnet18", norm="batch", stem="small").label == "resnet18-batch-small"
    assert NetworkConfig(width=32, depth=2, norm="none").label == "convnet-d2-w32-none"

    assert [config.label for config in SEARCHED[1:4]] == [
        "convnet-d2-w8-group",
        "convnet-d2-w8-instance-leaky_relu-max",
        "convnet-d2-w8-none-sigmoid-unpooled",
    ]


def test_keys_of_networks_know_an_activation_and_a_pooling_where_they_were_chosen() -> None:
    assert NetworkConfig().identity() == {"name": "convnet", "width": 128, "depth": 3, "norm": "instance"}
    chosen = NetworkConfig(activation="sigmoid", pooling="none").identity()
    assert chosen == {**NetworkConfig().identity(), "activation": "sigmoid", "pooling": "none"}


def test_convnets_that_do_not_pool_keep_the_size_of_the_images() -> None:
    net = build(NetworkConfig(depth=5, width=4, pooling="none"), (1, 8, 8), 3)
    assert net.head.in_features == 4 * 8 * 8
    assert not NetworkConfig(pooling="max").is_usual and NetworkConfig(depth=1).is_usual


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "vgg11", "norm": "layer"}, "network.norm: only convnet has layer, vgg11 takes"),
        ({"name": "resnet18", "norm": "group"}, "network.norm: only convnet has group, resnet18 takes"),
        ({"name": "mlp", "activation": "sigmoid"}, "network.activation: only convnet has a choice, mlp takes relu"),
        ({"name": "lenet", "pooling": "none"}, "network.pooling: only convnet has a choice, lenet takes avg"),
        ({"width": 6, "norm": "group"}, "network.width: must be a multiple of 4 for norm: group, not 6"),
    ],
)
def test_blocks_that_only_a_convnet_has_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**changes)


def test_keys_of_networks_with_the_usual_stem_do_not_know_it() -> None:
    config = NetworkConfig(name="resnet18")
    assert config.identity() == {"name": "resnet18", "width": 128, "depth": 3, "norm": "instance"}
    assert replace(config, stem="small").identity() == {**config.identity(), "stem": "small"}


@pytest.mark.parametrize("config", ALL + BATCH_NORM + NO_NORM, ids=label)
def test_which_networks_have_batch_norm(config: NetworkConfig) -> None:
    layers = build(config, (3, 32, 32), 10).modules()
    assert config.has_batch_norm is any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    assert not NetworkConfig(name="mlp", norm="batch").has_batch_norm


@pytest.mark.parametrize(
    ("side", "depth"), [(8, 2), (16, 2), (28, 3), (32, 3), (64, 4), (112, 5), (128, 5), (224, 6), (256, 6)]
)
def test_auto_is_the_literatures_depth(side: int, depth: int) -> None:
    auto = NetworkConfig(depth="auto", width=4)
    assert auto.sized(side) == NetworkConfig(depth=depth, width=4)
    assert NetworkConfig(depth=1).sized(side).depth == 1
    assert len(build(auto.sized(side), (3, side, side), 2).body) == depth


@pytest.mark.parametrize("width, expected", [(128, 1_561_000), (32, 114_000), (16, 34_000)])
def test_doubled_widths_have_frepos_number_of_parameters(width: int, expected: int) -> None:
    """The sizes and features of the paper's ConvNet, rounded to thousands."""
    config = NetworkConfig(width=width, norm="none", growth="doubled", init="lecun")
    net = build(config, (3, 32, 32), 10)
    assert num_parameters(net) == pytest.approx(expected, rel=0.02)
    assert net.head.in_features == 16 * 4 * width
    assert config.label == f"convnet-d3-w{width}-none-doubled-lecun" and not config.is_usual


def test_lecuns_initialisation_has_a_variance_of_one_over_fan_in() -> None:
    torch.manual_seed(0)
    net = build(NetworkConfig(width=64, norm="none", growth="doubled", init="lecun"), (3, 32, 32), 10)
    layers = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 4
    for layer in layers[1:]:
        fan_in = layer.weight[0].numel()
        assert float(layer.weight.detach().var()) * fan_in == pytest.approx(1, abs=0.05)
        assert float(layer.weight.detach().abs().max()) * fan_in**0.5 < 2 / 0.879
    assert all(not bool(layer.bias.any()) for layer in layers)
