"""Pushing to the Hub: by the real huggingface_hub over HTTP, to a stand-in on this machine."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import raydd
from raydd.core.errors import ConfigError, UserError
from tests.support.hub_server import TOKEN, Hub, served
from tests.support.small import SmallRun, finished_run, state
from tests.support.small import raydd as command

pytest.importorskip("huggingface_hub", reason="the extra `hub` brings it")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with served() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # other tests may have said so
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield found


@pytest.fixture
def digits(tmp_path: Path) -> SmallRun:
    return finished_run(tmp_path)


def pushed(run: SmallRun, *flags: str) -> int:
    """The exit code of the command."""
    return command("export", run.out, "--format", "hub", "--quiet", *flags)


def test_a_set_becomes_a_dataset_of_the_hub(
    digits: SmallRun, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pushed(digits, "--to", "ants/digits-10", "--license", "CC-BY-4.0", "--private") == 0
    assert capsys.readouterr().out == f"pushed to the Hub: {hub.url}/datasets/ants/digits-10\n"
    files = hub.datasets["ants/digits-10"]
    assert {"README.md", "card.json", "data/train-00000-of-00001.parquet", "synthetic/manifest.json"} <= set(files)
    assert hub.private == {"ants/digits-10"} and len(hub.commits) == 1
    readme = files["README.md"].decode()
    head = yaml.safe_load(readme.split("---\n")[1])
    assert head["license"] == "cc-by-4.0" and "| licence | cc-by-4.0 |" in readme
    assert "measured with the images as they are written here, rounded to 8 bit" in readme
    for name, content in files.items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(content)
    assert len(raydd.load(tmp_path / "back")) == 10
    files["data/train-00001-of-00002.parquet"] = b"old"
    assert raydd.push(digits.out, "ants/digits-10", measure=False) == f"{hub.url}/datasets/ants/digits-10"
    assert "data/train-00001-of-00002.parquet" not in files and len(hub.commits) == 2
    assert "was not measured (it was asked not to measure it)" in files["README.md"].decode()


def test_what_is_not_raydds_is_not_written_over(digits: SmallRun, hub: Hub) -> None:
    for theirs in ("photos.zip", "data/photos.parquet"):
        hub.datasets["ants/theirs"] = {".gitattributes": b"", "README.md": b"mine", theirs: b"mine"}
        before = dict(hub.datasets["ants/theirs"])
        with pytest.raises(UserError, match="^ants/theirs: the Hub has files there that raydd has not written"):
            raydd.push(digits.out, "ants/theirs", license="mit", measure=False)
        assert hub.datasets["ants/theirs"] == before and not hub.commits
    hub.datasets["ants/theirs"] = {".gitattributes": b""}
    raydd.push(digits.out, "ants/theirs", license="mit", measure=False)
    assert "card.json" in hub.datasets["ants/theirs"]


def test_what_is_missing_is_named(digits: SmallRun, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(digits.out)
    for repo, license, token, wanted in (
        ("ants/one", None, TOKEN, "^license: say under which licence the images may be used"),
        ("ants/one", "no licence", TOKEN, "^license: 'no licence' is no name of a licence"),
        ("ants", "mit", TOKEN, "^to: on the Hub it is the name of a dataset, such as"),
        ("ants/one", "mit", "", "^HF_TOKEN: is not set, and no token is saved"),
        ("ants/one", "mit", "hf_wrong", "^ants/one: the Hub refuses or cannot be reached: .*401"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match=wanted):
            raydd.push(digits.out, repo, license=license)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert pushed(digits, "--to", "ants/one") == 2
    assert not hub.datasets and state(digits.out) == before


def test_a_hub_that_does_not_answer(digits: SmallRun, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="^ants/one: the Hub refuses or cannot be reached"):
        raydd.push(digits.out, "ants/one", license="mit", measure=False)


def test_without_the_library(digits: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="^format: hub needs huggingface_hub: pip install"):
        raydd.push(digits.out, "ants/one", license="mit")
