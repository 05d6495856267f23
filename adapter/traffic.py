"""Offered load and latencies of one variant, from consecutive scrapes of its endpoints.

Arrivals are completions plus the growth of what waits and runs: what is offered, not what is finished.
A counter that falls is a restart; what it shows since then counts. Endpoints may come and go: what they
counted within the window stays counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from adapter.scraping import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Mean traffic over the window.

    Attributes:
        arrival_rate_rps: requests offered per second.
        input_tokens: mean per finished request; None while none has finished yet.
        output_tokens: likewise.
        ttft_ms: mean time to first token in the window; None without traffic.
        itl_ms: mean inter-token latency in the window; None without traffic.
        idle: nothing arrived, ran or waited: proof of zero traffic.

    """

    arrival_rate_rps: float
    input_tokens: float | None
    output_tokens: float | None
    ttft_ms: float | None
    itl_ms: float | None
    idle: bool


@dataclass(frozen=True, slots=True)
class _Growth:
    since: float
    at: float
    arrivals: float
    prompt_tokens: tuple[float, float]
    generation_tokens: tuple[float, float]
    ttft: tuple[float, float]
    itl: tuple[float, float]

    def arrived_after(self, start: float) -> float:
        """Arrivals after `start`: of an interval that began before it, its share."""
        length = self.at - self.since
        if self.since >= start or length <= 0:
            return self.arrivals
        return self.arrivals * (self.at - start) / length


class TrafficWindow:
    """Growth of the counters of one variant's endpoints over a sliding window."""

    def __init__(self, *, window_seconds: float) -> None:
        self.window_seconds = window_seconds
        self._latest: dict[str, tuple[float, Page]] = {}
        self._growth: deque[_Growth] = deque()
        self._first_at: float | None = None
        self._tokens: tuple[float | None, float | None] = (None, None)

    def add(self, endpoint: str, page: Page, *, now: float) -> None:
        """Take one scrape; `now` in monotonic seconds."""
        previous = self._latest.get(endpoint)
        self._latest[endpoint] = (now, page)
        if self._first_at is None:
            self._first_at = now
        if previous is not None:
            growth = _growth(previous[1], page, previous[0], now)
            self._growth.append(growth)
            output_tokens = _mean([growth.generation_tokens])
            if output_tokens is not None:
                self._tokens = (_mean([growth.prompt_tokens]), output_tokens)

    def keep(self, endpoints: tuple[str, ...]) -> None:
        """Forget the pages of endpoints that are gone, not what they counted."""
        for gone in self._latest.keys() - set(endpoints):
            del self._latest[gone]

    def stale(self, endpoints: tuple[str, ...], *, now: float, after_seconds: float) -> list[str]:
        """Endpoints without a scrape in the last `after_seconds`."""
        return [
            endpoint
            for endpoint in endpoints
            if endpoint not in self._latest or now - self._latest[endpoint][0] > after_seconds
        ]

    def traffic(self, *, now: float) -> Traffic | None:
        """Traffic over the window; None until two scrapes of one endpoint are there."""
        start = now - self.window_seconds
        while self._growth and self._growth[0].at <= start:
            self._growth.popleft()
        if not self._growth or self._first_at is None:
            return None
        span = self._growth[-1].at - max(self._first_at, start)
        arrivals = sum(item.arrived_after(start) for item in self._growth)
        input_tokens = _mean([item.prompt_tokens for item in self._growth])
        output_tokens = _mean([item.generation_tokens for item in self._growth])
        if output_tokens is None:
            # Nothing finished in the window: the last known lengths are the best guess.
            input_tokens, output_tokens = self._tokens
        ttft = _mean([item.ttft for item in self._growth])
        itl = _mean([item.itl for item in self._growth])
        stock = sum(page.running + page.waiting for _, page in self._latest.values())
        return Traffic(
            arrival_rate_rps=max(arrivals, 0.0) / span if span > 0 else 0.0,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            ttft_ms=None if ttft is None else 1000.0 * ttft,
            itl_ms=None if itl is None else 1000.0 * itl,
            idle=arrivals <= 0 and stock == 0,
        )


def _growth(before: Page, after: Page, since: float, now: float) -> _Growth:
    restarted = after.finished < before.finished or after.ttft[1] < before.ttft[1]
    stock = after.running + after.waiting
    if not restarted:
        stock -= before.running + before.waiting

    def grown(name: str) -> tuple[float, float]:
        total, count = getattr(after, name)
        if restarted:
            return total, count
        return total - getattr(before, name)[0], count - getattr(before, name)[1]

    return _Growth(
        since=since,
        at=now,
        arrivals=(after.finished if restarted else after.finished - before.finished) + stock,
        prompt_tokens=grown("prompt_tokens"),
        generation_tokens=grown("generation_tokens"),
        ttft=grown("ttft"),
        itl=grown("itl"),
    )


def _mean(pairs: list[tuple[float, float]]) -> float | None:
    count = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / count if count > 0 else None
