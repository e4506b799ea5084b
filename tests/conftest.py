"""Settings that every test shares."""

import os
import signal
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", "throwaway-token-of-the-tests")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("RAY_ADDRESS", None)
os.environ["COLUMNS"] = "100"

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.support.s3_server import served

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
TESTS = Path(__file__).parent
LONGEST = (
    "cluster/test_runs.py",
    "test_quickstart.py",
    "cluster/test_nodes.py",
    "pipeline/test_stages.py",
    "plan/test_decoupled.py",
    "cluster/test_plugin.py",
    "cli/test_main.py",
    "test_house.py",
    "pipeline/test_compare.py",
    "plan/test_plan.py",
)
"""Files that take minutes: they are begun early, so that no process is left alone with one at the end."""


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """HOST:PORT of an S3 server, which the environment names too: one for all, as open file systems keep it."""
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    """A Ray of this module's own, with a small object store."""
    import ray  # here, because importing Ray takes seconds

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=150_000_000,
        log_to_driver=False,
        logging_level="ERROR",
        namespace="raydd",
    )
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: a file is one process's, as its tests share what they make."""
    items.sort(key=lambda item: LONGEST.index(place(item)) if place(item) in LONGEST else len(LONGEST))


def place(item: pytest.Item) -> str:
    """The file of a test."""
    return str(item.path.relative_to(TESTS))


@pytest.fixture
def unignored() -> Iterator[None]:
    """A background job would hand down that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
