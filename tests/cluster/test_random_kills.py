"""SIGKILL at random moments of any process of a run: the same command ends with what an undisturbed run makes.

Moments and victims are drawn from a seed; which processes there are at a moment is up to the machine.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_runs import require_same
from tests.pipeline.test_decoupled_runs import CONFIG as DECOUPLED
from tests.support.runs import CONFIG, Command, Process, run, running, wait_until_gone

KILLS = 5
"""Of each seed: twenty on Ray altogether."""
CONFIGS: dict[str, dict[str, Any]] = {"experts": CONFIG, "teacher": DECOUPLED}
AGENTS = "ray::DashboardAgent", "ray::RuntimeEnvAgent"
"""They take the node under the driver along, and with that Ray ends the driver, in words of its own."""
ON_RAY, ALONE = ["--cluster.max-failures", "20"], ["--no-ray"]


@dataclass(frozen=True)
class Undisturbed:
    """A finished run, and how long it took."""

    config: dict[str, Any]
    out: Path
    seconds: float


def timed(config: dict[str, Any], folder: Path, flags: list[str]) -> Undisturbed:
    """A run that nobody disturbs."""
    began = time.monotonic()
    run(folder / "run", *flags, config=config)
    return Undisturbed(config, folder / "run", time.monotonic() - began)


@pytest.fixture(scope="module", params=CONFIGS)
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Made in one process without Ray."""
    return timed(CONFIGS[request.param], tmp_path_factory.mktemp(request.param), ALONE)


@pytest.fixture(scope="module")
def on_ray(alone: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The same on Ray."""
    return timed(alone.config, tmp_path_factory.mktemp("on_ray"), ON_RAY)


@pytest.mark.slow
def test_random_kills_of_a_process_alone_change_nothing(alone: Undisturbed, tmp_path: Path) -> None:
    disturb(tmp_path, alone, ALONE, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_random_kills_on_ray_change_nothing(alone: Undisturbed, on_ray: Undisturbed, seed: int, tmp_path: Path) -> None:
    """Of drivers, workers, actors and all else that Ray runs for us."""
    require_same(on_ray.out, alone.out)
    disturb(tmp_path, on_ray, ON_RAY, seed)


def disturb(folder: Path, undisturbed: Undisturbed, flags: list[str], seed: int) -> None:
    """Run a config again and again, each time to its end, until `KILLS` kills have struck."""
    draw, left, number = random.Random(seed), KILLS, 0
    while left:
        out = folder / f"run-{number}"
        code, number = 1, number + 1
        while code:
            struck: list[str] = []
            with running(out, *flags, config=undisturbed.config) as command:
                while left > len(struck) and lasts(command, draw.uniform(0, undisturbed.seconds)):
                    struck += strike(command, draw)
                code = command.wait()
                printed = command.output()
            left -= len(struck)
            assert code == 0 or code in (1, -9) and struck, printed
            assert "Traceback" not in printed, printed
            assert code != 1 or "stopped: " in printed or any(title.startswith(AGENTS) for title in struck), printed
        require_same(out, undisturbed.out)


def lasts(command: Command, seconds: float) -> bool:
    """Whether the command is still at work when so many seconds have passed."""
    deadline = time.monotonic() + seconds
    while command.process.poll() is None:
        if time.monotonic() >= deadline:
            return True
        time.sleep(0.01)
    return False


def strike(command: Command, draw: random.Random) -> list[str]:
    """Kill the command or one of its processes that work for us; every kind is as likely as any other.

    Returns:
        The title of the victim; of none, where the command is not there any more.
    """
    family = command.family()
    if not family:
        return []
    kinds: dict[str, list[Process]] = {"the driver": family[:1]}
    for process in family[1:]:
        if process.title.startswith("ray::") and not process.title.startswith("ray::IDLE"):
            kinds.setdefault(process.title.partition(".")[0], []).append(process)
    victim = draw.choice(draw.choice([kinds[kind] for kind in sorted(kinds)]))
    victim.kill()
    if victim.pid == command.process.pid:
        command.process.wait()
        wait_until_gone(family)
    else:
        wait_until_gone([victim])
    return [victim.title]
