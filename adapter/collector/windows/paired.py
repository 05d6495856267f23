"""Traffic of replicas in which some pods compute prompts and others generate.

Such a request is on the pages of both, as one that came, ran and ended. So the pods that prefill have a
window of their own, and of the two counts the higher one counts: requests that the prefill pods hold back
have not come to the others yet, and what goes to the decode pods alone (short prompts) is on theirs only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from adapter.collector.attribution import pod_of
from adapter.collector.model_servers import PodMetrics
from adapter.collector.traffic import Traffic, TrafficWindow
from adapter.collector.windows.latencies import NOTHING, LatencyWindow

Rates = Iterable[tuple[float, float]]
"""Seconds and rates of parts of a window."""

RESUMES = "pages before its last one did not count, so its load is known from the next one on"


class PairedWindow(TrafficWindow):
    """The window of one variant's pods; of those that prefill for others apart."""

    def __init__(self, *, window_seconds: float, long_seconds: float = 0.0) -> None:
        """Arguments of `TrafficWindow`."""
        super().__init__(window_seconds=window_seconds, long_seconds=long_seconds)
        self._prefill = TrafficWindow(window_seconds=window_seconds, long_seconds=long_seconds)
        self._prefilling: Collection[str] = frozenset()

    def pair(self, prefilling: Collection[str]) -> None:
        """Count these endpoints, whose requests others generate, apart."""
        self._prefilling = prefilling

    def _apart(self, endpoint: str) -> bool:
        return bool(self._prefilling) and pod_of(endpoint) in self._prefilling

    def latencies_of(self, endpoint: str) -> LatencyWindow:
        """The window of the latencies of one pod's requests."""
        return self._prefill.latencies if self._apart(endpoint) else self.latencies

    def add(
        self, endpoint: str, page: PodMetrics, *, now: float, started: float | None = None
    ) -> None:
        """Add one sample, as `TrafficWindow.add`."""
        if self._apart(endpoint):
            self._prefill.add(endpoint, page, now=now, started=started)
        else:
            super().add(endpoint, page, now=now, started=started)

    def retain(self, endpoints: Iterable[str]) -> None:
        """Drop the samples of all other pods, not what they counted."""
        known = set(endpoints)
        apart = {endpoint for endpoint in known if self._apart(endpoint)}
        # One that changes over, as when the last decode pod goes, would count once more when it comes back.
        for endpoint in known - apart:
            self._prefill.suspend(endpoint, forget=True)
        for endpoint in apart:
            super().suspend(endpoint, forget=True)
        self._prefill.retain(apart)
        super().retain(known - apart)

    def suspend(self, endpoint: str, *, forget: bool) -> None:
        """Count nothing of a pod until its next sample, as `TrafficWindow.suspend`."""
        if self._apart(endpoint):
            self._prefill.suspend(endpoint, forget=forget)
        else:
            super().suspend(endpoint, forget=forget)

    def sampled_at(self, endpoint: str) -> float | None:
        """Time of its last sample, monotonic seconds; None without one."""
        if self._apart(endpoint):
            return self._prefill.sampled_at(endpoint)
        return super().sampled_at(endpoint)

    def part(self, endpoint: str, *, now: float) -> str:
        """As `TrafficWindow.part`."""
        if self._apart(endpoint):
            return self._prefill.part(endpoint, now=now)
        return super().part(endpoint, now=now)

    @property
    def waiting(self) -> float:
        """Requests in queues as of the last samples; of both roles the longer, as one may be in both."""
        return max(super().waiting, self._prefill.waiting)

    def stale(self, endpoints: tuple[str, ...], *, now: float, after_seconds: float) -> list[str]:
        """Pods whose load is not known, as `TrafficWindow.stale`."""
        apart = tuple(filter(self._apart, endpoints))
        own = tuple(endpoint for endpoint in endpoints if endpoint not in apart)
        stale = {
            *super().stale(own, now=now, after_seconds=after_seconds),
            *self._prefill.stale(apart, now=now, after_seconds=after_seconds),
        }
        return [endpoint for endpoint in endpoints if endpoint in stale]

    def note(self, endpoint: str) -> str:
        """Why the load of a pod that answers is not known; empty where it is."""
        unknown = self.stale((endpoint,), now=0.0, after_seconds=math.inf)
        return RESUMES if unknown and self.sampled_at(endpoint) is not None else ""

    def rate_since_last(self, *, at_least: float) -> tuple[float, float] | None:
        """Arrival rate since the last call that gave one, as `TrafficWindow.rate_since_last`."""
        own = super().rate_since_last(at_least=at_least)
        other = self._prefill.rate_since_last(at_least=at_least) if self._prefilling else None
        return own if own is None or other is None else (max(own[0], other[0]), own[1])

    def rates_of(self, parts: Iterable[float]) -> Iterator[tuple[float, float]]:
        """Seconds and rates of these parts of the window, each up to the last sample."""
        known = list(parts)
        yield from _higher(super().rates_of(known), self._prefill.rates_of(known))

    def arrived(self, seconds: float, *, until: float) -> float:
        """Requests per second of pods that have left, as `TrafficWindow.arrived`."""
        own = super().arrived(seconds, until=until)
        return max(own, self._prefill.arrived(seconds, until=until))

    def traffic(self, *, now: float) -> Traffic | None:
        """Traffic over the window: lengths and latencies of tokens are of the pods that generate."""
        own = super().traffic(now=now)
        other = self._prefill.traffic(now=now) if self._prefilling else None
        return own if own is None or other is None else _joined(own, other)


def _joined(decode: Traffic, prefill: Traffic) -> Traffic:
    """One traffic of both roles, whose requests are the same ones.

    Prompts are computed, and cached, where prefill is; the first token is its last result.
    """
    return replace(
        decode,
        arrival_rate_rps=max(decode.arrival_rate_rps, prefill.arrival_rate_rps),
        long_rate_rps=max(decode.long_rate_rps, prefill.long_rate_rps),
        recent=tuple(_higher(decode.recent, prefill.recent)),
        sudden=tuple(_higher(decode.sudden, prefill.sudden)),
        input_tokens=prefill.input_tokens if decode.input_tokens is None else decode.input_tokens,
        cached_tokens=_cached(decode, prefill),
        ttft_ms=decode.ttft_ms if prefill.ttft_ms is None else prefill.ttft_ms,
        ttft=decode.ttft if prefill.ttft == NOTHING else prefill.ttft,
        idle=decode.idle and prefill.idle,
        idle_seconds=min(decode.idle_seconds, prefill.idle_seconds),
        running=decode.running + prefill.running,
        waiting=max(decode.waiting, prefill.waiting),
        queued_at=decode.queued_at + prefill.queued_at,
        waiting_growth_rps=max(decode.waiting_growth_rps, prefill.waiting_growth_rps),
        queue_growth_rps=max(decode.queue_growth_rps, prefill.queue_growth_rps),
        kv_cache=max(
            (share for share in (decode.kv_cache, prefill.kv_cache) if share is not None),
            default=None,
        ),
        sampled_at=min(decode.sampled_at, prefill.sampled_at),
        most_there=decode.most_there + prefill.most_there,
    )


def _cached(decode: Traffic, prefill: Traffic) -> float | None:
    """Cached input tokens per request: those that prefill never saw, short ones, have none."""
    if prefill.cached_tokens is None or decode.long_rate_rps <= 0.0:
        return prefill.cached_tokens
    return prefill.cached_tokens * min(prefill.long_rate_rps / decode.long_rate_rps, 1.0)


def _higher(rates: Rates, others: Rates) -> Iterator[tuple[float, float]]:
    """Rates by their seconds, of two for the same seconds the higher."""
    known = dict(others)
    return ((seconds, max(rate, known.get(seconds, -math.inf))) for seconds, rate in rates)
