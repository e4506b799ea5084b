"""Which segment an iteration matches, and that it is read ahead."""

import threading

import torch
from torch import Tensor

from raydd.core.keyed_random import Key
from raydd.methods.trajectory.segments import Segment, Segments

KEY = Key.root(5)


class Trajectories:
    """Each snapshot says which it is; which were read, in order."""

    def __init__(self) -> None:
        self.read: list[tuple[int, int]] = []
        self.threads: list[int] = []

    def params(self, expert: int, epoch: int) -> Tensor:
        self.read.append((expert, epoch))
        self.threads.append(threading.get_ident())
        return torch.tensor([expert, epoch])


def segments(trajectories: Trajectories, key: Key = KEY) -> Segments:
    """Of four experts, two epochs each, from a window that moves."""
    return Segments(
        trajectories.params, num_experts=4, num_epochs=2, window=lambda number: (number, number + 3), key=key
    )


def plain(segment: Segment) -> tuple[int, int, int, list[int], list[int]]:
    """Without tensors."""
    return segment.expert, segment.epoch, segment.bound, segment.start.tolist(), segment.target.tolist()


def test_every_expert_once_in_a_cycle_and_epochs_within_the_window() -> None:
    made = segments(Trajectories())
    found = [made.at(number) for number in range(40)]
    for cycle in range(10):
        assert sorted(one.expert for one in found[4 * cycle : 4 * cycle + 4]) == [0, 1, 2, 3]
    assert len({tuple(one.expert for one in found[4 * cycle : 4 * cycle + 4]) for cycle in range(10)}) > 3
    for number, one in enumerate(found):
        assert number <= one.epoch < number + 3 == one.bound
        assert (one.start.tolist(), one.target.tolist()) == ([one.expert, one.epoch], [one.expert, one.epoch + 2])
    assert {one.epoch - number for number, one in enumerate(found)} == {0, 1, 2}


def test_a_segment_depends_on_the_key_and_its_number_alone() -> None:
    inner = segments(Trajectories())
    in_order = [plain(inner.at(number)) for number in range(12)]
    other = segments(Trajectories())
    assert [plain(other.at(number)) for number in (7, 3, 3, 4, 11)] == [in_order[number] for number in (7, 3, 3, 4, 11)]
    again = segments(Trajectories(), Key.root(6))
    assert [plain(again.at(number)) for number in range(12)] != in_order


def test_the_next_is_read_by_another_thread_and_once() -> None:
    trajectories = Trajectories()
    made = segments(trajectories)
    for number in range(5):
        made.at(number)
    made._reader.shutdown(wait=True)
    assert len(trajectories.read) == 2 * 6
    assert set(trajectories.threads[:2]) == {threading.get_ident()}
    assert len(set(trajectories.threads[2:])) == 1 and trajectories.threads[2] != threading.get_ident()
