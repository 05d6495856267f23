"""Unexpected errors of single variants, which must not stop the others."""

from __future__ import annotations

import structlog

from adapter.collector.observation import Observation
from adapter.controller.sizing import SizedVariant

log = structlog.get_logger()


class Unforeseen:
    """Unexpected errors of single variants: logged once while they last, and worded for conditions."""

    def __init__(self) -> None:
        """Start without any."""
        self._now: set[tuple[str, str]] = set()
        self._before: set[tuple[str, str]] = set()

    def begin_cycle(self) -> None:
        """From now on, errors of this cycle are compared with those of the last."""
        self._before, self._now = self._now, set()

    def clause(self, what: str, key: str, error: Exception) -> str:
        """Log an error of a variant; give the clause for its conditions."""
        why = f"{what} ({type(error).__name__}); the adapter's log has the details"
        self._now.add((key, why))
        if (key, why) not in self._before:
            log.error("variant failed; holding its target", variant=key, exc_info=error)
        return why

    def unsized(self, what: str, key: str, error: Exception) -> SizedVariant:
        """A variant that such an error keeps from being sized."""
        problem = self.clause(what, key, error)
        return SizedVariant(
            observation=Observation(traffic=None, metrics="MetricsMissing", problem=problem)
        )
