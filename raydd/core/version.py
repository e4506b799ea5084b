"""Which raydd this is."""

import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    __version__ = version("raydd")
except PackageNotFoundError:
    __version__ = "0+unknown"


@cache
def commit() -> str:
    """The commit of the source that runs, or the package's version outside a checkout and where there is no git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or (git := shutil.which("git")) is None:
        return __version__
    asked = subprocess.run([git, "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return asked.stdout.strip() or __version__
