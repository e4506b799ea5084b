"""Fields that are auto, on or off."""

from typing import Annotated, Literal

from pydantic import BeforeValidator


def _word(value: object) -> object:
    """The words that YAML takes for booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)]
