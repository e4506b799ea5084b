"""Whether a network fits a distilled set, before anything is trained or measured."""

import torch
from torch import Tensor, nn

from raydd.core.errors import ConfigError


@torch.no_grad()
def require_fit(network: nn.Module, images_MCHW: Tensor, num_classes: int) -> None:
    """Show a network two images, without a trace.

    Args:
        network: from images to logits, on any device.
        images_MCHW: float32, in network space.
        num_classes: K.

    Raises:
        ConfigError: it does not take images of this shape, or does not answer with a logit for each class.
    """
    shape, training = tuple(images_MCHW.shape[1:]), {module: module.training for module in network.modules()}
    parameter = next(network.parameters(), None)
    try:
        logits = network.eval()(images_MCHW[[0, -1]].to("cpu" if parameter is None else parameter.device))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        problem = f"does not take the set's images, {shape[0]} x {shape[1]} x {shape[2]} (channels, height, width)"
        raise ConfigError("network", f"{problem}: {first}") from error
    finally:
        for module, was in training.items():
            module.training = was
    if not isinstance(logits, Tensor):
        raise ConfigError("network", f"answers with a {type(logits).__name__}, not with a tensor of logits")
    if tuple(logits.shape) != (2, num_classes):
        raise ConfigError(
            "network",
            f"answers two images with {tuple(logits.shape)}, and not with {(2, num_classes)}: "
            f"the set has {num_classes} classes, so let its last layer have {num_classes} outputs",
        )
