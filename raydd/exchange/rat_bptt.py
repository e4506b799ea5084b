"""What RaT-BPTT leaves behind: HDF5 with `data` [N, C H W], and `label` [N, K] where labels were learned.

Without labels the images are class-major. `epoch` is the outer epoch of the set that is kept.

Letters: N images, K classes, C H W.
"""

import importlib
import math
from pathlib import Path
from typing import Any

from raydd.core.errors import DataError, UserError
from raydd.data.prepared import PreparedData
from raydd.exchange.answers import Answers
from raydd.exchange.foreign import Foreign
from raydd.exchange.tensor_files import array, only
from raydd.storage.foreign_files import guarded_file, require_room


def read(source: Path, data: PreparedData, answers: Answers) -> list[Foreign]:
    """The set of a file, or of the only one in a folder.

    Raises:
        UserError: h5py is not installed.
        DataError: there is no such file, or it is not what it should be.
    """
    h5py = _library()
    file = only(source, "*.h5", "*.hdf5")
    with guarded_file(file, "an HDF5 file"), h5py.File(file, "r") as content:
        names = [name for name in ("data", "label", "epoch") if content.get(name, getlink=True) is not None]
        found = {name: _values(content, name, f"{file}: {name}", h5py) for name in names}
    if "data" not in found:
        raise DataError(f"{file}: has no dataset `data`, as RaT-BPTT's files have")
    flat, values = array(found["data"], f"{file}: data"), math.prod(data.shape)
    if flat.ndim != 2 or flat.shape[1] != values:
        channels, height, width = data.shape
        raise DataError(
            f"{file}: data: has the shape {list(flat.shape)}, and the dataset needs [N, {values}] (flattened "
            f"{channels}x{height}x{width}); correct data.source or data.image_size in the configuration"
        )
    part = Foreign(
        where=f"{file}: data",
        images=flat.view(-1, *data.shape),
        labels=array(found["label"], f"{file}: label") if "label" in found else None,
        labels_where=f"{file}: label",
        files=(file,),
        facts={"epoch": int(found["epoch"])} if "epoch" in found else {},
    )
    return [part]


def _values(content: Any, name: str, where: str, h5py: Any) -> Any:
    """The array of a dataset that lies in the file itself, and is as large there as it says."""
    if not isinstance(content.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{where}: is a link, which raydd does not follow; give the file that holds the dataset itself")
    found = content[name]
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{where}: is a group, not a dataset")
    if found.external or found.is_virtual:
        raise DataError(f"{where}: lies in other files, which raydd does not open; write it into this one")
    require_room(found.nbytes, found.id.get_storage_size(), where)
    return found[()]


def _library() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise UserError(
            "--format rat_bptt: reads HDF5 with h5py, which is not here: pip install raydd[hdf5]"
        ) from error
