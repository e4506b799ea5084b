"""The configuration: all that a YAML file says, and what follows from it."""

from raydd.config.run import (
    RunConfig,
    field_names,
    first_difference,
    from_mapping,
    load,
    parse,
    said,
    to_mapping,
    to_yaml,
)

__all__ = [
    "RunConfig",
    "field_names",
    "first_difference",
    "from_mapping",
    "load",
    "parse",
    "said",
    "to_mapping",
    "to_yaml",
]
