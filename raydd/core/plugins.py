"""What other packages add to raydd, by the entry points that they declare.

A package that is installed beside raydd declares, in its `pyproject.toml`, an entry point in the group of what it adds:

    [project.entry-points."raydd.methods"]
    class_means = "my_package.class_means:ClassMeansConfig"
"""

import logging
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

METHODS = "raydd.methods"
"""Configurations of methods, under `method.name`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """Something that another package adds."""

    name: str
    package: str
    """That it comes from, with its version."""
    added: Any


@cache
def plugins(group: str) -> tuple[Plugin, ...]:
    """What packages add to a group, by name; one that cannot be imported is named in a warning, and left out."""
    found = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        package = "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        try:
            found.append(Plugin(point.name, package, point.load()))
        except Exception as error:  # whatever it is, raydd's own methods go on
            logger.warning("%s of %s (%s) is left out: %s: %s", point.name, package, group, type(error).__name__, error)
    return tuple(found)
