"""Arrival rate and latencies of one variant, from consecutive samples of its pods' metrics.

Arrivals are completions plus the growth of the requests that wait and run: the offered load, not the
throughput. Requests whose clients disconnect are never completed, but most had a first token; so first
tokens plus the growth of the queue is a second count, and the larger of the two over a window is used. A
counter that falls was reset; its value since then counts. Pods may come and go: what they counted within the
window stays counted. Samples may come from the pods or from Prometheus, in any mix, because both have the
same counters; one that is no newer than the last is ignored.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers import moments as histograms
from adapter.collector.windows import arriving, begun, looks, restarts
from adapter.collector.windows.counts import Counts
from adapter.collector.windows.growth import (
    EMPTY,
    Growth,
    Sample,
    SteadyLengths,
    began_anew,
    cached,
    growth_of,
    itl_samples,
    mean,
    mean_itl,
    most_there,
    preemptions,
)
from adapter.collector.windows.latencies import NOTHING, Distribution, LatencyWindow

RECENT_PARTS = (1 / 4, 1 / 2)
"""Parts of the window, up to the last sample, whose rates are compared with that of all of it."""

_AGED = 1 / 4
"""Part of the window after the last sample from which on rates are those of then: what has been counted last
would be all that is left of an ever shorter window."""

SUDDEN_PARTS = (1 / 12, 1 / 6)
"""Parts in which a large rise shows first: 5 and 10 s of a window of a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Traffic of one variant, averaged over the window.

    Attributes:
        arrival_rate_rps: Requests that arrived per second.
        long_rate_rps: Requests that arrived per second over the long window.
        recent: Lengths of shorter windows in seconds with their rates; the shortest first.
        sudden: The same of windows of a few seconds, in which only a large rise can be seen.
        dispersions: Dispersion of the arrivals in windows as short, each before its own; None if not known.
        input_tokens: Mean input tokens of a finished request; None while none has finished yet.
        output_tokens: Mean output tokens of a finished request; None while none has finished yet.
        steady: Mean lengths over the long window; None while nothing finished in it.
        ttft_ms: Mean time to first token; None without traffic.
        itl_ms: Mean inter-token latency per generated token; None without traffic.
        idle: Whether nothing arrived, ran or waited.
        idle_seconds: Time for which that is proven, without a gap.
        running: Requests in service in the last sample.
        waiting: Requests in the pods' queues in the last sample, and those elsewhere that are known.
        queued_at: Pods in whose queues more than one request waits.
        waiting_elsewhere: Requests of `waiting` that no pod has: a gateway or an endpoint picker holds them.
        waiting_growth_rps: Growth of the queues per second over the last quarter of the window; negative
            where they shrink.
        queue_growth_rps: The same over the window: what arrived and was not begun.
        kv_cache: Share of the KV cache in use, of the fullest pod; None where it is not reported.
        input_cv: Coefficient of variation of the input tokens over the long window; None where pods show no
            histogram or too few requests finished.
        output_cv: The same of the output tokens.
        short_answers: Shares of requests of at most `SHORT_BOUNDS` output tokens; empty where not known.
        cached_tokens: Mean input tokens per request that the prefix cache served over the long window; None
            where it is not reported.
        preemptions_rps: Preemptions per second over the long window; None where they are not reported.
        kv_tokens: Tokens that the KV cache of the smallest pod holds; None where it is not reported.
        sampled_at: Time of the oldest pod's last sample, monotonic seconds.
        ttft: Times to first token of the window, by the pods' histograms.
        itl: Inter-token latencies per generated token, likewise.
        tpot: Mean inter-token latencies of the requests that ended, likewise.
        itl_samples: Mean inter-token latency in milliseconds of each pod between two samples, with tokens.
        most_there: Most requests in service and queues on one page in the window, each pod's added up.

    """

    arrival_rate_rps: float
    input_tokens: float | None
    output_tokens: float | None
    ttft_ms: float | None
    itl_ms: float | None
    idle: bool
    long_rate_rps: float = 0.0
    steady: SteadyLengths | None = None
    recent: tuple[tuple[float, float], ...] = ()
    sudden: tuple[tuple[float, float], ...] = ()
    dispersions: tuple[float | None, ...] = ()
    idle_seconds: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    queued_at: int = 0
    waiting_elsewhere: float = 0.0
    waiting_growth_rps: float = 0.0
    queue_growth_rps: float = 0.0
    kv_cache: float | None = None
    input_cv: float | None = None
    output_cv: float | None = None
    short_answers: tuple[float, ...] = ()
    cached_tokens: float | None = None
    preemptions_rps: float | None = None
    kv_tokens: float | None = None
    sampled_at: float = 0.0
    ttft: Distribution = NOTHING
    itl: Distribution = NOTHING
    tpot: Distribution = NOTHING
    itl_samples: tuple[tuple[float, float], ...] = ()
    most_there: float = 0.0


class TrafficWindow:
    """Growth of the counters of one variant's pods over a sliding window, with `latencies`."""

    def __init__(self, *, window_seconds: float, long_seconds: float = 0.0) -> None:
        """`long_seconds`: length of a second window for the rate; no less than the first one counts."""
        self.window_seconds = window_seconds
        self.long_seconds = max(window_seconds, long_seconds)
        self._latest: dict[str, Sample] = {}
        self._departed: dict[str, Sample] = {}
        self._origins: dict[str, float] = {}
        self._suspended: set[str] = set()
        self._growth: deque[Growth] = deque()
        self.latencies = LatencyWindow(window_seconds)
        self._first_at: float | None = None
        self._active_at = -math.inf
        self._tokens: tuple[float | None, float | None] = (None, None)
        self._unreported = Counts()
        self._reported_at: float | None = None

    def add(
        self, endpoint: str, page: PodMetrics, *, now: float, started: float | None = None
    ) -> None:
        """Add one sample.

        Args:
            endpoint: Endpoint of the pod; the same from every source.
            page: Its metrics.
            now: Time of the sample, monotonic seconds.
            started: Start time of the server process, on the same clock; None where it is not known.

        """
        # A pod that was unready for a while continues from its last sample: others served meanwhile.
        away = endpoint not in self._latest and endpoint not in self._suspended
        previous = self._latest.get(endpoint) or self._departed.get(endpoint)
        if previous is not None and now <= previous.at:
            return
        self._departed.pop(endpoint, None)
        if previous is None and not self._latest:
            # The first pod after there was none: the request that woke it has not been served yet.
            self._active_at = max(self._active_at, now)
        self._first_at = now if self._first_at is None else self._first_at
        self._latest[endpoint] = (previous or Sample(now, page)).next(page, now, started)
        if previous is not None:
            self._suspended.discard(endpoint)
            self._take(growth_of(endpoint, previous, page, now, started, away=away))
            self.latencies.add(endpoint, previous, page, now=now)
        elif endpoint not in self._suspended and (
            began := restarts.since_start(page, started, after=self._first_at, now=now)
        ):
            # It started while others were sampled: all that it counted arrived since then.
            self._origins[endpoint] = self._first_at
            first = Sample(began, EMPTY)
            self._take(growth_of(endpoint, first, page, now, started, away=True))
            self.latencies.add(endpoint, first, page, now=now)
        else:
            # What it counted before may be older than this window, and it may not have been idle.
            late = now - self._first_at > self.window_seconds / 4
            if endpoint in self._suspended:
                # What came to it while it was not counted is not known, which is no rate of zero.
                late = False
                self._growth = deque(item for item in self._growth if item.endpoint != endpoint)
                self.latencies.forget(endpoint)
            self._origins[endpoint] = self._first_at if late else now
            self._active_at = max(self._active_at, now)
        if page.stock > 0:
            self._active_at = max(self._active_at, now)

    def _take(self, growth: Growth) -> None:
        self._growth.append(growth)
        self._unreported = self._unreported.plus(growth)
        if _came(growth) or growth.generation_tokens[1] or growth.itl[1]:
            self._active_at = max(self._active_at, growth.at)
        if growth.generation_tokens[1] > 0:
            self._tokens = (mean([growth.prompt_tokens]), mean([growth.generation_tokens]))

    def retain(self, endpoints: Iterable[str]) -> None:
        """Drop the samples of all other pods, not what they counted."""
        self._suspended &= set(endpoints)
        for gone in self._latest.keys() - set(endpoints):
            self._departed[gone] = self._latest.pop(gone)

    def suspend(self, endpoint: str, *, forget: bool) -> None:
        """Count nothing of a pod until its next sample; `forget`: nor what it grew by until then."""
        if endpoint in self._latest:
            self._departed[endpoint] = self._latest.pop(endpoint)
        self._suspended.add(endpoint)
        if forget:
            self._departed.pop(endpoint, None)

    def rate_since_last(self, *, at_least: float) -> tuple[float, float] | None:
        """Arrival rate since the last call that gave one, requests per second, and the time of its end.

        None while the samples since then cover less than `at_least` seconds.
        """
        known = (item.at for item in (*self._latest.values(), *self._departed.values()))
        if not self._growth or (last := max(known, default=None)) is None:
            return None
        since = self._reported_at if self._reported_at is not None else self._first_at
        if since is None or last - since < at_least:
            return None
        rate = self._unreported.offered / (last - since)
        self._unreported, self._reported_at = Counts(), last
        return rate, last

    def sampled_at(self, endpoint: str) -> float | None:
        """Time of its last sample, monotonic seconds; None without one."""
        sample = self._latest.get(endpoint)
        return None if sample is None else sample.at

    def part(self, endpoint: str, *, now: float) -> str:
        """Why what it counted over the window is a part of what came to it; empty where it is all of it."""
        start, servers = now - self.window_seconds, len(self._latest)
        return began_anew(self._growth, endpoint, start=start, now=now, servers=servers)

    @property
    def waiting(self) -> float:
        """Requests in the queues of all pods, as of their last samples."""
        return sum(sample.page.waiting for sample in self._latest.values())

    def stale(self, endpoints: tuple[str, ...], *, now: float, after_seconds: float) -> list[str]:
        """Pods without a sample of the last `after_seconds`, or with a lone one since some did not count."""
        known = {e: sample for e, sample in self._latest.items() if e not in self._suspended}
        return [e for e in endpoints if e not in known or now - known[e].at > after_seconds]

    def _forget(self, now: float) -> float:
        """Drop what is older than the long window; return the time that rates are of."""
        now = _as_of(now, self._growth, self._latest.keys() | self._suspended, self.window_seconds)
        while self._growth and self._growth[0].at <= now - self.long_seconds:
            self._growth.popleft()
        oldest, departed = now - self.long_seconds, self._departed
        self._departed = {key: sample for key, sample in departed.items() if sample.at > oldest}
        known = self._latest.keys() | self._departed.keys()
        self._origins = {key: origin for key, origin in self._origins.items() if key in known}
        return now

    def traffic(self, *, now: float) -> Traffic | None:
        """Traffic over the window; None until there are two samples of one pod."""
        real, now = now, self._forget(now)
        if self._first_at is None or all(real - i.at >= self.window_seconds for i in self._growth):
            return None
        start = now - self.window_seconds
        recent = [item for item in self._growth if item.at > start]
        input_tokens = mean([item.prompt_tokens for item in recent])
        running, gone = _running(self._latest), _running(self._departed)
        output_tokens, steady, output_cv = begun.lengths(
            self._growth, recent, (running, gone), (now - self.long_seconds, start)
        )
        if output_tokens is None:
            # Nothing finished in the window: the last known lengths are the best estimate.
            input_tokens, output_tokens = self._tokens
        ttft, itl = mean([item.ttft for item in recent]), mean_itl(recent)
        ttfts, itls = self.latencies.since(start, recent, itl)
        pages = [sample.page for sample in self._latest.values()]
        sampled_at = min((sample.at for sample in self._latest.values()), default=now)
        return Traffic(
            arrival_rate_rps=self._rate(recent, start),
            long_rate_rps=self._rate(self._growth, now - self.long_seconds),
            recent=tuple(self.rates_of(RECENT_PARTS)),
            sudden=(sudden := tuple(self.rates_of(SUDDEN_PARTS))),
            dispersions=tuple(self.dispersion(seconds) for seconds, _ in sudden),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            steady=steady,
            ttft_ms=None if ttft is None else 1000.0 * ttft,
            itl_ms=None if itl is None else 1000.0 * itl,
            idle=_quiet(recent) and all(page.stock == 0 for page in pages),
            idle_seconds=max(sampled_at - self._active_at, 0.0),
            running=running,
            waiting=sum(page.waiting for page in pages),
            queued_at=sum(page.waiting > 1 for page in pages),
            waiting_growth_rps=_queued(self._latest, self._growth, 0.25 * self.window_seconds),
            queue_growth_rps=_queued(self._latest, self._growth, self.window_seconds),
            kv_cache=max((p.kv_cache for p in pages if p.kv_cache is not None), default=None),
            input_cv=histograms.variation((i.input_moments for i in self._growth), but_rare=True),
            output_cv=output_cv,
            short_answers=histograms.short_shares(item.output_moments for item in self._growth),
            cached_tokens=cached(self._growth, input_tokens),
            preemptions_rps=preemptions(pages, self._growth, now, self.long_seconds),
            kv_tokens=min((p.kv_tokens for p in pages if p.kv_tokens is not None), default=None),
            sampled_at=sampled_at,
            ttft=ttfts,
            itl=itls,
            tpot=self.latencies.of_requests(start, recent, itl),
            itl_samples=itl_samples(recent, itl),
            most_there=most_there(recent),
        )

    def rates_of(self, parts: Iterable[float]) -> Iterator[tuple[float, float]]:
        """Seconds and rates of these parts of the window, each up to the last sample."""
        for part in parts:
            start = self.last - part * self.window_seconds
            items = [item for item in self._growth if item.at > start]
            if items:
                yield part * self.window_seconds, self._rate(items, start)

    def _rate(self, items: Iterable[Growth], start: float, until: float = -math.inf) -> float:
        return arriving.rate(items, start, self._latest, self._origins, until=until)

    def dispersion(self, seconds: float) -> float | None:
        """Variance over mean of the arrivals in windows of that many seconds, before the last one of them."""
        return looks.dispersion(self._growth, seconds, until=self.last - seconds)

    @property
    def last(self) -> float:
        """Time of the last sample of a pod that is there, monotonic seconds; infinite where none is."""
        return max((sample.at for sample in self._latest.values()), default=math.inf)

    @property
    def growth(self) -> Iterable[Growth]:
        """What pods counted over the long window, those that have left too; the oldest first."""
        return iter(self._growth)

    def arrived(self, seconds: float, *, until: float) -> float:
        """Requests per second over so many seconds to `until`, of pods that have all left before then."""
        start = until - seconds
        return self._rate((item for item in self._growth if item.at > start), start, until)


def _quiet(growth: Iterable[Growth]) -> bool:
    """Whether no request came to any pod."""
    return not any(map(_came, growth))


def _came(growth: Growth) -> bool:
    return bool(growth.arrivals or growth.begun or growth.rejected)


def _running(samples: Mapping[str, Sample]) -> float:
    """Requests in service in these samples."""
    return sum(sample.page.running for sample in samples.values())


def _as_of(now: float, growth: Iterable[Growth], present: Container[str], window: float) -> float:
    """The time that rates are of: while pods that are there are not heard, soon after their last samples."""
    heard = max((item.at for item in growth if item.endpoint in present), default=now)
    return min(now, heard + _AGED * window)


def _queued(latest: Mapping[str, Sample], growth: Iterable[Growth], seconds: float) -> float:
    """Growth of the queues of the present pods per second, over that many seconds to the last sample."""
    start = max((sample.at for sample in latest.values()), default=math.inf) - seconds
    return sum(
        item.queued * item.share_after(start) / seconds
        for item in growth
        if item.at > start and item.endpoint in latest
    )
