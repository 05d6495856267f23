"""Templates to HTML, in pieces: the event loop answers other requests in between."""

from __future__ import annotations

import asyncio
import functools
import math
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from adapter.logs import printable
from adapter.tasks import Pieces
from adapter.ui import charts

if TYPE_CHECKING:
    import jinja2

UNKNOWN = "\u2013"
"""Dash in place of a number that is not known."""

BRIEF = 120
"""Characters of a reason in a table."""


class Budget:
    """Time that pages may take of the event loop: updates become as seldom as they are expensive.

    Attributes:
        spent: Seconds of work so far.

    """

    def __init__(self, share: float, *, least: float, most: float) -> None:
        """Make a budget.

        Args:
            share: Part of one core that may be used.
            least: Least seconds between two updates.
            most: Most seconds between two updates.

        """
        self._share = share
        self._least = least
        self._most = most
        self._updated_at = float("-inf")
        self._spent_then = 0.0
        self.spent = 0.0

    def due(self, now: float) -> bool:
        """Whether the next update may come at a monotonic time."""
        cost = self.spent - self._spent_then
        wait = min(max(cost / self._share, self._least), self._most)
        return now - self._updated_at >= wait

    def updated(self, now: float) -> None:
        """Note that an update begins."""
        self._updated_at = now
        self._spent_then = self.spent


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, all compiled; loaded with the first page, as `serve` needs none to start."""
    import jinja2  # noqa: PLC0415 - see above

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("adapter.ui"),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update(
        number=number,
        signed=signed,
        ms=milliseconds,
        share=share,
        percent=percent,
        iso=iso,
        clock=clock,
        day_and_clock=day_and_clock,
        brief=brief,
        path=path,
        svg=charts.svg,
        bar=charts.bar,
    )
    for name in templates.list_templates(extensions=["html"]):
        templates.get_template(name)
    return templates


def _visible(value: object) -> object:
    """A text in which nothing hides, or turns round what stands beside it; `Markup` is made of such texts."""
    return printable(value, keep="\r\n\t") if type(value) is str else value


async def ready() -> jinja2.Environment:
    """The templates; the first page waits for them in a thread, so that nothing else does."""
    if environment.cache_info().currsize:
        return environment()
    return await asyncio.to_thread(environment)


async def page(template: str, context: Mapping[str, Any], budget: Budget) -> bytes:
    """Render a template."""
    compiled = (await ready()).get_template(template)  # compiled once, which counts for no update
    pieces = Pieces(budget)
    texts = []
    for text in compiled.generate(**context):
        texts.append(text)
        await pieces.breathe()
    body = "".join(texts).encode("utf-8", "replace")
    pieces.end()
    return body


def number(value: float | None) -> str:
    """A number with at most two decimals; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def signed(value: float) -> str:
    """A number with its sign; 0 has none."""
    text = number(value)
    return text if value <= 0 or text == "0" else f"+{text}"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three digits, from ten seconds on as seconds."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value >= 10_000:
        return f"{value / 1000:,.3g} s" if value < 1e6 else f"{value / 1000:,.0f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def share(value: float | None) -> str:
    """A share as per cent."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.0%}"


def percent(value: float) -> str:
    """A share as per cent, rounded down: 100 % is all; the closer to it, the more decimals."""
    decimals = 0 if value < 0.9 else 1 if value < 0.99 else 2
    text = f"{math.floor(value * 10 ** (decimals + 2) + 1e-6) / 10**decimals:.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.') if decimals else text}%"


def iso(at: float) -> str:
    """Unix time as ISO 8601."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(at: float) -> str:
    """Unix time as time of day."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def day_and_clock(at: float) -> str:
    """Unix time as day and time of day."""
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M:%S")


def brief(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= BRIEF else text[: BRIEF - 1].rstrip() + "…"


def path(text: str) -> str:
    """One segment of a URL's path."""
    return urllib.parse.quote(text, safe="", errors="replace")
