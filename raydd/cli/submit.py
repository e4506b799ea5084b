"""`raydd submit`: a config's run as a job of a Ray cluster, and its progress here."""

import argparse
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from raydd.cli import fields
from raydd.cli.output import console
from raydd.cli.progress import shown_progress
from raydd.config import RunConfig, field_names
from raydd.core.errors import ConfigError, UserError
from raydd.core.interruption import Interrupted
from raydd.core.progress import RUN, SECONDS_LEFT, Progress, Work

if TYPE_CHECKING:
    from raydd.cluster.submit import Ending, Jobs

ADDRESS = "http://127.0.0.1:8265"
"""Where a cluster's dashboard is, on its head node or at this end of a tunnel."""

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_PROGRESS = re.compile(
    rf"(?P<task>.+): (?P<done>{_NUMBER})/(?P<total>{_NUMBER})(?:, \d+\.\d+/s, \d+ s left)?(?:, (?P<note>.*?))?"
    r"(?:; whole run: about (?P<left>\d+(?:\.\d+)?) (?P<unit>s|min|h) left)?"
)
"""A line of `raydd.cli.progress.LineProgress`."""
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    fields.arguments(command)
    text = f"of the cluster's dashboard; by default $RAY_API_SERVER_ADDRESS, or {ADDRESS}"
    command.add_argument("--address", metavar="URL", help=text)
    command.add_argument("--working-dir", metavar="DIR", help="a folder that is sent along, and is the job's own")
    text = "a variable of the job's environment, with this value or with the one that it has here; may be repeated"
    command.add_argument("--env", metavar="NAME[=VALUE]", action="append", default=[], help=text)
    command.add_argument("--no-wait", action="store_true", help="send it and leave; it is followed by default")


def run(known: argparse.Namespace, rest: list[str]) -> int:
    """Send the run that is named to a cluster; returns the exit code."""
    return submit(fields.load(known, rest), known, rest, console)


def submit(config: RunConfig, known: argparse.Namespace, flags: Sequence[str], console: Console) -> int:
    """Send a run to a cluster and, unless told otherwise, follow it; returns the exit code of its command.

    Args:
        config: what the file and the flags say.
        known: the command's arguments.
        flags: the fields that are laid over the file.
        console: for what the job prints, and bars in place of its lines of progress.

    Raises:
        UserError: a place that the config names is not one for a job, the config does not travel, or there is no such
            cluster; nothing was sent.
    """
    if known.no_ray:
        raise UserError("--no-ray: a job works on its cluster; leave the flag out, or use `raydd run`")
    _require_absolute(config)
    address = _address(known.address)
    variables = dict(map(_variable, known.env))
    with _travelling(known.config, known.working_dir) as (folder, file):
        from raydd.cluster.submit import Jobs

        jobs, job = Jobs(address), _job_name(config)
        if jobs.is_open:
            _say(console, f"warning: {address} asks for no token: whoever reaches it runs what they like there")
        command = ["python", "-m", "raydd", "run", file, *flags, *["--quiet"] * known.quiet]
        jobs.submit(job, command, folder, variables)
    _say(console, f"job {job} is at {address}{', with ' if variables else ''}{', '.join(variables)}")
    if known.no_wait:
        _say(console, _commands(address, job))
        return 0
    try:
        ending = _followed(jobs, job, console, known.quiet)
    except KeyboardInterrupt as interrupt:
        _say(console, f"job {job} goes on; {_commands(address, job)}")
        return interrupt.exit_code if isinstance(interrupt, Interrupted) else 130
    if not ending.succeeded:
        _say(console, f"job {job} failed: {ending.reason or f'its command ended with exit code {ending.exit_code}'}")
    return ending.exit_code


def _followed(jobs: "Jobs", job: str, console: Console, quiet: bool) -> "Ending":
    with shown_progress(console, quiet) as progress:
        return jobs.follow(job, LogView(console, progress if console.is_terminal else None).show)


class LogView:
    """A job's log: its lines of progress as bars, where there are any, and all else as it is."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        """Print on this console; draw on these bars."""
        self._console = console
        self._bars = bars
        self._began = time.monotonic()

    def show(self, line: str) -> None:
        """Show one line."""
        if self._bars is None or (found := _PROGRESS.fullmatch(line)) is None:
            _say(self._console, line)
        else:
            done, total = float(found["done"]), float(found["total"])
            self._bars.update(Work.titled(found["task"]), done, total, found["note"] or "")
            if found["left"]:
                spent, left = time.monotonic() - self._began, float(found["left"]) * _SECONDS[found["unit"]]
                self._bars.update(RUN, 100 * spent / max(spent + left, 1.0), 100, "", {SECONDS_LEFT: left})


def _require_absolute(config: RunConfig) -> None:
    """Refuse places that would be in the job's own folder.

    Raises:
        ConfigError: naming the field.
    """
    located = config.located()
    for field in ("out", *field_names(config)):
        place = _value(config, field)
        if not isinstance(place, str) or "://" in place or Path(place).expanduser().is_absolute():
            continue
        if field == "out":
            flag = f"--out /shared/{Path(place).name} or --out s3://bucket/{Path(place).name}"
            problem = f"{place} would be in the job's own folder and vanish with it; take a place that all nodes see"
            raise ConfigError("out", f"{problem}: {flag}")
        if _value(located, field) != place:
            raise ConfigError(
                field, f"{place} is not there for a job; give an absolute path that all nodes see, or a URI"
            )


def _value(config: object, field: str) -> object:
    for name in field.split("."):
        config = getattr(config, name)
    return config


def _address(given: str | None) -> str:
    """The address of the dashboard.

    Raises:
        UserError: it is none.
    """
    name, address = "--address", given
    if address is None:
        name, address = "RAY_API_SERVER_ADDRESS", os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
    if not re.match(r"https?://[^/]", address):
        raise UserError(f"{name}: must be the address of a cluster's dashboard, such as {ADDRESS}, is {address}")
    return address.rstrip("/")


def _variable(text: str) -> tuple[str, str]:
    """What `--env` names, from here where it gives no value.

    Raises:
        UserError: it is not set here.
    """
    name, is_given, value = text.partition("=")
    if not is_given:
        value = os.environ.get(name, "")
    if not name or not (is_given or name in os.environ):
        raise UserError(f"--env {text}: there is no such variable here; give --env NAME=VALUE")
    return name, value


@contextmanager
def _travelling(config: str, working_dir: str | None) -> Iterator[tuple[str | None, str]]:
    """The folder that is sent, and the path of the config file in it; without a working directory, that file alone.

    Raises:
        UserError: the folder is not there, or the config file is not in it.
    """
    if working_dir is not None:
        root = Path(working_dir)
        if not root.is_dir():
            raise UserError(f"--working-dir: there is no folder {working_dir}")
        if "://" in config:
            yield str(root), config
            return
        file = Path(config).resolve()
        if not file.is_relative_to(root.resolve()):
            raise UserError(f"--working-dir: {config} is not in {working_dir}, so that the job would not have it")
        yield str(root), file.relative_to(root.resolve()).as_posix()
    elif "://" in config:
        yield None, config
    else:
        with TemporaryDirectory(prefix="raydd") as folder:
            yield folder, Path(shutil.copy(config, folder)).name


def _job_name(config: RunConfig) -> str:
    """What the job is called on the dashboard and in Ray's commands."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", config.name).strip("-")[:40]
    return f"raydd-{name or 'run'}-{secrets.token_hex(4)}"


def _commands(address: str, job: str) -> str:
    """How to follow and to stop a job with Ray's own command."""
    return f"follow: ray job logs --address {address} --follow {job}\nstop: ray job stop --address {address} {job}"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, emoji=False, soft_wrap=True)
