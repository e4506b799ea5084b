"""Whatever names of files and classes hold, a terminal obeys none of it."""

import io
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table

from raydd.cli.output import PlainConsole
from raydd.core.errors import DataError
from tests.support.image_files import encoded, load_from, noise
from tests.support.small import raydd

NAMES = ("\x1b[31mred", "\x1b]0;title\x07", "\x9b2J", "back\x08space", "\u202eright to left", "nul\x00")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_escape_sequences_are_written_out(name: str, is_terminal: bool) -> None:
    printed = io.StringIO()
    console = PlainConsole(file=printed, width=100, force_terminal=is_terminal, color_system=None)
    table = Table(name)
    table.add_row(escape(name))
    console.print(escape(name))
    console.print(name, markup=False, soft_wrap=True)
    console.print(table)
    assert not set(printed.getvalue()) & {"\x1b", "\x07", "\x9b", "\x08", "\u202e", "\x00"}
    assert printed.getvalue().count(name.encode("unicode_escape").decode()[:4]) == 4


def test_other_letters_stay() -> None:
    printed = io.StringIO()
    PlainConsole(file=printed, width=100).print("玫瑰\tété\n🌹 👩\u200d🌾")
    assert printed.getvalue() == "玫瑰    été\n🌹 👩\u200d🌾\n"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\tb", "a\u2028b"])
def test_classes_of_such_names_are_refused(name: str, tmp_path: Path) -> None:
    for folder in (name, "other"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{number}.png").write_bytes(encoded(noise(number)))
    with pytest.raises(
        DataError, match=r"the class name '.*' has a line break or another character that is not printed"
    ):
        load_from("imagefolder", tmp_path)


def test_files_of_such_names_are_told_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / folder / f"{number}.png").write_bytes(encoded(noise(number)))
    (tmp_path / "images" / "a" / "\x1b[31mbroken.png").write_bytes(b"no image")
    assert raydd("inspect", tmp_path / "images", "--quiet", "--to", tmp_path / "found") == 0
    printed = capfd.readouterr().out
    assert "\\x1b[31mbroken.png" in printed and "\x1b" not in printed
