"""CDA: curriculum data augmentation (Yin and Shen, TMLR 2024, https://arxiv.org/abs/2311.18838).

SRe2L with crops that are whole images at first and become smaller as the run goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from raydd.methods.decoupled.sre2l import SpreadConfig


@dataclass(frozen=True, kw_only=True)
class CDAConfig(SpreadConfig):
    """CDA; the defaults are the published ones for ImageNet-1K. At real images with `init: medium` or `random`."""

    usual: ClassVar[Mapping[str, Any]] = {"protocol": "cda"}
    name: Literal["cda"] = "cda"
