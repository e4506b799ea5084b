"""The distillation methods: one file each, and the union that is their registry."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, Union

from pydantic import Discriminator

from raydd.core.plugins import METHODS, plugins
from raydd.methods.base import Method, Start, Task
from raydd.methods.bilevel.frepo import FRePoConfig
from raydd.methods.condensation.dc import DCConfig, DSAConfig
from raydd.methods.condensation.dm import DMConfig
from raydd.methods.condensation.idc import IDCConfig
from raydd.methods.coreset import CoresetConfig
from raydd.methods.decoupled.cda import CDAConfig
from raydd.methods.decoupled.delt import DELTConfig
from raydd.methods.decoupled.fadrm import FADRMConfig
from raydd.methods.decoupled.rded import RDEDConfig
from raydd.methods.decoupled.sre2l import SRe2LConfig
from raydd.methods.decoupled.wmdd import WMDDConfig
from raydd.methods.imported import ImportedConfig
from raydd.methods.trajectory.datm import DATMConfig
from raydd.methods.trajectory.ftd import FTDConfig
from raydd.methods.trajectory.mtt import MTTConfig

OWN: Final = (
    MTTConfig,
    FTDConfig,
    DATMConfig,
    DELTConfig,
    CDAConfig,
    SRe2LConfig,
    RDEDConfig,
    FADRMConfig,
    WMDDConfig,
    DCConfig,
    DSAConfig,
    DMConfig,
    IDCConfig,
    FRePoConfig,
    CoresetConfig,
    ImportedConfig,
)
"""raydd's own methods."""

if TYPE_CHECKING:
    MethodConfig = (
        MTTConfig
        | FTDConfig
        | DATMConfig
        | DELTConfig
        | CDAConfig
        | SRe2LConfig
        | RDEDConfig
        | FADRMConfig
        | WMDDConfig
        | DCConfig
        | DSAConfig
        | DMConfig
        | IDCConfig
        | FRePoConfig
        | CoresetConfig
        | ImportedConfig
    )
else:
    MethodConfig = Annotated[Union[(*OWN, *(plugin.added for plugin in plugins(METHODS)))], Discriminator("name")]
"""Any method's configuration, told apart by `name`: raydd's own, and those that other packages add."""

__all__ = [
    "CDAConfig",
    "CoresetConfig",
    "DATMConfig",
    "DCConfig",
    "DELTConfig",
    "DMConfig",
    "DSAConfig",
    "FADRMConfig",
    "FRePoConfig",
    "FTDConfig",
    "IDCConfig",
    "ImportedConfig",
    "MTTConfig",
    "Method",
    "MethodConfig",
    "OWN",
    "RDEDConfig",
    "SRe2LConfig",
    "Start",
    "Task",
    "WMDDConfig",
    "method_identity",
]


def method_identity(method: MethodConfig) -> dict[str, Any]:
    """What of a method determines its images, for content keys.

    Not where an imported set lies, `repeat_images` only where it is asked for, and a kind of labels only where it is
    another than logits.
    """
    values = asdict(method)
    unsaid = {"path"} if method.repeat_images else {"path", "repeat_images"}
    if values.get("label_kind") == "logits":
        unsaid |= {"label_kind"}
    return {name: value for name, value in values.items() if name not in unsaid} | method.revision
