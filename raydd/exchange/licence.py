"""The licence of a distilled set: asked for once, and kept beside the set from then on.

Distilled images are made of real ones, whose licence raydd cannot know.
"""

import json
import re
from typing import Final

from raydd.core.errors import ConfigError
from raydd.storage import Folder

LICENCE: Final = "license.txt"
UNKNOWN: Final = "unknown"
"""What cards say where nobody has named one."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


def licence_of(folder: Folder) -> str | None:
    """What was said of the set in a run's folder, or in an export: None where nothing was."""
    if folder.has(LICENCE):
        return folder.read(LICENCE).decode().strip() or None
    if not folder.has("card.json"):
        return None
    try:
        card = json.loads(folder.read("card.json"))
    except ValueError:
        return None
    said = card.get("license") if isinstance(card, dict) else None
    return None if said in (None, UNKNOWN) else str(said)


def remember(folder: Folder, name: str) -> None:
    """Keep it for the next export."""
    if licence_of(folder) != name:
        folder.write(LICENCE, f"{name}\n".encode())


def checked(name: str) -> str:
    """The name, which is in small letters on the Hub.

    Raises:
        ConfigError: it is no name of a licence.
    """
    if not _NAME.fullmatch(name):
        problem = f"{name!r} is no name of a licence; the Hub has mit, apache-2.0, cc-by-4.0, cc0-1.0, other and more"
        raise ConfigError("license", problem)
    return name.lower()
