"""The distillation methods: one file each, and the union that is their registry."""

from typing import Annotated

from pydantic import Discriminator

from raydd.methods.base import Method, Start, Task
from raydd.methods.datm import DATMConfig
from raydd.methods.ftd import FTDConfig
from raydd.methods.mtt import MTTConfig

MethodConfig = Annotated[MTTConfig | FTDConfig | DATMConfig, Discriminator("name")]
"""Any method's configuration, told apart by `name`."""

__all__ = ["DATMConfig", "FTDConfig", "MTTConfig", "Method", "MethodConfig", "Start", "Task"]
