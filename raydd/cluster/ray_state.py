"""Where Ray keeps what it knows of a job."""

from typing import Any

from raydd.storage import Folder


def kept_in(folder: Folder) -> dict[str, Any]:
    """What a RunConfig of Train or Tune is told to keep its state in a folder; a store is as patient as raydd is."""
    filesystem, path = folder.location
    return {"storage_path": path, "storage_filesystem": None if folder.is_local else filesystem}
