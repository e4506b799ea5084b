"""What trajectory matching labels its images with.

Letters: M synthetic images, K classes.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageLabels:
    """What the images are labelled with, and how that is learned."""

    classes_M: Tensor
    soft_MK: Tensor | None = None
    """Their label logits; None matches with hard labels, unless labels are assigned."""
    lr: float | None = None
    """The rate at which the label logits are learned; None leaves them as they are."""
    momentum: float = 0.0
    assigned: bool = False
    """Whether the labels of an iteration are what the end of its expert segment says of the images."""

    @property
    def are_soft(self) -> bool:
        """Whether images are matched with label logits."""
        return self.assigned or self.soft_MK is not None
