"""Export of the student that a run has kept, for a device: its parameters, and programs that take pixels.

`student.safetensors` holds parameters and buffers by the network's own names. The programs are `student.pt2`, of
`torch.export` (`torch.export.load(...).module()`), and `student.pt`, TorchScript (`torch.jit.load`, in Python, C++ or
on a phone): float32 [B, C, H, W] of pixels in [0, 1] in, logits [B, K] out, for any B.
"""

import json
import warnings
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from raydd.core.errors import ArtefactError
from raydd.core.version import __version__
from raydd.evaluation.students.kept import KIND, PARAMETERS, KeptStudent
from raydd.exchange.card import CARD
from raydd.exchange.whole_folder import new_folder
from raydd.storage import Folder

STUDENT: Final = "student"
"""How the command line calls this export."""
PROGRAM: Final = "student.pt2"
TORCHSCRIPT: Final = "student.pt"


def export_student(folder: Folder, to: Folder) -> KeptStudent:
    """Write the student that a run has kept.

    Args:
        folder: the run.
        to: the folder to make, locally or in an object store; must not exist, or be empty. It appears as a whole.

    Returns:
        What was exported.

    Raises:
        ArtefactError: the run has kept none, or it is damaged.
        UserError: `to` holds something or cannot be written; nothing was.
    """
    if not (folder / KIND).has("manifest.json"):
        raise ArtefactError(
            f"{folder.uri}: no student was kept here; set evaluate.keep to best (with a data.validation_fraction) and "
            "run `raydd evaluate` again"
        )
    with new_folder(to, last=CARD) as place:
        student = KeptStudent.load(folder / KIND)
        _write(student, place)
    return student


def _write(student: KeptStudent, folder: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in student.parameters.items()}, folder / PARAMETERS)
    module, pixels = student.module().requires_grad_(False), torch.zeros(2, *student.shape)
    program = torch.export.export(module, (pixels,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, folder / PROGRAM)
    with warnings.catch_warnings(
        action="ignore"
    ):  # that TorchScript is deprecated, and what tracing takes for constant
        torch.jit.save(torch.jit.trace(module, pixels), str(folder / TORCHSCRIPT))
    card = {
        "format": STUDENT,
        "versions": {"raydd": __version__, "torch": torch.__version__},
        "network": student.network.identity(),
        "image_shape": list(student.shape),
        "class_names": list(student.class_names),
        "input": "float32 [B, C, H, W], pixels in [0, 1]",
        "output": "float32 [B, K], logits in the order of class_names",
        "student": dict(student.about),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")
