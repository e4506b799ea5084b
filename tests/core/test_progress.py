"""What a piece of work is called, and that a title says again which it is."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd.core.progress import WAITING, Work, step

WORDS = st.from_regex(r"[a-z0-9_]+", fullmatch=True)
LABELS = st.lists(st.from_regex(r"[a-z0-9,()]+", fullmatch=True), max_size=4).map(" ".join)


@pytest.mark.parametrize(
    ("work", "title"),
    [
        (Work("distil"), "distil"),
        (Work("expert", "3"), "expert 3"),
        (Work("recover", "1-5 of 10 groups"), "recover 1-5 of 10 groups"),
        (Work("copies", about="student 0 of synthetic"), "copies: student 0 of synthetic"),
        (Work("continual", "set 2", "student 0 of synthetic"), "continual set 2: student 0 of synthetic"),
        (step(4, 7, "curves of experts"), "step 4 of 7: curves of experts"),
        (WAITING, "waiting for resources"),
    ],
)
def test_titles(work: Work, title: str) -> None:
    assert str(work) == f"{work}" == title
    assert Work.titled(title) == work


@given(WORDS, LABELS, LABELS)
def test_a_title_says_again_which_work_it_is(kind: str, label: str, about: str) -> None:
    work = Work(kind, label, about)
    assert Work.titled(str(work)) == work
    assert {work: 1}[pickle.loads(pickle.dumps(work))] == 1
