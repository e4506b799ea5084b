"""Spoilt configurations: each is planned, or refused with one message; none ends in a traceback or without an end."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from raydd import config as configs
from raydd.core.errors import UserError
from raydd.storage import yaml_files
from tests.support.alarms import FIXED, PATIENCE, attempt, ends_within
from tests.support.mutations import spoilt
from tests.support.small import small_run


def test_spoilt_configurations_are_read_or_refused() -> None:
    """By the field that is wrong, or as what is not YAML."""
    codes: Counter[int] = Counter()

    @settings(FIXED, max_examples=200)
    @given(spoilt())
    def check(content: bytes) -> None:
        try:
            configs.parse(content, "spoilt.yaml")
        except UserError as error:
            assert len(str(error)) < 1_000
            codes[2] += 1
        else:
            codes[0] += 1

    check()
    assert codes[0] > 20 and codes[2] > 100


def try_many(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How so many configurations end."""
    monkeypatch.chdir(tmp_path)
    codes: Counter[int] = Counter()

    @settings(FIXED, max_examples=count)
    @given(spoilt())
    def check(content: bytes) -> None:
        (tmp_path / "spoilt.yaml").write_bytes(content)
        code, printed = attempt("show", tmp_path / "spoilt.yaml", "--rate", "1G")
        assert code == 2 or "total" in printed
        codes[code] += 1

    check()
    assert [path.name for path in tmp_path.iterdir() if path.name != "spoilt.yaml"] == []
    return codes


def test_spoilt_configurations_are_planned_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = try_many(40, tmp_path, monkeypatch)
    assert codes[0] > 3 and codes[2] > 20


@pytest.mark.slow
def test_two_thousand_spoilt_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = try_many(2000, tmp_path, monkeypatch)
    assert codes[0] > 200 and codes[2] > 1000


ALIASES = b"a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 10)) for name in b"bcdefgh"
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: 1\nseed: 2", "the key 'seed' is there twice"),
        (b"data: {root: a, root: b}", "the key 'root' is there twice"),
        (b"[" * 900, "more than 50 levels"),
        (b"- " * 900, "more than 50 levels"),
        (ALIASES, "more than 100,000 values"),
        (b"a: &a [*a]", "aliases without end"),
        (b"seed: " + b"9" * 5000, "an integer of 5000 characters"),
        (b"seed: 0x" + b"f" * 5000, "an integer of 5002 characters"),
        (b"seed: !!int x", "a value is not what it says it is"),
        (b"seed: !!timestamp x", "a value is not what it says it is"),
        (b"seed: 2026-13-45", "month must be in 1..12"),
        (b'name: "\\ud800"', "half of a surrogate pair"),
        (b'out: "a\\0b"', "a null character"),
        (b"name: \xc3\x28", "invalid continuation byte"),
        (b"name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_yaml_that_is_refused(content: bytes, words: str) -> None:
    with ends_within(PATIENCE), pytest.raises(UserError) as refused:
        yaml_files.read(content, "run.yaml")
    assert str(refused.value).startswith("run.yaml: not readable as YAML: ") and words in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", None),
        (b"a: {b: [1, 2.5, x]}", {"a": {"b": [1, 2.5, "x"]}}),
        (b"a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        (b"[" * 40 + b"7" + b"]" * 40, None),
        (b"a: -0x10\nb: 9223372036854775808", {"a": -16, "b": 2**63}),
    ],
    ids=["empty", "plain", "merged", "nested", "integers"],
)
def test_yaml_that_is_read(content: bytes, said: Any) -> None:
    found = yaml_files.read(content, "run.yaml")
    for _ in range(40 if content.startswith(b"[") else 0):
        (found,) = found
    assert found == (7 if content.startswith(b"[") else said)


@pytest.mark.parametrize("flag", ["--out", "--data.root", "--experts.store", "--teacher.weights"])
@pytest.mark.parametrize(
    "address", ["~nobody-at-all/x", "http://[::1", "s3://[b/x", "://", "ftp://x/y", "/dev/null/x", "x" * 5000, "\udce9"]
)
def test_addresses_that_name_no_place(flag: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are embedded and there is no teacher, so that nothing may come of two of the flags."""
    monkeypatch.chdir(tmp_path)
    run = small_run(tmp_path, {"experts.training.epochs": 3, "experts.count": 1})
    unused = flag in ("--data.root", "--teacher.weights")
    code, _ = attempt("show" if unused else "experts", run.file, "--no-ray", "--quiet", flag, address)
    assert code == 2 or unused
    assert flag != "--out" or [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
