"""raydd: dataset distillation on Ray.

>>> import raydd
>>> raydd.run("configs/quickstart.yaml")            # doctest: +SKIP
>>> dataset = raydd.load("runs/quickstart")         # doctest: +SKIP
>>> raydd.results("runs/quickstart").to_pandas()    # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from raydd.core.version import __version__

if TYPE_CHECKING:
    from raydd.api import (
        PROBES,
        RECORDS,
        DataConfig,
        DistilledDataset,
        DistilledRun,
        EpochLoader,
        NetworkConfig,
        Recipe,
        RunConfig,
        TrainingOutcome,
        append,
        auto,
        evaluate,
        export,
        load,
        probes,
        push,
        results,
        run,
        scores,
    )

__all__ = [
    "PROBES",
    "RECORDS",
    "DataConfig",
    "DistilledDataset",
    "DistilledRun",
    "EpochLoader",
    "NetworkConfig",
    "Recipe",
    "RunConfig",
    "TrainingOutcome",
    "__version__",
    "append",
    "auto",
    "evaluate",
    "export",
    "load",
    "probes",
    "push",
    "results",
    "run",
    "scores",
]


def __getattr__(name: str) -> Any:
    """Import the functions when they are first used: `import raydd` alone stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'raydd' has no attribute {name!r}")
    from raydd import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """The public names, those that are not imported yet, too."""
    return sorted(__all__)
