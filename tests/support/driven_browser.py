"""A browser that is driven as a person does it: real key presses and clicks, over the protocol of Chromium's tools."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.pages import CHROMIUM

_FLAGS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-sync",
    "hide-scrollbars",
    "remote-debugging-pipe",
)
_KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "ArrowLeft": (37, ""), "ArrowRight": (39, "")}
"""The codes of keys, and what they type."""


class Tab:
    """A page in a browser, and what it has written to its console."""

    def __init__(self, asks: BinaryIO, answers: BinaryIO) -> None:
        """Talk over these pipes."""
        self._asks, self._answers, self._number = asks, answers, 0
        self._session: dict[str, str] = {}
        self.console: list[Any] = []

    def open(self, address: str, width: int, height: int = 900) -> None:
        """Show an address in a window of a size, and wait until it is loaded."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for name in ("Page.enable", "Runtime.enable", "Log.enable"):
            self._ask(name)
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._ask("Page.navigate", url=address)
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def press(self, key: str) -> None:
        """Press and release a key."""
        code, text = _KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._ask("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Click on the middle of the first element that a selector finds, which is brought into sight."""
        middle = (
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            f" return [b.left + b.width / 2, b.top + b.height / 2] }})(document.querySelector('{selector}'))"
        )
        x, y = self.find(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def find(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def settles(self, expression: str, seconds: float = 10) -> bool:
        """Whether a JavaScript expression comes to be true: events such as the closing of a dialog come later."""
        end = time.monotonic() + seconds
        while not (found := bool(self.find(expression))) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        question = {"id": self._number, "method": method, "params": params, **self._session}
        self._asks.write(json.dumps(question).encode() + b"\0")
        self._asks.flush()
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        """The next message."""
        read = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            read += byte
        message: dict[str, Any] = json.loads(read)
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(message["params"])
        return message


@contextmanager
def driven(folder: Path, html: str, width: int) -> Iterator[Tab]:
    """A page of a width in a fresh browser, which ends with the block."""
    page = folder / "driven.html"
    page.write_text(html)
    (their_asks, our_asks), (our_answers, their_answers) = os.pipe(), os.pipe()
    flags = [f"--{flag}" for flag in (*_FLAGS, f"user-data-dir={folder / 'profile'}")]
    command = ["bash", "-c", f'exec "$@" 3<&{their_asks} 4>&{their_answers}', "bash", str(CHROMIUM), *flags]
    with subprocess.Popen(command, pass_fds=(their_asks, their_answers), stderr=subprocess.DEVNULL) as browser:
        os.close(their_asks)
        os.close(their_answers)
        with os.fdopen(our_asks, "wb") as asks, os.fdopen(our_answers, "rb") as answers:
            tab = Tab(asks, answers)
            try:
                tab.open(page.as_uri(), width)
                yield tab
            finally:
                browser.kill()
