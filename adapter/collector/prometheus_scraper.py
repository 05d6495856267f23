"""The series of a whole fleet in Prometheus: one query per scrape cycle, and the recent past once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import structlog

from adapter.clock import Clock
from adapter.collector import promql
from adapter.collector.attribution import Attributed, Attribution
from adapter.collector.instant_vector import InstantVector
from adapter.collector.past.reader import PastReader
from adapter.collector.pickers import loads
from adapter.collector.prometheus import PrometheusClient, PrometheusError, PrometheusOptions
from adapter.collector.servers import moments as histograms
from adapter.collector.windows import queried as queried_buckets
from adapter.collector.windows.queried import PodLatencies
from adapter.resources.variant import VariantSource

log = structlog.get_logger()

BACKFILL_QUERIES = 6
"""Most queries into the past after a Prometheus was connected."""

LENGTHS_SECONDS = 300.0
"""Time between two queries for the variation of lengths, and half the span that it is taken over."""

LENGTHS_RETRY_SECONDS = 60.0
"""The same while the answers have no variation."""

LENGTHS_PODS = 2000
"""Pods beyond which that query is left out: its answer would have some 100,000 series."""


MODELS = 2000
"""Models at the gateways beyond which only those of variants are kept: each has its history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSample:
    """One pod's metrics in an answer.

    Attributes:
        pod: The pod's series with the variant that they belong to.
        at: Monotonic seconds at which Prometheus scraped them.

    """

    pod: Attributed
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthVariation:
    """Coefficients of variation of the lengths of a variant's requests; None where too few finished.

    Attributes:
        input_cv: Coefficient of the input tokens.
        output_cv: Coefficient of the output tokens.
        short_answers: Shares of requests of at most `SHORT_BOUNDS` output tokens; empty where not known.
        at: Monotonic seconds at which they were queried.

    """

    input_cv: float | None
    output_cv: float | None
    at: float
    short_answers: tuple[float, ...] = ()


PARTIAL_SECONDS = 300.0
"""Seconds for which a pod still counts that an answer of Prometheus with warnings does not have: a Thanos
without one of its stores returns only some series. Not longer, since some warnings never go and pods do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one answer has of the variants that were queried for.

    Attributes:
        samples: Their pods.
        newest: True for the answer of the present.
        variations: Variation of lengths by variant key; empty unless it was queried in this cycle.
        latencies: Pods with the histograms of their latencies, likewise.
        partial: Whether the answer came with warnings, so that it may lack some.

    """

    samples: tuple[PodSample, ...]
    newest: bool
    partial: bool = False
    variations: Mapping[str, LengthVariation] = field(default_factory=dict)
    latencies: tuple[PodLatencies, ...] = ()

    def oldest(self, seconds: float) -> float:
        """Seconds after which a pod that is in no answer is gone, where it is gone after these otherwise."""
        return max(seconds, PARTIAL_SECONDS) if self.partial else seconds


class PrometheusScraper:
    """Queries one Prometheus, or none; `past` reads what it has of one variant, for people."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        clock: Clock,
        *,
        interval: float,
        window: float,
        latency_window: float,
    ) -> None:
        """`interval`: seconds between scrape cycles; `window`: seconds of the past that are read once."""
        self._session = session
        self._clock = clock
        self._interval = interval
        self._window = window
        self._client: PrometheusClient | None = None
        self.past = PastReader(session)
        self._backfilled = False
        self._styles = promql.STYLES
        self._lengths_due = 0.0
        self._latencies = queried_buckets.Latencies(clock, latency_window)
        self._warnings: tuple[str, ...] = ()
        self._fleet_queries = 0
        self._problem = ""

    @property
    def connected(self) -> bool:
        """Whether there is a Prometheus to query."""
        return self._client is not None

    @property
    def url(self) -> str:
        """URL without credentials; empty without a Prometheus."""
        return "" if self._client is None else self._client.options.shown_url

    @property
    def problem(self) -> str:
        """Why the last scrape cycle got no usable response; empty if it did."""
        return self._problem

    @property
    def fleet_queries(self) -> int:
        """Number of scrape cycles that queried for pods; every one queries for gateways."""
        return self._fleet_queries

    @property
    def queries(self) -> int:
        """Number of queries to the present Prometheus."""
        return 0 if self._client is None else self._client.queries

    @property
    def failures(self) -> int:
        """Number of queries that it did not answer."""
        return 0 if self._client is None else self._client.failures

    def connect(self, options: PrometheusOptions | None) -> bool:
        """Query that Prometheus from now on, None ends it; whether it is another than before."""
        if options == (None if self._client is None else self._client.options):
            return False
        self.close()
        self.past.connect(options)
        self._client = None if options is None else PrometheusClient(self._session, options)
        self._backfilled = False
        self._styles = promql.STYLES
        # Not in the first cycle, which has the past to read.
        self._lengths_due = self._clock.monotonic() + LENGTHS_RETRY_SECONDS
        self._latencies.connected()
        self._problem = ""
        if options is not None:
            log.info(
                "Prometheus configured; querying it from the next scrape cycle on",
                url=options.shown_url,
            )
            if options.withheld:
                event = "credentials withheld; querying without them"
                log.warning(event, url=options.shown_url, why=options.withheld)
        return True

    def close(self) -> None:
        """Stop querying; a query in progress ends as it would."""
        self.past.close()
        if self._client is not None:
            self._client.close()

    def without_series_of(self, what: str) -> str:
        """Why a pod has no metrics though Prometheus answers; empty without a Prometheus."""
        if self._client is None:
            return ""
        return (
            f"Prometheus {self.url} has no recent series of {what}: is there a PodMonitor that selects"
            " its pods?"
        )

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Note whether the queries of a scrape cycle succeed; an error of Prometheus ends the context."""
        try:
            yield
            problem = ""
        except PrometheusError as error:
            problem = str(error)
        if problem not in {"", self._problem}:
            log.warning("Prometheus query failed; retrying in the next scrape cycle", error=problem)
        elif self._problem and not problem:
            log.info("Prometheus queries succeed again", url=self.url)
        self._problem = problem

    async def gateways(
        self, variants: Collection[VariantSource]
    ) -> tuple[tuple[promql.GatewayCount, ...], loads.PoolLoad]:
        """Requests at the inference gateways, and what endpoint pickers show of these variants' pools.

        Raises:
            PrometheusError: no usable response.

        """
        if self._client is None:
            return (), loads.PoolLoad()
        answer = await self._client.query(promql.gateways())
        # However many series it has, requests are served meanwhile; likewise below.
        return await asyncio.to_thread(_gateways, answer, variants)

    async def fleet(
        self, attribution: Attribution, queried: Collection[str], *, beside: Collection[str] = ()
    ) -> AsyncIterator[Batch]:
        """Samples of the variants with these keys, the oldest first: of the past once, then of the present.

        `beside`: keys of variants whose pods answer themselves; the query is only for their further servers.

        Raises:
            PrometheusError: no usable response.

        """
        if self._client is None:
            return
        # Samples are placed by their age: what happens after this moment must not make them younger.
        queried_at = self._clock.monotonic()
        self._fleet_queries += 1
        answer = await self._client.query(promql.fleet(self._styles))
        unseen = await asyncio.to_thread(promql.styles, answer.samples) - self._styles
        if unseen:
            # The times of series in a spelling are queried from when it is known.
            self._styles |= unseen
            answer = await self._client.query(promql.fleet(self._styles))
        past = [] if self._backfilled or not queried else await self._past(self._client, answer)
        self._backfilled = self._backfilled or bool(queried)
        if answer.warnings != self._warnings:
            log.warning(
                "Prometheus returned warnings; using its response, which may be incomplete",
                warnings=len(answer.warnings),
            )
        self._warnings = answer.warnings
        evaluated_at = _evaluated_at(answer, self._clock.time())
        for one in (*past, answer):
            # Thousands of pods take long to attribute: requests are served meanwhile.
            pods, newest = await asyncio.to_thread(_attributed, attribution, one), one is answer
            variations: Mapping[str, LengthVariation] = {}
            latencies: tuple[PodLatencies, ...] = ()
            if newest and queried:
                latencies = await self._latencies.read(
                    self._client, attribution, self._styles, pods=len(pods)
                )
            if newest and queried and queried_at >= self._lengths_due:
                variations = await self._variations(self._client, attribution, len(pods))
                # Before the first requests have finished there is nothing to take it from.
                wait = LENGTHS_SECONDS if variations else LENGTHS_RETRY_SECONDS
                self._lengths_due = queried_at + wait
            # Ages are differences within the clock of Prometheus: ours may be another.
            yield Batch(
                samples=tuple(
                    PodSample(
                        pod=pod,
                        at=queried_at
                        - max(evaluated_at - pod.sampled.sampled_at, 0.0) * self._clock.speed,
                    )
                    for pod in _wanted(pods, queried, beside)
                ),
                newest=newest,
                partial=bool(answer.warnings),
                variations={key: one for key, one in variations.items() if key in queried},
                latencies=tuple(one for one in latencies if one.pod.key in queried),
            )

    async def _variations(
        self, client: PrometheusClient, attribution: Attribution, pods: int
    ) -> Mapping[str, LengthVariation]:
        """Variation of lengths by variant; none where there are too many pods, or without an answer."""
        if pods > LENGTHS_PODS:
            return {}
        at = self._clock.monotonic()
        span = self._clock.real_seconds(2.0 * LENGTHS_SECONDS)
        try:
            answer = await client.query(promql.lengths(span, self._styles))
        except PrometheusError as error:
            log.info(
                "variation of lengths not read; using the last one or the default",
                error=str(error),
            )
            return {}
        return await asyncio.to_thread(_variations, attribution, answer, at)

    async def _past(self, client: PrometheusClient, answer: InstantVector) -> list[InstantVector]:
        """Answers of the last window, oldest first: so rates exist at once, not a window later."""
        last = _evaluated_at(answer, self._clock.time())
        step = max(self._interval, self._window / BACKFILL_QUERIES)
        number = int(self._window / step)
        answers = []
        for index in range(number):
            at = last - self._clock.real_seconds(step) * (number - index)
            try:
                answers.append(await client.query(promql.fleet(self._styles), at=at))
            except PrometheusError as error:
                log.info(
                    "Prometheus has no earlier samples; rates start with the next scrape cycle",
                    error=str(error),
                )
                break
        return answers


def _gateways(
    answer: InstantVector, variants: Collection[VariantSource]
) -> tuple[tuple[promql.GatewayCount, ...], loads.PoolLoad]:
    models = {source.model for source in variants}
    pods = {(source.namespace, name) for source in variants for name in source.pods}
    counts = promql.models(answer.samples)
    if len(counts) > MODELS:
        counts = [count for count in counts if not count.model or count.model in models]
    return tuple(counts), promql.pool_load(answer.samples, models=models, pods=pods)


def _evaluated_at(answer: InstantVector, default: float) -> float:
    """When an answer was evaluated, by the clock of Prometheus."""
    return max((sample.evaluated_at for sample in answer.samples), default=default)


def _attributed(attribution: Attribution, answer: InstantVector) -> list[Attributed]:
    return attribution.attribute(promql.pods(answer.samples))


def _wanted(
    pods: Iterable[Attributed], queried: Collection[str], beside: Collection[str]
) -> Iterator[Attributed]:
    """Pods of the variants that are queried for, and further servers of those beside."""
    return (pod for pod in pods if pod.key in queried or (pod.further and pod.key in beside))


def _variations(
    attribution: Attribution, answer: InstantVector, at: float
) -> Mapping[str, LengthVariation]:
    by_variant: dict[str, list[promql.Sampled]] = {}
    for pod in attribution.attribute(promql.lengths_of_pods(answer.samples)):
        by_variant.setdefault(pod.key, []).append(pod.sampled)
    variations = {}
    for key, pods in by_variant.items():
        input_cv = histograms.variation(
            filter(None, (pod.input_moments for pod in pods)), but_rare=True
        )
        output_cv = histograms.variation(filter(None, (pod.output_moments for pod in pods)))
        if input_cv is not None or output_cv is not None:
            variations[key] = LengthVariation(
                input_cv=input_cv,
                output_cv=output_cv,
                short_answers=histograms.short_shares(
                    filter(None, (pod.output_moments for pod in pods))
                ),
                at=at,
            )
    return variations


def add_queried(add: Callable[..., None], sample: PodSample) -> str:
    """Add one pod's metrics from Prometheus; give what is wrong with them."""
    pod, page = sample.pod, sample.pod.sampled.page
    if page is not None:
        try:
            add(pod.key, pod.endpoint, page, now=sample.at, source="prometheus", how=pod.how)
        except Exception as error:
            # Whatever a pod's series make of us is that variant's problem alone.
            log.exception(
                "metrics not usable; going on without them until the next query",
                variant=pod.key,
                endpoint=pod.endpoint,
            )
            return f"{pod.endpoint}: its metrics cannot be used ({type(error).__name__})"
    problem = pod.sampled.problem
    return f"{pod.endpoint}: {problem}" if problem else ""
