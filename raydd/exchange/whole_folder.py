"""A folder that appears as a whole or not at all, on a local disk; in an object store one file is the last."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raydd.core.errors import UserError
from raydd.storage import Folder
from raydd.storage.cache import cache_folder
from raydd.storage.local import explained, publish, sweep, temporary


@contextmanager
def new_folder(target: Folder, last: str) -> Iterator[Path]:
    """Yield an empty local folder to be filled; on leaving it becomes `target`, and nothing on an error.

    On a local disk it lies hidden beside the target and gets its name when all of its files are on the disk. An object
    store has no folders to rename: there the files are uploaded one by one, `last` as the last one, so that the target
    is complete where that file is; what was uploaded goes again if a later file cannot be.

    Args:
        target: must not exist, or be empty.
        last: the name of a file directly inside.

    Raises:
        UserError: there is something at the target, or it cannot be written; then nothing was.
    """
    _require_free(target)
    parent = target.path.parent if target.is_local else cache_folder()
    name = target.path.name if target.is_local else "export"
    with temporary(parent, name, target.uri) as filled:
        try:
            with explained(str(parent)):
                filled.mkdir()
            yield filled
            if target.is_local:
                with explained(target.uri):
                    os.sync()
                    publish(filled, target.path)
                    sweep(parent)
            else:
                _upload(filled, target, last)
        finally:
            shutil.rmtree(filled, ignore_errors=True)


def _require_free(target: Folder) -> None:
    target.check_writable()
    taken = any(target.path.iterdir()) if target.is_local and target.exists() else target.exists()
    if taken:
        raise UserError(f"{target.uri}: exists and is not empty; choose another folder, or delete this one")


def _upload(filled: Path, target: Folder, last: str) -> None:
    files = [path.relative_to(filled) for path in filled.rglob("*") if path.is_file()]
    begun: list[tuple[Folder, str]] = []
    try:
        for file in sorted(files, key=lambda file: (file == Path(last), file)):
            folder = target if file.parent == Path() else target / file.parent.as_posix()
            begun.append((folder, file.name))
            with folder.writing(file.name) as path:
                shutil.copyfile(filled / file, path)
    except BaseException:
        with suppress(UserError):
            for folder, name in begun:
                folder.delete(name)
        raise
