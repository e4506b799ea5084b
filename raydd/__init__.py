"""raydd: dataset distillation on Ray.

>>> import raydd
>>> raydd.run("configs/quickstart.yaml")            # doctest: +SKIP
>>> dataset = raydd.load("runs/quickstart")         # doctest: +SKIP
>>> raydd.results("runs/quickstart").to_pandas()    # doctest: +SKIP
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydd.api import DistilledDataset, append, evaluate, export, load, probes, results, run

__all__ = ["DistilledDataset", "append", "evaluate", "export", "load", "probes", "results", "run"]

try:
    __version__ = version("raydd")
except PackageNotFoundError:
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Import the functions when they are first used: `import raydd` alone stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'raydd' has no attribute {name!r}")
    from raydd import api

    return getattr(api, name)
