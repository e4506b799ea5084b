"""What an object store does not do now it may do in a moment: requests are repeated before anybody hears of them.

A busy store answers 503 now and then, and connections break. pyarrow asks three times by itself, which one request in a
thousand does not survive where one in ten fails.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pyarrow.fs import AwsDefaultS3RetryStrategy, S3FileSystem

from raydd.storage.local import explained, first_line

ATTEMPTS = 10
"""How often a request to S3 is made, at intervals that double: 13 seconds in all where every answer is a refusal."""

PATIENCE_SECONDS = 60
"""From the first failure of an operation to the last attempt at it."""

_PAUSE_SECONDS = 0.1, 10.0
_PASSING = re.compile(
    "AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING"
    r"|REQUEST_TIME_TOO_SKEWED|NO_SUCH_UPLOAD)|HTTP status 5\d\d|curlCode"
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class PatientS3(S3FileSystem):  # type: ignore[misc]
    """An S3 file system that repeats its requests, also where it was sent to another process.

    A small file is one request and not three; what is refused, is refused when the file is closed.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        """Take the options of another file system, which hold no credentials unless they were spelt out there."""
        strategy = AwsDefaultS3RetryStrategy(max_attempts=ATTEMPTS)
        super().__init__(**{**options, "allow_delayed_open": True, "retry_strategy": strategy})

    @classmethod
    def like(cls, filesystem: S3FileSystem) -> "PatientS3":
        """Of the same store."""
        _, (options,) = filesystem.__reduce__()
        return cls(options)

    def __reduce__(self) -> tuple[type["PatientS3"], tuple[dict[str, Any]]]:
        """Pickle by the options; pyarrow's own way forgets how patient it was."""
        _, (options,) = super().__reduce__()
        return type(self), (options,)


def patiently(place: str, operation: Callable[[], T]) -> T:
    """What an idempotent operation returns; where a store fails that may recover, it is tried again for a minute.

    Raises:
        UserError: it is refused, or failed to the end; names `place`.
    """
    pause, longest = _PAUSE_SECONDS
    last_attempt: float | None = None
    with explained(place):
        while True:
            try:
                return operation()
            except OSError as error:
                now = time.monotonic()
                last_attempt = last_attempt or now + PATIENCE_SECONDS
                if now > last_attempt or not _PASSING.search(str(error)):
                    raise
                logger.info("%s: %s; trying again", place, first_line(error))
            time.sleep(pause)
            pause = min(2 * pause, longest)
