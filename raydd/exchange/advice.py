"""What to do with a folder that holds no distilled set, though somebody took it for one."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Final

from raydd import config as configs
from raydd.core.errors import UserError
from raydd.data.image_files import image_files
from raydd.storage import Folder

MOST_NAMED: Final = 5
_FOREIGN: Final = {".pt": "pt", ".npz": "kip", ".h5": "rat_bptt", ".hdf5": "rat_bptt"}
_TENSORS: Final = {".npy", ".parquet", ".safetensors"}


def instead(folder: Folder) -> str:
    """A few words on what the folder is, and what to take or do in its place."""
    looks: tuple[Callable[[Folder], str | None], ...] = (
        *(_file, _nothing, _export, _auto, _sweep, _unfinished, _several),
        *(_images, _foreign, _other_files),
    )
    for look in looks:
        with suppress(UserError, ValueError):
            if found := look(folder):
                return found
    return "name a run's folder, or what `raydd export --format parquet` wrote"


def _file(folder: Folder) -> str | None:
    if not folder.is_local or not folder.path.is_file():
        return None
    kind = _FOREIGN.get(folder.path.suffix.lower())
    more = f"; `raydd import {folder.path.parent} --format {kind} ...` takes over what other code wrote" if kind else ""
    return f"this is a file; name the folder of a run{more}"


def _nothing(folder: Folder) -> str | None:
    return None if folder.exists() else "there is no such folder"


def _export(folder: Folder) -> str | None:
    if not folder.has("card.json"):
        return None
    card = json.loads(folder.read("card.json"))
    form = card.get("format") if isinstance(card, dict) else None
    if form == "student":
        return "this is the export of a student, which is a network: torch.export.load opens its student.pt2"
    if form not in ("pt", "imagefolder"):
        return None
    run = (card.get("source") or {}).get("run")
    where = f"the run ({run})" if run else "the run"
    return (
        f"this is an export as {form}, for use without raydd, as its README.md says; load {where} that it was made of, "
        f"or `raydd export` that as parquet, or take this back by `raydd import {folder.uri} --format {form} ...`"
    )


def _auto(folder: Folder) -> str | None:
    if not folder.has("auto.json"):
        return None
    if not folder.has("best.yaml"):
        return "`raydd auto` has not finished here"
    return f"this is what `raydd auto` wrote; name {configs.load(f'{folder.uri}/best.yaml').out}, which it chose"


def _sweep(folder: Folder) -> str | None:
    if not folder.has("points.json"):
        return None
    run = PurePosixPath(folder.uri).parent.parent
    best = f", and {folder.uri}/best.yaml is the config of the best point: `raydd run` it" * folder.has("best.yaml")
    return f"this is a sweep; its distilled set is that of the run {run}{best}"


def _unfinished(folder: Folder) -> str | None:
    if not folder.has("config.yaml"):
        return None
    return f"this run has no distilled set yet; `raydd run {folder.uri}/config.yaml` makes it, or goes on with it"


def _several(folder: Folder) -> str | None:
    names = [f"{folder.uri}/{name}" for name in _with_sets(folder)]
    for inner in folder.folders()[: 4 * MOST_NAMED] if not names else []:
        names += [f"{folder.uri}/{inner}/{name}" for name in _with_sets(folder / inner)]
    if not names and any((folder / name).has("config.yaml") for name in folder.folders()):
        return "this folder holds runs, of which none has a distilled set yet"
    return f"this folder holds runs; {_one_of(names)}" if names else None


def _images(folder: Folder) -> str | None:
    inside = folder.folders()[:MOST_NAMED]
    deeper = [folder / name / inner for name in inside for inner in (folder / name).folders()[:1]]
    if not any(image_files(found) for found in [folder, *(folder / name for name in inside), *deeper]):
        return None
    return (
        f"this folder holds images; to distil them: `raydd run configs/own_images.yaml --data.root {folder.uri}`; to "
        f"take over images that other code distilled: `raydd import {folder.uri} --format imagefolder ...`"
    )


def _foreign(folder: Folder) -> str | None:
    forms = {_FOREIGN.get(PurePosixPath(name).suffix.lower()) for name in folder.files()} - {None}
    if not forms:
        return None
    form = sorted(str(form) for form in forms)[0]
    return f"to take over what other code distilled: `raydd import {folder.uri} --format {form} ...`"


def _other_files(folder: Folder) -> str | None:
    found = [name for name in folder.files() if PurePosixPath(name).suffix.lower() in _TENSORS]
    return f"{found[0]} alone is no set that raydd knows; `raydd import --help` lists what it reads" if found else None


def _with_sets(folder: Folder) -> list[str]:
    """The names of the folders inside that are finished runs."""
    return [name for name in folder.folders() if (folder / name / "synthetic").has("manifest.json")]


def _one_of(names: list[str]) -> str:
    if len(names) == 1:
        return f"name {names[0]}"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"name one of them: {', '.join(names[:MOST_NAMED])}{more}"
