"""Histograms of latencies from Prometheus: one query for the growth of every pod's buckets over the window.

Its answer has some 40 series per pod, so it comes once a minute, and for fleets up to a number of pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from adapter.clock import Clock
from adapter.collector import model_servers, promql
from adapter.collector.attribution import Attributed, Attribution
from adapter.collector.instant_vector import Sample
from adapter.collector.prometheus import PrometheusClient, PrometheusError
from adapter.collector.promql import Sampled
from adapter.collector.servers import buckets
from adapter.collector.servers.histogram import Histogram

log = structlog.get_logger()

SECONDS = 60.0
"""Least time between two queries."""

MOST_PODS = 1000
"""Pods beyond which latencies are not queried: the answer would have more than 40,000 series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLatencies:
    """Histograms of one pod in an answer.

    Attributes:
        pod: The pod with the variant that it belongs to.
        at: Monotonic seconds at which it was queried.

    """

    pod: Attributed
    at: float


class Latencies:
    """Queries for latencies, as seldom as they may come."""

    def __init__(self, clock: Clock, window: float) -> None:
        """`window`: seconds over which latencies are taken."""
        self._clock = clock
        self._window = window
        self._due = 0.0

    def connected(self) -> None:
        """Query with the next scrape cycle: another Prometheus is there."""
        self._due = self._clock.monotonic()

    async def read(
        self,
        client: PrometheusClient,
        attribution: Attribution,
        styles: Collection[str],
        *,
        pods: int,
    ) -> tuple[PodLatencies, ...]:
        """Histograms by pod; none where no query is due, pods are too many, or without an answer."""
        at = self._clock.monotonic()
        if at < self._due or pods > MOST_PODS:
            return ()
        self._due = at + max(SECONDS, self._window)
        try:
            answer = await client.query(query(self._clock.real_seconds(self._window), styles))
        except PrometheusError as error:
            log.info(
                "histograms of latencies not read; showing means until the next query",
                error=str(error),
            )
            return ()
        sampled = await asyncio.to_thread(of_pods, answer.samples)
        return tuple(PodLatencies(pod=pod, at=at) for pod in attribution.attribute(sampled))


def query(seconds: float, styles: Collection[str]) -> str:
    """Query for the growth of the histograms of latencies over the last seconds."""
    return promql.growth(model_servers.LATENCY_BUCKETS, seconds, styles)


def of_pods(samples: Iterable[Sample]) -> list[Sampled]:
    """Pods in the result of `query()` with their histograms; those without one are left out."""
    pods = []
    for (namespace, pod, instance, _, model), items in promql.by_pod(samples).items():
        one = Sampled(
            namespace=namespace,
            pod=pod,
            instance=instance,
            model=model,
            sampled_at=0.0,
            evaluated_at=0.0,
            ttft=_histogram(items, model_servers.TTFT_BUCKETS),
            itl=_histogram(items, model_servers.ITL_BUCKETS),
        )
        if one.ttft is not None or one.itl is not None:
            pods.append(one)
    return pods


def _histogram(
    items: Sequence[tuple[str, Mapping[str, str], float]], names: Sequence[str]
) -> Histogram | None:
    """Histogram of the first of these names that a pod has."""
    for name in names:
        samples = [(labels.get("le", ""), value) for own, labels, value in items if own == name]
        # Growth is extrapolated bucket by bucket: rounding may leave one below that before it.
        samples.sort(key=lambda item: _bound(item[0]))
        largest, rising = 0.0, []
        for _, value in samples:
            largest = max(largest, value)
            rising.append(largest)
        histogram = buckets.histogram([bound for bound, _ in samples], rising) if samples else None
        if histogram is not None and histogram.count > 0:
            return histogram
    return None


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
