"""Push a distilled set to the Hugging Face Hub: the Parquet export as a dataset there, in one commit.

huggingface_hub is imported where it is used: it comes with the extra `hub`. It takes the token from HF_TOKEN, or the
one that `hf auth login` has saved, and the Hub's address from HF_ENDPOINT.
"""

import importlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from raydd.core.errors import ConfigError, ResourceError, UserError
from raydd.exchange.card import CARD, README
from raydd.exchange.export import ExportTerms, write
from raydd.exchange.licence import checked, licence_of, remember
from raydd.storage import Folder

HUB: Final = "hub"
"""How the command line calls it."""
_REPO: Final = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_NETWORK: Final = {"huggingface_hub", "httpx", "httpx2", "requests", "hf_xet"}
"""Packages whose errors tell of the Hub, or of the way there."""
_OWN: Final = (CARD, README, ".gitattributes", "data/", "synthetic/")
"""What a dataset that raydd has pushed consists of."""


def push(folder: Folder, repo: str, terms: ExportTerms, *, private: bool = False) -> str:
    """Make a dataset of the Hub, or write the set anew where raydd has pushed one before.

    Args:
        folder: the run, or the set.
        repo: `NAME/DATASET` on the Hub.
        terms: licence, without which nothing is published, and whether to measure.
        private: whether a new dataset is shown to its owner alone.

    Returns:
        The address of the dataset.

    Raises:
        ConfigError: the name, the licence, the token or huggingface_hub is missing; nothing was pushed.
        ArtefactError: there is no set, or it is damaged.
        UserError: the Hub has other files under this name, or refuses.
    """
    if not _REPO.fullmatch(repo):
        raise ConfigError("to", f"on the Hub it is the name of a dataset, such as NAME/digits-10, not {repo!r}")
    hub, license = _library(), terms.license or licence_of(folder)
    if license is None:
        problem = "say under which licence the images may be used, such as cc-by-4.0, or other; it is asked for once"
        raise ConfigError("license", problem)
    license = checked(license)
    if not (token := hub.get_token()):
        raise ConfigError("HF_TOKEN", "is not set, and no token is saved: set it, or call `hf auth login`")
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with tempfile.TemporaryDirectory() as place:
        with _explained(repo):
            _require_own(api, repo)
        write(folder, "parquet", Path(place), replace(terms, license=license))
        with _explained(repo):
            url = str(api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True))
            api.upload_folder(
                repo_id=repo,
                repo_type="dataset",
                folder_path=place,
                commit_message="A distilled set, written by raydd",
                delete_patterns=["data/*", "synthetic/*"],
            )
    with suppress(UserError):  # where nothing can be written, it is asked for again
        remember(folder, license)
    return url


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        problem = "hub needs huggingface_hub: pip install huggingface_hub, or raydd with the extra `hub`"
        raise ConfigError("format", problem) from None


def _require_own(api: Any, repo: str) -> None:
    """Refuse to write over a dataset that is not raydd's."""
    if not api.repo_exists(repo, repo_type="dataset"):
        return
    names = api.list_repo_files(repo, repo_type="dataset")
    others = [name for name in names if not name.startswith(_OWN)]
    if others or (CARD not in names and any(name != ".gitattributes" for name in names)):
        problem = f"the Hub has files there that raydd has not written ({(others or names)[0]}); choose another name"
        raise UserError(f"{repo}: {problem}")


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what the Hub or the network refuses into one message."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _NETWORK and not isinstance(error, OSError):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResourceError(f"{repo}: the Hub refuses or cannot be reached: {first}") from error
