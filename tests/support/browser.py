"""A page as a browser without a network shows it: what goes wrong, what is cut off, what sorting does."""

import json
import re
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

from tests.support.pages import CHROMIUM

_PROBE = """<script>
onload = () => {
  const box = element => element.getBoundingClientRect()
  const inside = (a, b) =>
    a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1
  const overlap = (a, b) => Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left))
    * Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top))
  const cut = [], covered = []
  for (const svg of document.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, box(text)])
    for (const [words, own] of texts) if (!inside(own, box(svg))) cut.push(words)
    texts.forEach(([words, a], i) => texts.slice(i + 1).forEach(([others, b]) => {
      if (overlap(a, b) > 0.25 * Math.min(a.width * a.height, b.width * b.height)) covered.push(words + " / " + others)
    }))
  }
  const names = body => [...body.rows].slice(1).map(row => row.cells[0].textContent.trim().split("\\n")[0].trim())
  const body = document.querySelector("table.sortable tbody")
  const buttons = document.querySelectorAll("table.sortable")[0].tHead.querySelectorAll("button")
  const orders = [names(body)]
  for (const column of [1, 0, 0]) { buttons[column].click(); orders.push(names(body)) }
  const seen = {
    width: document.documentElement.scrollWidth,
    figures: [...document.querySelectorAll("figure")].map(figure => {
      const { width, height } = box(figure.querySelector("svg, table, img"))
      return [figure.querySelector("h3, thead th").textContent, width, height]
    }),
    images: [...document.images].filter(image => image.complete && image.naturalWidth).length,
    loaded: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:")),
    cut, covered, orders,
  }
  parent.document.title = JSON.stringify(seen)
}
</script>"""
_QUIET = (
    *("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync", "no-sandbox"),
    *("disable-gpu", "hide-scrollbars", "host-resolver-rules=MAP * ~NOTFOUND", "enable-logging=stderr"),
)


@dataclass(frozen=True)
class Seen:
    """What a browser says of a page."""

    console: list[str]
    """What was written to the console, errors among it."""
    width: int
    """How wide the page is, with what is reached by scrolling sideways."""
    figures: list[tuple[str, float, float]]
    """Title, width and height of what each figure shows."""
    images: int
    """Images that were decoded."""
    loaded: list[str]
    """Addresses of everything loaded from outside the page."""
    cut: list[str]
    """Words of figures that reach out of them."""
    covered: list[str]
    """Pairs of words of figures that cover each other."""
    orders: list[list[str]]
    """The names in the first group of the first table: at first, and after clicks on columns 1, 0 and 0."""


def look(folder: Path, html: str, width: int) -> Seen:
    """Show a page in a fresh headless browser, in a frame of a width, as windows have a least one."""
    inner = escape(html.replace("</body>", f"{_PROBE}</body>"))
    file = folder / f"page-{width}.html"
    file.write_text(f'<iframe style="width: {width}px; height: 1500px; border: 0" srcdoc="{inner}"></iframe>')
    flags = ("headless=new", *_QUIET, f"user-data-dir={folder / f'profile-{width}'}", "window-size=1600,1600")
    command = [
        str(CHROMIUM),
        *(f"--{flag}" for flag in flags),
        "--virtual-time-budget=5000",
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    try:
        said = json.loads(unescape(found[1]))
    except json.JSONDecodeError as error:
        raise AssertionError(f"the page did not come to its end: {console}") from error
    return Seen(console, **{**said, "figures": [tuple(figure) for figure in said["figures"]]})
