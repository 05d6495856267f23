"""Logging set-up: readable lines on a terminal, JSON lines elsewhere, always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import structlog


LINES_A_MINUTE = 200
"""Most log lines a minute with the same message about one namespace: a tenant with thousands of objects does
not fill the log."""

MOST_CHARACTERS, MOST_ITEMS = 16_384, 64
"""Most characters of one text of a line, and items of one list, such as the names of removed variants."""

_ABOUT, _LONGEST = ("variant", "namespace", "service", "group", "object", "problem"), 100
"""Values that say which namespace a line is about, the first that is there, and the characters that count."""

_MOST_COUNTED = 10_000
"""Messages and namespaces that are counted at the same time."""


class LazyLogger:
    """A structlog logger for modules that short commands load: structlog is imported with the first line.

    structlog loads rich for its tracebacks, which takes longer than those commands have.
    """

    def __getattr__(self, level: str) -> Any:
        """The method of that level."""
        import structlog  # noqa: PLC0415

        return getattr(structlog.get_logger(), level)


def printable(text: str, *, keep: str = "") -> str:
    """A text in which characters that could steer a terminal, or begin a line, are escaped.

    Names, pages and objects of tenants end in what people read.

    Args:
        text: what others may have written.
        keep: control characters that stay, such as ends of lines.

    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def _printable_values(_: object, __: str, entry: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {
        name: printable(value, keep="\n\t" if name == "exception" else "")
        if isinstance(value, str)
        else value
        for name, value in entry.items()
    }


def _shortened(_: object, __: str, entry: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The entry without what is beyond the limits of its values; how much that was is said."""
    return {name: _shortened_value(value) for name, value in entry.items()}


def _shortened_value(value: Any) -> Any:
    left_out = len(value) - MOST_CHARACTERS if isinstance(value, str) else 0
    if left_out > 0:
        # A traceback ends with the error.
        half = MOST_CHARACTERS // 2
        return f"{value[:half]}... ({left_out} characters) ...{value[-half:]}"
    if isinstance(value, list | tuple) and len(value) > MOST_ITEMS:
        return [*value[:MOST_ITEMS], f"and {len(value) - MOST_ITEMS} more"]
    return value


class _Floods:
    """Leaves out what is more than `LINES_A_MINUTE`; the next line of its kind says how many that were."""

    def __init__(self, dropped: type[BaseException]) -> None:
        self._dropped = dropped
        self._counted: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(
        self, _: object, __: str, entry: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """The entry; raises `dropped` for one too many."""
        about = next((entry[name] for name in _ABOUT if entry.get(name)), "")
        if isinstance(about, tuple):
            about = next(iter(about), "")
        # A problem begins with kind, namespace and name, and a key with the namespace.
        about = str(about).partition("/")[0][:_LONGEST]
        kind, now = (str(entry.get("event")), about), time.monotonic()
        since, lines = self._counted.get(kind, (now, 0))
        if now - since >= 60.0:
            if lines > LINES_A_MINUTE:
                entry["left_out"] = lines - LINES_A_MINUTE
            since, lines = now, 0
        if kind not in self._counted and len(self._counted) >= _MOST_COUNTED:
            self._counted.clear()
        self._counted[kind] = since, lines + 1
        if lines >= LINES_A_MINUTE:
            raise self._dropped
        if lines == LINES_A_MINUTE - 1:
            entry["more"] = "lines like this one are left out for the rest of a minute, and counted"
        return entry


def configure(style: Literal["auto", "text", "json"], *, quiet: bool = False) -> None:
    """Set up structlog for this process; `quiet` leaves only errors."""
    import structlog  # noqa: PLC0415 - see `LazyLogger`

    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()]
        if as_json
        else [_printable_values, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _Floods(structlog.DropEvent),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _shortened,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("error" if quiet else "info"),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
