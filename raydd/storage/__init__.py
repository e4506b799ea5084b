"""Every byte that raydd reads or writes passes here.

`Folder` is a place on a local disk or in an object store, `Artefact` a set of files that exists as a whole or not at
all. What holds on both kinds of place:

- A file appears under its name complete or not at all, whatever kills the writer.
- An artefact exists from the moment its manifest is written, which is the single last write.
- A run folder has one holder at a time, and a holder that dies is succeeded without anybody's help.
- What the system refuses (no space, no permission, no such bucket) ends in a `UserError` that names the file.
"""

from raydd.storage.artefact import (
    JSON,
    Artefact,
    ArtefactWriter,
    FileEntry,
    Manifest,
    content_key,
    new_artefact,
    stored_bytes,
    verify_below,
)
from raydd.storage.folder import Folder

__all__ = [
    "JSON",
    "Artefact",
    "ArtefactWriter",
    "FileEntry",
    "Folder",
    "Manifest",
    "content_key",
    "new_artefact",
    "stored_bytes",
    "verify_below",
]
