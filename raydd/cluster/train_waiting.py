"""What comes between two groups of Train's workers: waiting until the cluster holds the next one."""

import time

import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    RunningState,
    TrainControllerState,
)

from raydd.cluster.waiting import SECONDS, Lookout
from raydd.core.errors import RunError


class Regrouping(ControllerCallback):  # type: ignore[misc]
    """Waits in Train's controller; by itself that would give up after some minutes, or, if elastic, wait without end.

    A group that cannot be placed on resources that are there waits for others who are at work on them. So does one that
    was counted before Ray knew of a node's death; the next one is counted anew.
    """

    def __init__(self, lookout: Lookout, max_failures: int) -> None:
        """Wait for what this one looks out for; stop where workers fail more often than this before they begin."""
        self._lookout, self._max_failures = lookout, max_failures
        self._failures, self._is_busy = 0, False

    def after_controller_state_update(self, previous_state: object, current_state: TrainControllerState) -> None:
        """Wait, where workers are to be started next.

        Raises:
            ResourceError: in vain; the controller then fails with it.
            RunError: they fail before they begin.
        """
        if isinstance(current_state, ReschedulingState):
            self._take_in(current_state.training_failed_error.controller_failure)
        if isinstance(current_state, (InitializingState, ReschedulingState, RestartingState)):
            while not self._lookout.is_met():
                time.sleep(SECONDS)
            _have_the_coordinator_look()
            if self._is_busy:
                self._lookout.say("not free yet")
        if isinstance(current_state, RunningState) and self._is_busy:
            self._is_busy = False
            self._lookout.say_they_are_there()

    def _take_in(self, failure: Exception) -> None:
        """Why a group was not started."""
        self._is_busy = isinstance(failure, WorkerGroupStartupTimeoutError)
        self._failures += not self._is_busy
        if self._failures > self._max_failures:
            raise RunError(f"the workers failed {self._failures} times before they began: {failure}")


def _have_the_coordinator_look() -> None:
    """Ray's elastic workers are counted by what its coordinator saw up to 20 s ago; have it see what there is now."""
    ray.get(get_or_create_autoscaling_coordinator().get_reserved_resources.remote("", recompute=True))
