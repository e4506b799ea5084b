"""Protocols: the papers' numbers, case by case."""

from typing import Any, get_args

import pytest

from raydd.evaluation.students.protocols import PROTOCOLS, Protocol, mosaic_views, recipe
from raydd.networks.config import TRAITS, NetworkConfig
from raydd.training.views import ViewsConfig

RESNET = NetworkConfig(name="resnet18", norm="batch")
CONVNET = NetworkConfig(norm="batch")
COMMON = {"optimizer": "adamw", "weight_decay": 0.01, "temperature": 20.0, "momentum": 0.0, "warmup_epochs": 0}
SRE2L = COMMON | {"epochs": 300, "lr": 1e-3, "batch_size": 1024, "schedule": "cosine", "views": ViewsConfig()}
RDED = COMMON | {"epochs": 300, "lr": 1e-3, "batch_size": 100, "schedule": "half_cosine"}
WHOLE = ViewsConfig(min_scale=1.0)
MOSAIC = ViewsConfig(min_scale=0.5, patch_shuffle=2)


def delt_views(ops: int, magnitude: float) -> ViewsConfig:
    return ViewsConfig(
        min_scale=0.25,
        randaugment_ops=ops,
        randaugment_magnitude=magnitude,
        randaugment_std=1.0,
        randaugment_fill="imagenet",
        mix="cutmix",
    )


CASES: list[tuple[Protocol, int, int, str, NetworkConfig, dict[str, Any]]] = [
    ("sre2l", 50, 1000, "imagenet", RESNET, SRE2L),
    ("cda", 50, 1000, "imagenet", RESNET, SRE2L | {"batch_size": 128}),
    (
        "sre2l", 50, 200, "tiny-imagenet", RESNET,
        SRE2L | {"optimizer": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 256, "epochs": 100,
                 "warmup_epochs": 5, "squares_temperature": True, "views": ViewsConfig(mix="none")},
    ),
    (
        "sre2l", 50, 100, "cifar100", RESNET,
        SRE2L | {"batch_size": 128, "temperature": 30.0, "epochs": 400, "decays_all": True,
                 "views": ViewsConfig(mix="mixup", mix_alpha=0.8, crop_padding=4)},
    ),
    ("wmdd", 50, 10, "cifar10", RESNET, SRE2L | {"batch_size": 100}),
    ("wmdd", 10, 200, "tiny-imagenet", RESNET, SRE2L | {"batch_size": 100}),
    ("wmdd", 2, 10, "imagenette", RESNET, SRE2L | {"batch_size": 20}),
    ("rded", 50, 10, "cifar10", RESNET, RDED | {"views": WHOLE}),
    ("rded", 10, 10, "cifar10", RESNET, RDED | {"views": WHOLE, "batch_size": 50}),
    ("rded", 1, 10, "imagenette", RESNET, RDED | {"views": MOSAIC, "batch_size": 10}),
    ("rded", 10, 100, "imagenet-100", RESNET, RDED | {"views": MOSAIC, "batch_size": 100}),
    ("rded", 50, 1000, "imagenet", RESNET, RDED | {"views": MOSAIC, "batch_size": 200}),
    ("rded", 10, 200, "tiny-imagenet", RESNET, RDED | {"views": WHOLE, "batch_size": 100}),
    ("rded", 10, 100, "cifar100", CONVNET, RDED | {"views": WHOLE, "batch_size": 25, "lr": 2e-3}),
    ("rded", 10, 100, "cifar100", RESNET, RDED | {"views": WHOLE, "batch_size": 100}),
    ("rded", 50, 10, "cifar10", NetworkConfig(name="vgg11"), RDED | {"views": WHOLE, "lr": 5e-4}),
    ("rded", 50, 10, "cifar10", NetworkConfig(name="alexnet"), RDED | {"views": WHOLE, "lr": 1e-4}),
    ("delt", 50, 10, "cifar10", RESNET, RDED | {"views": delt_views(4, 5)}),
    ("delt", 50, 200, "tiny-imagenet", RESNET, RDED | {"views": delt_views(3, 4)}),
    ("delt", 50, 10, "imagewoof", CONVNET, RDED | {"views": delt_views(2, 6)}),
    ("delt", 50, 1000, "imagenet", RESNET, RDED | {"views": delt_views(2, 6), "batch_size": 200}),
    ("delt", 20, 10, "digits", CONVNET, RDED | {"views": delt_views(2, 6), "batch_size": 50}),
    (
        "rd3", 10, 1000, "imagenet", NetworkConfig(name="vgg11"),
        RDED | {"views": MOSAIC, "batch_size": 50, "epochs": 400},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "images_per_class", "num_classes", "dataset", "network", "expected"), CASES)
def test_a_protocol_has_the_papers_numbers(
    name: Protocol,
    images_per_class: int,
    num_classes: int,
    dataset: str,
    network: NetworkConfig,
    expected: dict[str, Any],
) -> None:
    fitted = recipe(name, images_per_class, num_classes, dataset, network)
    assert {field: getattr(fitted, field) for field in expected} == expected
    assert fitted.augmentation == "none"


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(("images_per_class", "num_classes"), [(1, 3), (1, 10), (7, 2), (100, 10)])
def test_a_batch_is_never_larger_than_the_set(name: Protocol, images_per_class: int, num_classes: int) -> None:
    fitted = recipe(name, images_per_class, num_classes, "digits", CONVNET)
    assert fitted.batch_size <= images_per_class * num_classes
    whole = recipe(name, 1000, num_classes, "digits", CONVNET)
    assert images_per_class == 100 or fitted.batch_size in (images_per_class * num_classes, 10, whole.batch_size)


def test_every_protocol_takes_every_network() -> None:
    assert set(PROTOCOLS) == set(get_args(Protocol))
    names = tuple(TRAITS)
    assert len(names) >= 6
    for name in PROTOCOLS:
        for network in names:
            own = NetworkConfig(name=network, norm=TRAITS[network].norms[0])
            assert recipe(name, 10, 10, "cifar10", own).lr in (2.5e-3, 2e-3, 1e-3, 5e-4, 1e-4)


def test_views_of_mosaics() -> None:
    assert (mosaic_views(1), mosaic_views(2)) == (WHOLE, MOSAIC)
