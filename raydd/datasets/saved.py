"""A prepared copy of a dataset: decoded once, then mapped into memory by every worker of a node.

An artefact of kind `data` with one safetensors file. Its pages are in the page cache once, however many processes
read them.
"""

import json

from safetensors import safe_open
from safetensors.torch import save_file

from raydd.datasets.images import ImageSet, Splits
from raydd.storage import Artefact, Folder, new_artefact

_FILE = "data.safetensors"
_SPLITS = ("train", "test", "validation")


def save(splits: Splits, folder: Folder, key: str) -> None:
    """Write the splits to `folder` as an artefact under `key`."""
    present = {split: images for split in _SPLITS if (images := getattr(splits, split)) is not None}
    tensors = {f"{split}.images": images.images.contiguous() for split, images in present.items()}
    tensors |= {f"{split}.labels": images.labels for split, images in present.items()}
    about = {"name": splits.train.name, "class_names": json.dumps(splits.train.class_names)}
    with new_artefact(folder, "data", key) as artefact, artefact.writing(_FILE) as path:
        save_file(tensors, path, about)


def open_saved(folder: Folder) -> Splits | None:
    """The splits that `save` left in `folder`, or None where it did not finish.

    The tensors are views of the mapped file: nothing is read before it is used.

    Raises:
        ArtefactError: the artefact is damaged or of another kind.
    """
    artefact = Artefact.find(folder, "data")
    if artefact is None:
        return None
    with safe_open(artefact.local(_FILE), framework="pt") as file:
        about, names = file.metadata(), set(file.keys())
        class_names = tuple(json.loads(about["class_names"]))
        sets = {
            split: ImageSet(
                file.get_tensor(f"{split}.images"), file.get_tensor(f"{split}.labels"), class_names, about["name"]
            )
            for split in _SPLITS
            if f"{split}.images" in names
        }
    return Splits(sets["train"], sets["test"], sets.get("validation"))
