"""Pages as a reader and a browser get them."""

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Page(HTMLParser):
    """What a reader of the page gets: tags with their attributes, and the text of rows, sections and tiles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._rows: list[list[str]] = []
        self.tiles: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if "tile" in (dict(attrs).get("class") or "").split():
            self.tiles.append("")
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open or "script" in self._open:
            return
        self.words.append(data)
        if "tr" in self._open and self._rows[-1]:
            self._rows[-1][-1] += data
        if "dl" in self._open and self.tiles:
            self.tiles[-1] += data

    def attributes(self, *names: str) -> list[str]:
        return [value for _, attrs in self.tags for name, value in attrs.items() if name in names and value]

    @property
    def rows(self) -> list[list[str]]:
        return [[" ".join(cell.replace("\N{NO-BREAK SPACE}", " ").split()) for cell in row] for row in self._rows]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def require_self_contained(html: str) -> None:
    """See that a page loads nothing from elsewhere, and that its anchors are there."""
    assert not re.search(r"https?:|//[a-z]|@import|<script[^>]", re.sub(r"data:image/png;base64,[^\"]+", "", html))
    page = Page(html)
    links = page.attributes("src", "href", "xlink:href", "srcset", "data", "action")
    assert links and all(link.startswith(("data:", "#")) for link in links)
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= set(page.attributes("id"))


def browse(tmp_path: Path, html: str, *flags: str) -> str:
    """Show a page in a fresh headless browser; returns what it prints."""
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    headless = ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", f"user-data-dir={tmp_path / 'profile'}")
    file = tmp_path / "page.html"
    file.write_text(html)
    command = [str(CHROMIUM), *(f"--{flag}" for flag in (*quiet, *headless, *flags)), file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def shown(tmp_path: Path, html: str, width: int) -> tuple[int, int]:
    """Show a page in a window of a width: how wide it really is, and how many images of 8 pixels it shows."""
    frame = f'''<iframe style="width: {width}px" srcdoc="{escape(html)}"></iframe><script>onload = () => {{
        const page = document.querySelector("iframe").contentDocument
        const images = [...page.images].filter(image => image.complete && image.naturalWidth === 8)
        document.title = JSON.stringify([page.documentElement.scrollWidth, images.length])
    }}</script>'''
    title = browse(tmp_path, frame, "dump-dom").split("<title>")[1].split("</title>")[0]
    scrolled, images = json.loads(title)
    return scrolled, images
