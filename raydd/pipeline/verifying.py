"""Whether everything below a folder is as it was written: artefacts, records, and what unfinished work goes on from."""

from collections.abc import Iterator
from typing import Final

from raydd.core.errors import ArtefactError
from raydd.evaluation import records
from raydd.storage import Artefact, Folder, self_checked, verify_below

_RAYS: Final = "ray"
"""The folder in `work` that Ray keeps for itself."""


def verify(folder: Folder) -> list[str]:
    """Check every sha256, name and schema below a run's folder, a sweep's, or any other; returns what was checked.

    Raises:
        ArtefactError: naming the first file that is not as it was written, or is another's under its name.
    """
    found = verify_below(folder)
    places = [(place.uri, _records(place), _states(place)) for place in _all_below(folder)]
    found += [f"{uri}, {_many(count, 'record')}" for uri, count, _ in places if count]
    found += [f"{uri}, {_many(count, 'part')} of unfinished work" for uri, _, count in places if count]
    if not found:
        raise ArtefactError(f"{folder.uri}: there is nothing here that raydd has made and can check")
    return found


def _records(folder: Folder) -> int:
    for table in (records.read(folder / "results"), records.read_probes(folder / "results")):
        records.require_own(folder, table)
    return records.verify(folder)


def _states(folder: Folder) -> int:
    """The number of files that say their own digest, and are as they were written."""
    artefact = Artefact.find(folder)
    names = {*folder.files()} - (set() if artefact is None else artefact.manifest.stored)
    return sum(self_checked.verify(folder, name) for name in sorted(names))


def _all_below(folder: Folder) -> Iterator[Folder]:
    yield folder
    for name in folder.folders():
        if name != _RAYS:
            yield from _all_below(folder / name)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
