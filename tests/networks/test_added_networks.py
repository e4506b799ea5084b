"""Networks of other packages, as configs and tables see them."""

from collections.abc import Iterator

import pytest
import torch

from raydd.core.errors import ConfigError
from raydd.networks import build
from raydd.networks.config import NetworkConfig
from tests.support import plugins


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example package."""
    yield from plugins.installed(plugins.FOLDER, monkeypatch)


def test_it_is_built_named_and_identified() -> None:
    config = NetworkConfig(name="shallow", width=3)
    assert build(config, (1, 9, 9), 5)(torch.randn(2, 1, 9, 9)).shape == (2, 5)
    assert config.label == "shallow-w3" and not config.has_batch_norm and not config.is_usual
    assert config.identity() == {"name": "shallow", "width": 3, "depth": 3, "norm": "instance"}
    assert config.traits.student_lr == 2e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, r"^network\.norm: .*shallow takes instance$"),
        ({"pooling": "max"}, r"^network\.pooling: .*shallow takes avg$"),
        ({"stem": "small"}, r"^network\.stem: .*shallow takes auto$"),
        ({"name": "shalow"}, r"'shalow' is not one of convnet, .*, shallow; did you mean shallow\?"),
    ],
)
def test_what_it_does_not_have_is_refused(changes: dict[str, str], message: str) -> None:
    values = {"name": "shallow", **changes}
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**values)  # type: ignore[arg-type]


def test_images_too_small_for_it_are_refused() -> None:
    with pytest.raises(ConfigError, match="shallow needs images of at least 4x4, not 3x3"):
        build(NetworkConfig(name="shallow"), (1, 3, 3), 2)
