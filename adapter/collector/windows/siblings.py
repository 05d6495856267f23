"""Several addresses of one pod in Prometheus: whether they are of one process.

Two jobs may scrape one server at two addresses, and a pod may have several servers. Where pages say when
their process started, that tells; SGLang's do not. Counters only grow, so a page that shows more than a later
page of the other address is of another process. A counter of 0 says nothing: a job may have dropped its
series.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from adapter.collector.model_servers import PodMetrics

MARGIN_SECONDS = 5.0
"""Time by which a scrape must be the later one: a page is written some time after its scrape began."""

CONTRADICTIONS = 2
"""Looks in a row that must contradict one process: a restart between two looks is no second process."""

_LOOKS = 8
_MOST = 16
"""Most addresses of one pod that are compared."""

Counters = tuple[float, ...]


class _Look(NamedTuple):
    at: float
    counters: Counters


class Siblings:
    """Looks at the addresses of pods that have several."""

    def __init__(self) -> None:
        self._looks: dict[str, dict[str, deque[_Look]]] = {}
        self._contradictions: dict[str, dict[tuple[str, str], int]] = {}

    def retain(self, pods: Iterable[str]) -> None:
        """Forget all other pods."""
        known = set(pods)
        self._looks = {pod: looks for pod, looks in self._looks.items() if pod in known}
        self._contradictions = {
            pod: counts for pod, counts in self._contradictions.items() if pod in known
        }

    def note(self, pod: str, address: str, page: PodMetrics, *, at: float) -> None:
        """Compare a page with those of the pod's other addresses; `at`: time of its scrape, seconds."""
        looks = self._looks.setdefault(pod, {})
        if address not in looks and len(looks) >= _MOST:
            return
        own = looks.setdefault(address, deque(maxlen=_LOOKS))
        if own and at <= own[-1].at:
            return
        own.append(_Look(at, _counters(page)))
        counts = self._contradictions.setdefault(pod, {})
        for other, theirs in looks.items():
            contradicts = None if other == address else _contradicts(theirs, own)
            # One of two servers is behind the other, which contradicts in that direction alone.
            pair = (address, other)
            if contradicts is not None and counts.get(pair, 0) < CONTRADICTIONS:
                counts[pair] = counts.get(pair, 0) + 1 if contradicts else 0

    def apart(self, pod: str, one: str, other: str) -> bool:
        """Whether two addresses of a pod are known to be of two processes."""
        counts = self._contradictions.get(pod, {})
        return max(counts.get((one, other), 0), counts.get((other, one), 0)) >= CONTRADICTIONS


def _contradicts(earlier: Iterable[_Look], own: deque[_Look]) -> bool | None:
    """Whether an earlier look at another address shows more than the last own one; None: it cannot be said.

    It cannot where the own counters fell in between: that was a restart.
    """
    last = own[-1]
    before = [look for look in earlier if look.at <= last.at - MARGIN_SECONDS]
    since = [look for look in own if before and look.at <= before[-1].at]
    if not before or not since:
        return None
    between = [look for look in own if look.at >= since[-1].at]
    if any(
        now < then for one, later in itertools.pairwise(between) for then, now in _pairs(one, later)
    ):
        return None
    return any(0 < one < two for one, two in _pairs(last, before[-1]))


def _pairs(look: _Look, other: _Look) -> Iterable[tuple[float, float]]:
    """The counters of two looks, each with the other's."""
    return zip(look.counters, other.counters, strict=True)


def _counters(page: PodMetrics) -> Counters:
    return (
        page.finished,
        *page.prompt_tokens,
        *page.generation_tokens,
        *page.ttft,
        *page.itl,
    )
