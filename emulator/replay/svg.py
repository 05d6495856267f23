"""Figures as inline SVG elements, coloured by the page's style sheet.

Matplotlib draws with placeholder colours, which are replaced by CSS variables (`var(--ink)`) afterwards, so
that one picture suits a light and a dark page. Equal input gives equal text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Box = tuple[float, float, float, float]
"""Left, bottom, right and top of a label, points."""

SHARED = ("ink", "muted", "grid", "bad", "bound")
OWN_COLORS = 8
"""Number of distinct policy colours, `own0` and so on; further policies reuse them."""
PLACEHOLDERS = {name: f"#01010{i}" for i, name in enumerate(SHARED)} | {
    f"own{i}": f"#02020{i}" for i in range(OWN_COLORS)
}
"""Placeholder colour to draw with, by the name of its CSS variable."""


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Draw with text as text, identifiers derived from content and salt, and without the user's settings."""
    import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import

    settings: dict[Any, Any] = {**mpl.rcParamsDefault}
    settings = {name: value for name, value in settings.items() if not name.startswith("backend")}
    settings |= {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9.0}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph"
        )  # a browser has fonts for glyphs that matplotlib's lack
        yield


def text(figure: Figure, label: str) -> str:
    """The figure as one SVG element with a label, without file headers; call it within `style`."""
    figure.patch.set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    element = file.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r"<defs>\s*<style.*?</defs>", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element).replace("xlink:href=", "href=")
    element = re.sub(r'(?<= )(?:d|x|y|transform)="[^"]*"', _rounded, element)
    element = re.sub(r'(?<= )style="[^"]*"', _themed, element)
    size = re.search(r'viewBox="[^"]*"', element)
    name = escape("".join(letter if letter.isprintable() else " " for letter in label))
    head = f'<svg class="plot" role="img" aria-label="{name}" {size[0] if size else ""}>'
    element = re.sub(r"<svg[^>]*>", lambda _: head, element, count=1)
    return re.sub(r"\s*\n\s*", "\n", element)


def _rounded(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d)\d+", r"\1", attribute[0])


def _themed(declaration: re.Match[str]) -> str:
    """Replace placeholder colours by CSS variables, and drop the font family."""
    css = re.sub(r"font-family: [^;\"]*;? ?", "", declaration[0])
    for name, color in PLACEHOLDERS.items():
        css = css.replace(color, f"var(--{name})")
    return css


def free_box(
    x: float, y: float, width: float, taken: Sequence[Box], limits: Sequence[float]
) -> Box:
    """Nearest free box for a label: beside its point, or above or below it."""
    left, bottom, right, top = limits
    middle = max(left, min(x - width / 2, right - width))
    fallback: Box | None = None
    for shift in sorted(range(-240, 241, 4), key=abs):
        for start in (x + 9, x - 9 - width, middle):
            box = (start, y + shift - 6, start + width, y + shift + 6)
            inside = left <= start and start + width <= right + 4
            inside = inside and bottom <= box[1] and box[3] <= top + 4
            fallback = fallback or box
            if inside and not any(_overlap(box, other) for other in taken):
                return box
    return fallback or (x, y, x, y)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
