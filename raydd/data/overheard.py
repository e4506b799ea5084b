"""What Pillow warns of while one thread of many decodes an image: words for a list, and no lines among a run's."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_PILLOW: Final = r"PIL\."
"""The modules whose warnings are kept from being shown."""
_LOCK: Final = threading.Lock()
_OF_THREAD: Final = threading.local()


class _Ears:
    """Hears the warnings of this process while some thread listens.

    `warnings.catch_warnings` alone would take those of other threads for this one's, and hear the same words once only.
    """

    def __init__(self) -> None:
        self._listening = 0
        self._before = warnings.catch_warnings()

    def open(self) -> None:
        """One thread more listens."""
        with _LOCK:
            self._listening += 1
            if self._listening > 1:
                return
            self._before = warnings.catch_warnings()
            self._before.__enter__()
            shown = warnings.showwarning

            def hear(
                message: Warning | str,
                category: type[Warning],
                filename: str,
                lineno: int,
                file: TextIO | None = None,
                line: str | None = None,
            ) -> None:
                said = getattr(_OF_THREAD, "said", None)
                if said is None or "PIL" not in filename:
                    shown(message, category, filename, lineno, file, line)
                elif str(message) not in said:
                    said.append(str(message))

            warnings.filterwarnings("always", module=_PILLOW)
            warnings.showwarning = hear

    def close(self) -> None:
        """One thread less does."""
        with _LOCK:
            self._listening -= 1
            if self._listening == 0:
                self._before.__exit__(None, None, None)


_EARS: Final = _Ears()


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Listen to Pillow in this thread.

    Yields:
        What it warned of so far, each message once.
    """
    said: list[str] = []
    _EARS.open()
    _OF_THREAD.said = said
    try:
        yield said
    finally:
        _OF_THREAD.said = None
        _EARS.close()
