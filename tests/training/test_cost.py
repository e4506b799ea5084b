"""What steps cost is found once for a network, a shape of images and a number of classes."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raydd import networks
from raydd.data import DataFacts
from raydd.networks.config import NetworkConfig
from raydd.training import cost
from raydd.training.cost import gradient_messages, gradient_step, network_size, predicting, shown, training
from raydd.training.recipe import Recipe

FACTS = DataFacts(num_train=600, num_test=300, shape=(3, 16, 16), num_classes=5)
LARGER = replace(FACTS, num_train=6_000, num_test=3_000, num_validation=10, published=True)
NETWORK = NetworkConfig(width=8, depth=2)


def test_a_gradient_takes_what_is_counted() -> None:
    module, images = networks.build(NETWORK, FACTS.shape, 5), torch.randn(7, *FACTS.shape)
    with FlopCounterMode(display=False) as counter:
        module(images.clone().requires_grad_(False)).sum().backward()
    assert gradient_step(NETWORK, FACTS, 7).flops == counter.get_total_flops()


@pytest.mark.parametrize("find", [network_size, predicting, lambda *of: gradient_step(*of, 20)])
def test_datasets_of_one_shape_share_what_was_found(find, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both at least as many images as a prediction takes at a time."""
    found = find(NETWORK, FACTS)
    monkeypatch.setattr(networks, "build", None)
    assert find(NETWORK, LARGER) is found
    with pytest.raises(TypeError):
        find(NETWORK, replace(FACTS, num_classes=6))


def test_fewer_test_images_make_a_smaller_batch() -> None:
    few = replace(FACTS, num_test=20)
    assert (predicting(NETWORK, few).images, predicting(NETWORK, FACTS).images) == (20, cost.PREDICT_BATCH)
    assert shown(NETWORK, few, 40).flops == shown(NETWORK, FACTS, 40).flops


def test_a_training_is_its_epochs_and_predictions() -> None:
    recipe = Recipe(epochs=3, lr=0.1, batch_size=50, momentum=0.9)
    once, predicted = gradient_step(NETWORK, FACTS, 50).flops * 12, predicting(NETWORK, FACTS).flops_of(300)
    assert training(NETWORK, recipe, FACTS, 600, 300).flops == 3 * once + predicted


def test_workers_add_up_gradients_and_twice_for_each_batch_norm() -> None:
    size = network_size(NETWORK, FACTS)[0]
    assert gradient_messages(NETWORK, FACTS) == ((1, 4 * size), (0, 0))
    normed = replace(NETWORK, norm="batch")
    assert gradient_messages(normed, FACTS)[1] == (2 * 2, 0)
