"""Figures as SVG elements within a page, whose style sheet gives the colours.

Matplotlib draws with stand-ins for colours, which the finished text trades for variables (`var(--ink)`): one
picture suits a light and a dark page. Equal input gives equal text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED = ("ink", "muted", "grid", "bad", "bound")
OWN_COLORS = 8
"""Things that have a colour of their own, `own0` and so on; more share them."""
STAND_INS = {name: f"#01010{i}" for i, name in enumerate(SHARED)} | {
    f"own{i}": f"#02020{i}" for i in range(OWN_COLORS)
}
"""What to draw with, by the name of the variable."""


@contextmanager
def look(salt: str) -> Iterator[None]:
    """Text as text, identifiers that follow from the content and the salt, nothing of the user's settings."""
    import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import

    settings: dict[Any, Any] = {**mpl.rcParamsDefault}
    settings = {name: value for name, value in settings.items() if not name.startswith("backend")}
    settings |= {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9.0}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a browser has fonts for what ours lacks
        yield


def text(figure: Figure, label: str) -> str:
    """The picture's element, without what only a file of its own needs; to be called under `look`."""
    figure.patch.set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    found = file.getvalue()
    found = found[found.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)
    found = re.sub(r"<defs>\s*<style.*?</defs>", "", found, flags=re.DOTALL)
    found = re.sub(r'<g id="[^"]*"', "<g", found).replace("xlink:href=", "href=")
    found = re.sub(r'(?<= )(?:d|x|y|transform)="[^"]*"', _rounded, found)
    found = re.sub(r'(?<= )style="[^"]*"', _themed, found)
    size = re.search(r'viewBox="[^"]*"', found)
    name = escape("".join(letter if letter.isprintable() else " " for letter in label))
    head = f'<svg class="plot" role="img" aria-label="{name}" {size[0] if size else ""}>'
    found = re.sub(r"<svg[^>]*>", lambda _: head, found, count=1)
    return re.sub(r"\s*\n\s*", "\n", found)


def _rounded(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d)\d+", r"\1", attribute[0])


def _themed(style: re.Match[str]) -> str:
    """Variables for colours; the page's own font."""
    found = re.sub(r"font-family: [^;\"]*;? ?", "", style[0])
    for name, color in STAND_INS.items():
        found = found.replace(color, f"var(--{name})")
    return found
