"""Files that are added to while work goes on: curves and logs, which are read before they are complete."""

import logging
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from raydd.core.errors import UserError
from raydd.storage.folder import Folder
from raydd.storage.local import explained, make_folder

SECONDS: Final = 10.0
"""From one upload to the next."""

_log = logging.getLogger(__name__)


class GrowingFolder:
    """A folder whose files are opened by their local paths and grow.

    On a local disk they lie where they belong. Objects in a store cannot be added to: there, files grow in a temporary
    folder, from which those that have changed are uploaded every ten seconds and at the end. What cannot be uploaded
    stops nothing: it is tried again, and a warning says so at the end.
    """

    def __init__(self, folder: Folder, seconds: float = SECONDS) -> None:
        """Begin; nothing is written yet. Uploads are so many seconds apart."""
        self._folder, self._seconds = folder, seconds
        self._temporary = None if folder.is_local else TemporaryDirectory(prefix="raydd-")
        self.path = folder.path if self._temporary is None else Path(self._temporary.name)
        self._uploaded: dict[Path, tuple[int, int]] = {}
        self._over = threading.Event()
        self._uploader = threading.Thread(target=self._upload_now_and_then, daemon=True)
        if self._temporary is not None:
            self._uploader.start()

    def file(self, name: str) -> Path:
        """The path of a file to be added to, in a folder that is there; `a/b` lies one level down.

        Raises:
            UserError: the disk refuses.
        """
        folder, _, plain = name.rpartition("/")
        target, path = self._folder / folder if folder else self._folder, self.path / name
        with explained((target / plain).uri):
            make_folder(path.parent)
            if self._temporary is not None and not path.exists() and target.has(plain):
                path.write_bytes(target.read(plain))
        return path

    def close(self) -> None:
        """Have everything where it belongs."""
        if self._temporary is None:
            return
        self._over.set()
        self._uploader.join()
        try:
            self._upload()
        except UserError as error:
            _log.warning("%s is not complete: %s", self._folder.uri, error)
        self._temporary.cleanup()

    def _upload_now_and_then(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                self._upload()
            except UserError as error:
                _log.info("%s: tried again in %g s: %s", self._folder.uri, self._seconds, error)

    def _upload(self) -> None:
        for path in sorted(self.path.rglob("*")):
            if path.is_file() and self._uploaded.get(path) != (now := _state(path)):
                below = path.relative_to(self.path)
                folder = self._folder if below.parent == Path() else self._folder / below.parent.as_posix()
                with folder.writing(path.name) as upload:
                    shutil.copyfile(path, upload)
                self._uploaded[path] = now


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
