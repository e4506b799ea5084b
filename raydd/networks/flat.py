"""A network whose parameters are one vector.

Letters: B images, K classes, C H W, P flat parameters.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call


class FlatNetwork:
    """A network as a function of one flat parameter vector.

    The order is that of `module.named_parameters()`; buffers keep the module's values.
    """

    def __init__(self, module: nn.Module) -> None:
        """Wrap `module`, whose own parameters serve as names, shapes and first values."""
        self.module = module.requires_grad_(False)
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        self._sizes = [p.numel() for p in module.parameters()]
        self.size = sum(self._sizes)

    @property
    def device(self) -> torch.device:
        """Where the module lies."""
        return next(self.module.parameters()).device

    def flat(self) -> Tensor:
        """The module's own parameters as a new vector [P]."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])

    def unflatten(self, params_P: Tensor) -> dict[str, Tensor]:
        """Views of the vector [P] under the names and shapes of the module's parameters."""
        pieces = params_P.split(self._sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def __call__(self, params_P: Tensor, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K] of the images under the parameters [P]; differentiable in both, to any order."""
        logits: Tensor = functional_call(self.module, self.unflatten(params_P), (images_BCHW,))
        return logits
