"""Jobs of a running cluster, through Ray's Jobs SDK: sent there, followed, and asked how they ended.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/sdk.html
"""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from raydd.core.errors import ResourceError

PATIENCE_SECONDS: Final = 600.0
"""How long a cluster that was lost while its job was followed is sought again."""
STOP_SECONDS: Final = 30
"""How long Ray lets a job that is stopped save its state before it kills it; by itself it gives 3 seconds."""

_ANSWER_SECONDS = 20.0
_RETRY_SECONDS = 2.0
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What Ray's SDK prefers to the address that it is given."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job ended."""

    succeeded: bool
    exit_code: int
    """Of its command, as a shell tells it; 1 where it never began or was stopped."""
    reason: str
    """Why it never began or that it was stopped; empty where its log says all."""


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to the dashboard at `address`, such as http://127.0.0.1:8265.

        Raises:
            ResourceError: no cluster answers there, or it does not let us in.
        """
        self._address = address
        self.is_open = _is_open(address)
        """Whether the cluster lets in everybody who reaches it."""
        try:
            with _hidden(_OVERRIDES):
                self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise ResourceError(
                f"{address}: this cluster does not let us in; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or "
                "RAY_AUTH_TOKEN_PATH, a file) to the token that it was started with"
            ) from error
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_answer(address, error) from error

    def submit(
        self, job: str, command: Sequence[str], folder: str | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        """Have the cluster begin a job.

        Args:
            job: what it is called there; no other job ever was.
            command: what it runs, on the head node.
            folder: whose files travel and are the job's working directory; what .gitignore names stays here.
            variables: of its environment and its workers'. Whoever sees the cluster's dashboard may read them.

        Raises:
            ResourceError: the cluster does not take it.
        """
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **(variables or {})}
        place = {} if folder is None else {"working_dir": folder}
        try:
            with _silent():
                self._client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=job,
                    runtime_env={"env_vars": environment, **place},
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise ResourceError(f"{self._address}: the cluster does not take the job: {error}") from error

    def follow(self, job: str, told: Callable[[str], None]) -> Ending:
        """Tell every line of a job's log until it has ended; a connection that is lost is made again.

        Raises:
            ResourceError: the cluster was lost, and not found again within `PATIENCE_SECONDS`.
        """
        with _silent():
            return asyncio.run(self._follow(job, Lines(told)))

    def ending(self, job: str) -> Ending | None:
        """How a job ended; None where it has not."""
        info = self._client.get_job_info(job)
        if not info.status.is_terminal():
            return None
        code = info.driver_exit_code
        if info.status == JobStatus.STOPPED:
            return Ending(succeeded=False, exit_code=1, reason="it was stopped")
        if code is None:
            return Ending(succeeded=False, exit_code=1, reason=info.message or "Ray does not say why")
        return Ending(succeeded=code == 0, exit_code=code if code >= 0 else 128 - code, reason="")

    async def _follow(self, job: str, lines: "Lines") -> Ending:
        heard = time.monotonic()
        while True:
            lines.begin()
            async for text in self._log(job):
                lines.add(text)
                heard = time.monotonic()
            try:
                ending = self.ending(job)
                whole = "" if ending is None else self._client.get_job_logs(job)
            except Exception as error:
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise ResourceError(
                        f"{self._address}: the cluster has not answered for {PATIENCE_SECONDS:.0f} s ({error}); {job} "
                        "may be at work still"
                    ) from error
            else:
                heard = time.monotonic()
                if ending is not None:
                    lines.begin()
                    lines.add(whole)
                    lines.end()
                    return ending
            await asyncio.sleep(_RETRY_SECONDS)

    async def _log(self, job: str) -> AsyncIterator[str]:
        """The log from its beginning, to its end or to where the connection is lost."""
        with suppress(Exception):
            async for text in self._client.tail_job_logs(job):
                yield text


class Lines:
    """The lines of a log that comes in pieces of any length, and again from its beginning after every loss."""

    def __init__(self, told: Callable[[str], None]) -> None:
        """Tell each line once."""
        self._told = told
        self._seen = 0
        self._place = 0
        self._rest = ""

    def begin(self) -> None:
        """The next piece is the log's first."""
        self._place = 0

    def add(self, text: str) -> None:
        """Tell the lines that a piece ends."""
        fresh = text[max(0, self._seen - self._place) :]
        self._place += len(text)
        self._seen = max(self._seen, self._place)
        *whole, self._rest = (self._rest + fresh).split("\n")
        for line in whole:
            self._told(line)

    def end(self) -> None:
        """Tell what no line break ended."""
        if self._rest:
            self._told(self._rest)


def _is_open(address: str) -> bool:
    """Whether a question without a token is answered.

    Raises:
        ResourceError: nothing is there.
    """
    try:
        with urlopen(f"{address}/api/jobs/raydd", timeout=_ANSWER_SECONDS):
            return True
    except HTTPError as error:
        return error.code not in (401, 403)
    except (URLError, OSError, ValueError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"{address}: the dashboard of no Ray cluster answers here ({error}); see that the cluster runs, and that a "
        "tunnel leads to it, such as `ray dashboard cluster.yaml`"
    )


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """These variables are not set."""
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)


@contextmanager
def _silent() -> Iterator[None]:
    """Ray does not tell what it uploads and when it disconnects."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
