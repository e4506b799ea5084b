"""What KIP leaves behind: `.npz` with `images` [N, H, W, C] and `labels` [N, K], centred and learned.

(`x` and `y` are taken for these names, too.) KIP whitens in a way of its own, which raydd does not have; sets that were
learned without whitening are standardised images.

Letters: N images, K classes, C H W.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from raydd.core.errors import DataError
from raydd.data.prepared import PreparedData
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign
from raydd.exchange.tensor_files import array, only, require_unpacked
from raydd.storage.foreign_files import guarded_file

_NAMES = {"images": ("images", "x"), "labels": ("labels", "y")}


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The set of a file, or of the only one in a folder.

    Raises:
        DataError: there is no such file, or it is not what it should be.
    """
    file = only(source, "*.npz")
    with guarded_file(file, "an .npz file of plain arrays"):
        require_unpacked(file)
        with np.load(file, allow_pickle=False) as content:
            found = {name: _array(content, name, file) for name in _NAMES}
    images = found["images"]
    if images.ndim != 4:
        raise DataError(f"{file}: images: have the shape {list(images.shape)}, not [N, H, W, C]")
    part = Foreign(
        where=f"{file}: images",
        images=images.permute(0, 3, 1, 2),
        labels=found["labels"],
        labels_where=f"{file}: labels",
        files=(file,),
        kind="centred",
    )
    return [part]


def _array(content: "np.lib.npyio.NpzFile", name: str, file: Path) -> Tensor:
    key = next((key for key in _NAMES[name] if key in content.files), None)
    if key is None:
        known = " or ".join(_NAMES[name])
        raise DataError(f"{file}: has no array {known}, only {', '.join(content.files) or 'nothing'}")
    return array(content[key], f"{file}: {key}")
