"""When steps are compiled, that they are the same steps, and what happens where there is no compiler."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydd import config, networks
from raydd.core import compilation
from raydd.core.errors import ConfigError
from raydd.core.keyed_random import Key, seeded
from raydd.networks.config import NetworkConfig
from raydd.training import loop
from raydd.training.loop import Training
from raydd.training.recipe import Recipe
from tests.support import tiny
from tests.support.tiny import CLASSES, Results, randn

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NUM_IMAGES = 20
RECIPE = Recipe(epochs=3, lr=0.05, batch_size=16)
"""Whole and smaller batches in turn."""


@pytest.mark.parametrize(
    "setting, flops, device, threads, wanted",
    [
        ("on", 0.0, CPU, 1, True),
        ("off", 1e30, CPU, 1, False),
        ("auto", 3e13, CPU, 1, False),
        ("auto", 5e13, CPU, 1, True),
        ("auto", 5e13, CPU, 2, False),
        ("auto", 5e13, GPU, 1, False),
        ("auto", 1e17, GPU, 1, True),
    ],
)
def test_auto_asks_for_ten_times_the_price(
    setting: compilation.CompileSetting, flops: float, device: torch.device, threads: int, wanted: bool
) -> None:
    assert compilation.chosen(setting, flops, device, threads) is wanted


@pytest.mark.parametrize("text, wanted", [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_yaml_means_the_setting_by_its_booleans(text: str, wanted: str) -> None:
    parsed = config.parse(f"cluster: {{compile: {text}}}".encode(), "file")
    assert parsed.cluster.compile == wanted
    assert config.parse(config.to_yaml(parsed).encode(), "file") == parsed


def test_other_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="^cluster.compile: .*'auto', 'on' or 'off', got 'yes please'"):
        config.parse(b"cluster: {compile: yes please}", "file")
    with pytest.raises(ConfigError, match="^cluster.pack: must be at least 1, is 0"):
        config.parse(b"cluster: {pack: 0}", "file")


def flat(modules: tuple[nn.Module, ...]) -> Tensor:
    return torch.cat([parameter.detach().flatten() for module in modules for parameter in module.parameters()])


def trained(network: NetworkConfig, recipe: Recipe, compiled: bool, members: int = 1, epochs: int = 1) -> Training:
    """On images whose last batch is a smaller one."""
    keys = [Key.root(number) for number in range(members)]
    modules = []
    for key in keys:
        with seeded(key):
            modules.append(networks.build(network, (1, 8, 8), len(CLASSES)))
    images, targets = randn(1, NUM_IMAGES, 1, 8, 8, dtype=torch.float32), torch.arange(NUM_IMAGES) % len(CLASSES)
    running = Training(modules, images, targets, recipe, keys, compiled=compiled)
    for epoch in range(epochs):
        running.run_epoch(epoch)
    return running


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the sizes of the batches that are given to compiled code, and leaves them uncompiled."""
    sizes: list[int] = []

    def counted(network: nn.Module, images: Tensor, targets: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        sizes.append(images.shape[-4])
        return loop.measure(network, images, targets, *rest, **named)

    monkeypatch.setattr(loop, "_compiled_measure", lambda: counted)
    return sizes


def test_a_compiled_epoch_is_the_same_to_rounding(caplog: pytest.LogCaptureFixture) -> None:
    network, recipe = NetworkConfig(name="mlp"), replace(RECIPE, batch_size=NUM_IMAGES)
    found, wanted = (flat(trained(network, recipe, compiled).modules) for compiled in (True, False))
    assert not [record for record in caplog.records if record.name == "raydd.core.compilation"]
    assert float((found - wanted).abs().max()) < 1e-5
    assert torch.equal(flat(trained(network, recipe, True).modules), found)


@pytest.mark.parametrize(
    "batch_size, sizes", [(50, [20]), (20, [20]), (16, [16, 4]), (2, [2] * 10), (1, [1] * 20), (3, [3] * 6 + [2])]
)
def test_which_batches_are_compiled(batch_size: int, sizes: list[int], given: list[int]) -> None:
    trained(NetworkConfig(name="mlp"), replace(RECIPE, batch_size=batch_size), True)
    assert given == sizes
    given.clear()
    trained(NetworkConfig(name="mlp"), replace(RECIPE, batch_size=batch_size), False)
    assert not given


def test_the_last_of_many_batches_is_not_compiled(given: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "FEW_STEPS", 5)
    trained(NetworkConfig(name="mlp"), replace(RECIPE, batch_size=3), True)
    assert given == [3] * 6


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("rho", [0.0, 0.05])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_compiled_convnets(norm: str, rho: float, members: int) -> None:
    network, recipe = replace(tiny.NETWORK, norm=norm), replace(RECIPE, gsam_rho=rho, batch_size=NUM_IMAGES)
    found, wanted = (trained(network, recipe, compiled, members) for compiled in (True, False))
    assert float((flat(found.modules) - flat(wanted.modules)).abs().max()) < 1e-5
    for module, other in zip(found.modules, wanted.modules, strict=True):
        for name, buffer in other.named_buffers():
            torch.testing.assert_close(module.get_buffer(name), buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_compiled_soft_labels_at_a_temperature() -> None:
    images, labels = randn(1, NUM_IMAGES, 1, 8, 8, dtype=torch.float32), randn(2, NUM_IMAGES, 3, dtype=torch.float32)
    ends = []
    for compiled, temperature in ((True, 20.0), (False, 20.0), (True, 1.0)):
        with seeded(Key.root(0)):
            module = networks.build(NetworkConfig(name="mlp"), (1, 8, 8), 3)
        recipe = Recipe(epochs=1, lr=0.5, batch_size=NUM_IMAGES, augmentation="none", temperature=temperature)
        Training([module], images, 5 * labels, recipe, [Key.root(0)], compiled=compiled).run_epoch(0)
        ends.append(flat((module,)))
    assert float((ends[0] - ends[1]).abs().max()) < 1e-6 < 1e-3 < float((ends[0] - ends[2]).abs().max())


def shared(compiled: bool) -> Results:
    with seeded(Key.root(0)):
        module = networks.build(replace(tiny.NETWORK, norm="batch"), (1, 8, 8), len(CLASSES))
    images, targets = randn(1, NUM_IMAGES, 1, 8, 8, dtype=torch.float32), torch.arange(NUM_IMAGES) % len(CLASSES)
    running = Training([module], images, targets, RECIPE, [Key.root(0)], compiled=compiled, shared=True)
    running.run_epoch(0)
    return running.state_dicts()[0]


@pytest.mark.slow
def test_compiled_steps_that_workers_share() -> None:
    (found, other), (wanted, _) = (tiny.on_workers(2, shared, compiled) for compiled in (True, False))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        assert torch.equal(found[name], other[name])


@pytest.mark.slow
def test_compiled_training_goes_on_exactly() -> None:
    whole = trained(tiny.NETWORK, RECIPE, True, epochs=3)
    half = trained(tiny.NETWORK, RECIPE, True, epochs=1)
    resumed = trained(tiny.NETWORK, RECIPE, True, epochs=0)
    resumed.load_state_dicts(half.state_dicts())
    for epoch in (1, 2):
        resumed.run_epoch(epoch)
    assert torch.equal(flat(resumed.modules), flat(whole.modules))


def test_without_a_compiler_training_goes_on_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled = compilation.compiled(loop.measure)
    monkeypatch.setattr(loop, "_compiled_measure", lambda: compiled)
    network = NetworkConfig(name="mlp")
    recipe = replace(RECIPE, batch_size=7)  # for which nothing was compiled before
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        caplog.at_level(logging.WARNING),
    ):
        found = trained(network, recipe, True, epochs=2)
    wanted = trained(network, recipe, False, epochs=2)
    assert torch.equal(flat(found.modules), flat(wanted.modules))
    (said,) = (record for record in caplog.records if record.name == "raydd.core.compilation")
    assert "cannot compile here, so this goes on uncompiled (cluster.compile: off)" in said.getMessage()
