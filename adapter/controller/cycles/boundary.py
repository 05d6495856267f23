"""Errors that nobody foresaw: those of one variant end in its conditions, those of a cycle in readiness."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from adapter.collector.observation import Observation

log = structlog.get_logger()


class VariantErrors:
    """Errors within one variant; each is logged once, for as long as it lasts."""

    def __init__(self) -> None:
        self._now: set[tuple[str, str]] = set()
        self._before: set[tuple[str, str]] = set()

    def begin_cycle(self) -> None:
        """Begin another cycle: what does not occur in it is logged when it comes back."""
        self._before, self._now = self._now, set()

    def note(self, what: str, key: str, error: Exception) -> str:
        """Log an error of the variant with that key; give the clause for its conditions."""
        why = f"{what} ({type(error).__name__}); the adapter's log has the details"
        if (key, why) not in self._before | self._now:
            log.error("variant failed; holding its target", variant=key, exc_info=error)
        self._now.add((key, why))
        return why

    def unusable(self, what: str, key: str, error: Exception) -> Observation:
        """The observation of a variant whose load cannot be used."""
        problem = self.note(what, key, error)
        return Observation(traffic=None, metrics="MetricsMissing", problem=problem)


class CycleErrors:
    """Cycles that failed as a whole."""

    def __init__(self) -> None:
        self._count = 0
        self._problems: dict[str, str] = {}

    @property
    def count(self) -> int:
        """Number of cycles that failed."""
        return self._count

    @property
    def problem(self) -> str | None:
        """Why the last cycles failed; None while they do not."""
        return "; ".join(self._problems.values()) or None

    def of(self, cycle: str) -> str:
        """Why the last cycle of a kind failed; empty where it did not."""
        return self._problems.get(cycle, "")

    def clear(self) -> None:
        """Forget the problems: this replica does not run cycles any more."""
        self._problems.clear()

    @contextlib.contextmanager
    def recorded(self, cycle: str, message: str) -> Iterator[None]:
        """Record whether what is inside fails; its error ends here.

        Args:
            cycle: what it is, such as `reconcile cycle`.
            message: message of the log where it fails.

        """
        try:
            yield
        except Exception as error:
            log.exception(message)
            self._count += 1
            self._problems[cycle] = f"the last {cycle} failed ({type(error).__name__})"
        else:
            self._problems.pop(cycle, None)
