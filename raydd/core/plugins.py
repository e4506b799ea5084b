"""What other packages add to raydd, by the entry points that they declare.

A package that is installed beside raydd declares, in its `pyproject.toml`, an entry point in the group of what it adds:

    [project.entry-points."raydd.methods"]
    class_means = "my_package.class_means:ClassMeansConfig"

Methods are asked for once, for the type of configs; sources and networks whenever a name is none of raydd's own.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final

METHODS: Final = "raydd.methods"
"""Configurations of methods, under `method.name`."""
SOURCES: Final = "raydd.sources"
"""Datasets, under `data.source`: each a `raydd.data.sources.source.Source`."""
NETWORKS: Final = "raydd.networks"
"""Networks, under `network.name`: each a `raydd.networks.traits.Architecture`."""
WHERE: Final = "raydd methods lists what there is, of packages that are installed, too"
"""What a message on an unknown name says besides."""

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


@cache
def added(group: str, kind: type, own: frozenset[str]) -> Mapping[str, Plugin]:
    """What packages add to a group, under its names.

    Args:
        group: which.
        kind: the class of whatever is added to it.
        own: names that raydd has itself. What another package adds under one of them, or is of another class, is named
            in a warning, and left out.
    """
    found: dict[str, Plugin] = {}
    for plugin in plugins(group):
        problem = ""
        if not isinstance(plugin.added, kind):
            problem = f"it is no {kind.__name__}"
        elif plugin.name in own or plugin.name in found:
            problem = f"{found[plugin.name].package if plugin.name in found else 'raydd'} has this name"
        if problem:
            logger.warning("%s of %s (%s) is left out: %s", plugin.name, plugin.package, group, problem)
        else:
            found[plugin.name] = plugin
    return found
