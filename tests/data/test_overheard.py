"""What Pillow warns of stands in the list of problems, not among the lines of a run."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from raydd.data.decoding import decode_all
from raydd.data.listing import Item, open_encoded
from raydd.data.overheard import overheard
from tests.support.damaged import changed
from tests.support.image_files import encoded, noise
from tests.support.small import raydd

WARNED = changed()["Corrupt EXIF data"]


def items(*files: bytes) -> list[Item]:
    return [Item(f"file {number}", partial(open_encoded, data)) for number, data in enumerate(files)]


def test_every_image_has_its_own_warnings_however_many_threads_decode() -> None:
    good = encoded(noise(1), "JPEG")
    files = [WARNED if number % 7 == 0 else good for number in range(400)]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        found = decode_all(items(*files), len(files), None)
    assert [number for number, *_ in found.problems] == list(range(0, 400, 7))
    assert all("Corrupt EXIF data" in what for *_, what in found.problems) and found.is_kept.all()
    assert not shown


def test_a_large_image_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    ((_, _, what),) = decode_all(items(encoded(noise(6))), 1, None).problems
    assert what.startswith("Image size (36 pixels) exceeds limit of 30 pixels")


def test_others_are_still_warned() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with overheard() as said:
            warnings.warn("of something else", UserWarning, stacklevel=1)
            with ThreadPoolExecutor(1) as other:
                other.submit(_open_warned).result()
        assert said == []
    assert any("something else" in str(warning.message) for warning in shown)
    assert any("EXIF" in str(warning.message) for warning in shown)


def _open_warned() -> None:
    """What a thread that does not listen is warned of."""
    (item,) = items(WARNED)
    with item.open() as image:
        image.getexif()


def test_all_is_as_before_when_the_last_thread_has_ended() -> None:
    before = warnings.showwarning, list(warnings.filters)
    inside, leave = threading.Barrier(3), threading.Barrier(3)

    def listen() -> None:
        with overheard():
            inside.wait()
            leave.wait()

    threads = [threading.Thread(target=listen) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    assert warnings.showwarning is not before[0]
    leave.wait()
    for thread in threads:
        thread.join()
    assert (warnings.showwarning, list(warnings.filters)) == before


def test_inspect_lists_them_and_prints_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, data in (("a", WARNED), ("b", encoded(noise(1), "JPEG"))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / name / f"{number}.jpg").write_bytes(data)
    assert raydd("inspect", tmp_path / "images", "--quiet", "--to", tmp_path / "found") == 0
    assert capfd.readouterr().err == ""
    listed = (tmp_path / "found" / "problems.csv").read_text().splitlines()[1:]
    assert len(listed) == 3 and all("Corrupt EXIF data" in line and line.endswith("yes") for line in listed)
