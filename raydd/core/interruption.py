"""Ending in order: SIGINT and SIGTERM end the work, which saves its state first where that is not always done."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Final, Protocol

GRACE_SECONDS: Final = 8.0
"""How long work that was told to end may take to save its state; then it is broken off."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

Asked = Callable[[], int | None]
"""Whether to end: the signal's number, or None."""


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work; the same call goes on from what is saved."""

    def __init__(self, number: int) -> None:
        """Take the signal's number."""
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell expects: 130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.number


class Interruption(Protocol):
    """Who tells work to end."""

    def awaited(self, task: str) -> AbstractContextManager[Asked]:
        """For the length of a block that asks, after every step, whether to end; it then saves and raises Interrupted.

        Args:
            task: what is being worked on; no two at once are called the same.
        """


class Signals:
    """The signals of this process tell it to end, where its main thread does the work; else nobody does."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Break work off that takes longer than this to end."""
        self._grace_seconds = grace_seconds

    @contextmanager
    def awaited(self, task: str) -> Iterator[Asked]:
        """Note the first signal. The second one, or the end of the grace, breaks the block off wherever it is.

        Raises:
            Interrupted: a signal came after the block had asked for the last time.
        """
        noted: list[int] = []
        overdue: list[threading.Timer] = []

        def note(number: int, _: FrameType | None) -> None:
            if noted:
                raise Interrupted(noted[0])
            noted.append(number)
            overdue.append(threading.Timer(self._grace_seconds, os.kill, (os.getpid(), number)))
            overdue[0].daemon = True
            overdue[0].start()

        try:
            with _handled(note):
                yield lambda: noted[0] if noted else None
        finally:
            for timer in overdue:
                timer.cancel()
        if noted:
            raise Interrupted(noted[0])


@contextmanager
def heeded() -> Iterator[None]:
    """For the length of a block, either signal raises Interrupted in the main thread; one that is ignored stays so.

    Where C++ made a bare KeyboardInterrupt of it, as Ray does, it is one again when the block is left.
    """
    last: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        last.append(number)
        raise Interrupted(number)

    try:
        with _handled(end):
            yield
    except KeyboardInterrupt as interrupt:
        if last and not isinstance(interrupt, Interrupted):
            raise Interrupted(last[-1]) from interrupt
        raise


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have signals handled so, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    replaced = {number: old for number, old in before.items() if old not in (None, signal.SIG_IGN)}
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)
