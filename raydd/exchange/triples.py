"""What trajectory matching leaves behind: `images_*.pt`, `labels_*.pt` and mostly `lr_*.pt`.

MTT, FTD and TESLA write classes, DATM, PAD and EDF label logits; all of them images in the space of their networks,
class-major. MTT does not save the learned step size. `images_zca_*.pt` is a copy with the whitening undone, for
viewing.

Letters: N images, K classes, C H W.
"""

from pathlib import Path

from raydd.core.errors import DataError
from raydd.data.prepared import PreparedData
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign
from raydd.exchange.tensor_files import load_pt, number, tensor
from raydd.storage.foreign_files import require_file

_LR = ("lr", "syn_lr")


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The set in a folder, or the one whose file of images is named."""
    return [read_one(images_file(source))]


def read_one(file: Path) -> Foreign:
    """The set whose images a file has: labels and step size lie beside it under the same ending.

    Raises:
        DataError: a file is missing or is not what it should be.
    """
    ending = file.name.removeprefix("images")
    labels_file = file.with_name(f"labels{ending}")
    if not labels_file.is_file():
        raise DataError(f"{labels_file}: there are no labels beside {file.name}; put both into one folder")
    lr_file = next((found for name in _LR if (found := file.with_name(f"{name}{ending}")).is_file()), None)
    lr = None if lr_file is None else number(load_pt(lr_file), str(lr_file))
    return Foreign(
        where=str(file),
        images=tensor(load_pt(file), str(file)),
        labels=tensor(load_pt(labels_file), str(labels_file)),
        labels_where=str(labels_file),
        files=(file, labels_file, *([] if lr_file is None else [lr_file])),
        learned_lr=lr,
    )


def images_file(source: Path) -> Path:
    """The file of images: the one named, or in a folder the best, else the last, else the only one.

    Raises:
        DataError: there is none, there are several, or it is the copy for viewing.
    """
    if not source.is_dir():
        require_file(source)
        return _for_training(source)
    for name in ("images_best.pt", "images.pt"):
        if (source / name).is_file():
            return source / name
    found = sorted(source.glob("images_*.pt"))
    real = [file for file in found if "zca" not in file.stem]
    if found and not real:
        return _for_training(found[0])
    if len(real) != 1:
        names = ", ".join(file.name for file in real) or "none"
        raise DataError(f"{source}: needs images_best.pt, images.pt or one images_*.pt (found: {names}); name the file")
    return real[0]


def _for_training(file: Path) -> Path:
    if not file.name.startswith("images"):
        raise DataError(f"{file}: name the file of the images, such as images_best.pt; its labels are found beside it")
    if "zca" in file.stem:
        raise DataError(
            f"{file}: is a copy for viewing, whose whitening was undone; networks were trained on the images of "
            f"{file.name.replace('_zca', '')}: name this"
        )
    return file
