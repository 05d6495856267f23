"""Logging set-up: readable lines on a terminal, JSON lines elsewhere, always on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import structlog


class LazyLogger:
    """A structlog logger for modules that short commands load: structlog is imported with the first line.

    structlog loads rich for its tracebacks, which takes longer than those commands have.
    """

    def __getattr__(self, level: str) -> Any:
        """The method of that level."""
        import structlog  # noqa: PLC0415

        return getattr(structlog.get_logger(), level)


def configure(style: Literal["auto", "text", "json"], *, quiet: bool = False) -> None:
    """Set up structlog for this process; `quiet` leaves only errors."""
    import structlog  # noqa: PLC0415 - see `LazyLogger`

    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("error" if quiet else "info"),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
