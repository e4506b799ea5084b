"""Where commands print: what was asked for, and what went wrong."""

import re
from typing import Any, Final

from rich.console import Console
from rich.text import Text

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys, but for tabs and line breaks: names of files and classes may have any."""


class PlainConsole(Console):
    """A console on which no text that is printed, alone or in a table, reaches the terminal as a command."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text with escape sequences and their kind written out."""
        return super().render_str(_CONTROL.sub(_written_out, text), **options)


def _written_out(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


console = PlainConsole(highlight=False)
errors = PlainConsole(stderr=True, highlight=False)
