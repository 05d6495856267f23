"""Histograms of the latencies of one variant's pods over a sliding window.

They are kept for the window alone: those of the long window would be most of what the adapter holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from adapter.collector.model_servers import PodMetrics, SumCount
from adapter.collector.servers.histogram import Histogram, merged
from adapter.collector.windows.growth import EMPTY, Growth, Sample, restarted, tokens_per_gap


@dataclass(frozen=True, slots=True)
class Distribution:
    """Latencies of the window.

    Attributes:
        counted: Latencies that were counted, with buckets or without.
        histogram: Those of pods whose buckets were read, in seconds; None without any.

    """

    counted: float = 0.0
    histogram: Histogram | None = None

    @property
    def covered(self) -> float:
        """Share of the latencies whose buckets were read, 0 to 1."""
        if self.histogram is None or self.counted <= 0:
            return 0.0
        return min(self.histogram.count / self.counted, 1.0)

    def quantile_ms(self, share: float) -> float | None:
        """Milliseconds that this share does not exceed; None without buckets."""
        value = None if self.histogram is None else self.histogram.quantile(share)
        return None if value is None else 1000.0 * value

    def within(self, milliseconds: float) -> float | None:
        """Share of at most that many milliseconds; None without a bound or without buckets."""
        if self.histogram is None or milliseconds <= 0:
            return None
        return self.histogram.within(milliseconds / 1000.0)

    def certainly_beyond(self, milliseconds: float) -> float:
        """Latencies that were longer for certain: those of buckets that begin there or later."""
        return 0.0 if self.histogram is None else self.histogram.beyond(milliseconds / 1000.0)


NOTHING = Distribution()

_ALL = 0.8
"""Part of the latencies by the counters from which those of buckets by Prometheus are all of them."""


_Sample = tuple[float, str, Histogram | None, Histogram | None, Histogram | None]
"""Monotonic time, endpoint, and growth of times to first token, gaps, and means of gaps by request."""


class LatencyWindow:
    """Growth of the pods' histograms."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._growth: deque[_Sample] = deque()
        self._queried: dict[str, tuple[float, Histogram | None, Histogram | None]] = {}

    def put(
        self, endpoint: str, ttft: Histogram | None, itl: Histogram | None, *, at: float
    ) -> None:
        """Have what Prometheus says of a pod that shows no histogram itself, as of monotonic `at`."""
        start = at - 2.0 * self._seconds
        self._queried = {key: item for key, item in self._queried.items() if item[0] > start}
        self._queried[endpoint] = (at, ttft, itl)

    def add(self, endpoint: str, sample: Sample, after: PodMetrics, *, now: float) -> None:
        """Add what a pod's histograms grew by from one sample to a page at monotonic `now`."""
        before = EMPTY if restarted(sample, after) else sample.page
        ttft = _growth(before.ttft_buckets, before.ttft, after.ttft_buckets)
        itl = _growth(before.itl_buckets, before.itl, after.itl_buckets)
        tpot = _growth(before.tpot_buckets, before.generation_tokens, after.tpot_buckets)
        if ttft is not None or itl is not None or tpot is not None:
            self._growth.append((now, endpoint, ttft, itl, tpot))
        self._drop(now - self._seconds)

    def forget(self, endpoint: str) -> None:
        """Drop what a pod's histograms grew by."""
        self._growth = deque(item for item in self._growth if item[1] != endpoint)
        self._queried.pop(endpoint, None)

    def since(
        self, start: float, counted: list[Growth], itl: float | None
    ) -> tuple[Distribution, Distribution]:
        """Times to first token and inter-token latencies after a time.

        Args:
            start: Monotonic time.
            counted: Growth of the counters after it.
            itl: Mean seconds per generated token after it.

        """
        recent = [item[:4] for item in self._growth if item[0] > start]
        own = {item[1] for item in recent}
        # Answers come once a window: each counts until the next one, or a failure of that.
        queried = [
            (at, endpoint, ttft, gap)
            for endpoint, (at, ttft, gap) in self._queried.items()
            if at > start - self._seconds and endpoint not in own
        ]
        recent += queried
        ttfts = merged(item[2] for item in recent if item[2] is not None)
        gaps = merged(item[3] for item in recent if item[3] is not None)
        if gaps is not None:
            gaps = gaps.scaled(1.0 / tokens_per_gap(counted, itl))
        first, later = (sum(getattr(item, name)[1] for item in counted) for name in ("ttft", "itl"))
        if not queried:
            return Distribution(first, ttfts), Distribution(later, gaps)
        return _estimated(first, ttfts), _estimated(later, gaps)

    def of_requests(self, start: float, counted: list[Growth], itl: float | None) -> Distribution:
        """Mean inter-token latencies of the requests that ended after a time; arguments as of `since`."""
        means = merged(item[4] for item in self._growth if item[0] > start and item[4] is not None)
        if means is not None:
            means = means.scaled(1.0 / tokens_per_gap(counted, itl))
        return Distribution(sum(item.generation_tokens[1] for item in counted), means)

    def _drop(self, start: float) -> None:
        while self._growth and self._growth[0][0] <= start:
            self._growth.popleft()


def _estimated(counted: float, histogram: Histogram | None) -> Distribution:
    """A distribution whose window is not quite that of the counters: about as many are all."""
    count = 0.0 if histogram is None else histogram.count
    return Distribution(count if count >= _ALL * counted else counted, histogram)


def _growth(
    before: Histogram | None, counted: SumCount, after: Histogram | None
) -> Histogram | None:
    """Growth of one histogram; None where it did not grow, or by how much is not known.

    Before its first request a server may not show it, whose `counted` is zero then. A page of Prometheus
    has none of its own either, but counts.
    """
    if after is None:
        return None
    if before is None and counted[1] <= 0:
        return after if after.count > 0 else None
    return None if before is None else after.grown_from(before)
