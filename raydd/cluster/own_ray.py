"""What a Ray that raydd starts on this machine is kept from: other machines, and other users of this one.

By itself a local Ray listens on every interface, in a folder that everybody may write to. Here it listens on the
loopback interface alone, as it does on macOS, asks for a token that only its own processes know, and has its files in a
folder of the user's (`session_folder`).
"""

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

_ON_EVERY_INTERFACE: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0, Ray takes 127.0.0.1 for the address of this machine; its processes read it as they start."""
_MODE, _TOKENS = "RAY_AUTH_MODE", ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_log = logging.getLogger(__name__)


@contextmanager
def kept_apart() -> Iterator[None]:
    """For as long as such a Ray lives, which begins inside."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    try:
        with _environment({_ON_EVERY_INTERFACE: "0", **_token()}):
            ray_constants.ENABLE_RAY_CLUSTER = False  # where Ray was imported earlier, it has read the variable
            AuthenticationTokenLoader.instance().reset_cache()
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        AuthenticationTokenLoader.instance().reset_cache()


def _token() -> Mapping[str, str]:
    """A token in the environment, which only this user can read, unless there is one; Ray would write a file."""
    if os.environ.get(_MODE, "token").lower() != "token":
        _log.warning("%s=%s: every user of this machine can run code as you", _MODE, os.environ[_MODE])
        return {}
    return {} if any(os.environ.get(name) for name in _TOKENS) else {_TOKENS[0]: secrets.token_hex(32)}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
