"""The load of every variant: scraped from its pods, queried from Prometheus, or both.

Both sources fill the same windows, since both have the pods' counters: the pods themselves, and Prometheus
for those that do not answer or are not to be scraped. A variant can change over in the middle of a window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import aiohttp
import structlog

from adapter import tasks
from adapter.clock import Clock
from adapter.collector import model_servers, observation, promql
from adapter.collector.attribution import Attribution
from adapter.collector.observation import CollectedVariant, Observation
from adapter.collector.pickers.loads import PoolLoad
from adapter.collector.pickers.queried import QueriedGateways
from adapter.collector.pod_scraper import LOOK_SECONDS, OnPage, PodScraper, ScrapeJob
from adapter.collector.prometheus import PrometheusError, PrometheusOptions
from adapter.collector.prometheus_scraper import Batch, PrometheusScraper, add_queried
from adapter.collector.servers.plausibility import Assessment, Plausibility
from adapter.collector.traffic import TrafficWindow
from adapter.collector.transport import access
from adapter.collector.windows import jobs
from adapter.collector.windows.discovery import Discovery
from adapter.collector.windows.paired import PairedWindow
from adapter.collector.windows.siblings import Siblings
from adapter.resources.variant import VariantSource
from adapter.settings.control import Collecting, Source

log = structlog.get_logger()

_DECLARED = Collecting()
"""The declared defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """How load is collected; times in seconds. Defaults are those of the declared settings.

    Attributes:
        interval: Time between two scrape cycles.
        busy_interval: Time between two scrapes of pods of a variant whose requests wait or whose load moves.
        window: Length of the window over which rates are taken.
        long_window: Length of a second window for steadier rates; no less than `window` counts.
        stale_after: Age at which a pod's metrics no longer count; 0 means 2.5 intervals.
        source: Source of metrics for variants that do not say.
        spread: Share of the interval over which the scrapes of a cycle are spread. Default 0.2.
        pods: How pods with https are reached.

    """

    interval: float = _DECLARED.scrape_interval
    busy_interval: float = _DECLARED.busy_scrape_interval
    window: float = _DECLARED.window
    long_window: float = _DECLARED.long_window
    stale_after: float = _DECLARED.stale_after
    source: Source = _DECLARED.metrics_source
    spread: float = 0.2
    pods: access.Access = access.PLAIN

    @property
    def oldest(self) -> float:
        """Age in seconds at which a pod's metrics no longer count."""
        return self.stale_after or 2.5 * self.interval


class Collector:
    """Owns one record per variant with the window of its traffic."""

    def __init__(
        self, *, session: aiohttp.ClientSession, clock: Clock, settings: CollectionSettings
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._variants: dict[str, CollectedVariant] = {}
        self._pods = PodScraper(session, clock, interval=settings.interval, by=settings.pods)
        self._prometheus = PrometheusScraper(
            session, clock, interval=settings.interval, window=settings.long_window,
            latency_window=settings.window,
        )  # fmt: skip
        self._gateways = QueriedGateways(clock, oldest=settings.oldest)
        self._cycle_seconds, self.past = 0.0, self._prometheus.past
        self._siblings, self._discovery, self._querying = Siblings(), Discovery(), tasks.Lasting()

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of scrapes and queries so far, and of those that failed, for telemetry."""
        return {
            "scrapes": self._pods.scrapes,
            "scrape_failures": self._pods.failures,
            "queries": self._prometheus.queries,
            "query_failures": self._prometheus.failures,
        }

    @property
    def fleet_queries(self) -> int:
        """Number of scrape cycles that queried Prometheus for pods; every one queries it for gateways."""
        return self._prometheus.fleet_queries

    @property
    def prometheus_problem(self) -> str:
        """Why the last scrape cycle got no answer from Prometheus; empty if it did."""
        return self._prometheus.problem

    @property
    def gateways(self) -> tuple[promql.GatewayCount, ...]:
        """Requests at the gateways, from Prometheus; the same object until it has answered again."""
        return self._gateways.counts

    @property
    def pool_load(self) -> PoolLoad:
        """What endpoint pickers show of their pools, from Prometheus."""
        return self._gateways.load

    @property
    def cycle_seconds(self) -> float:
        """Duration of the last scrape cycle, scenario seconds."""
        return self._cycle_seconds

    def connect(self, options: PrometheusOptions | None) -> None:
        """Query that Prometheus from now on; the same options keep the connection, None ends it."""
        if self._prometheus.connect(options):
            self._querying.close()
            self._gateways.clear()

    def close(self) -> None:
        """Stop scraping and querying."""
        self._querying.close()
        self._pods.close()
        self._prometheus.close()

    def use(self, variants: Iterable[VariantSource]) -> None:
        """Collect these variants from now on; what is known of those that stay is kept."""
        now, before, self._variants = self._clock.monotonic(), self._variants, {}
        for source in variants:
            item = before.get(source.key) or CollectedVariant(
                source=source,
                window=PairedWindow(
                    window_seconds=self._settings.window, long_seconds=self._settings.long_window
                ),
                plausibility=Plausibility(interval=self._settings.interval),
            )
            self._variants[source.key] = observation.with_source(item, source, now=now)
        self._pods.retain(self._jobs())

    def _jobs(self) -> list[ScrapeJob]:
        return jobs.scrape_jobs((v.source for v in self._variants.values()), self._settings.source)

    async def collect_some(self, keys: Iterable[str]) -> set[asyncio.Task[None]]:
        """Scrape pods of some variants, those within the budget, between two cycles; returns what goes on."""
        some, add = jobs.within_budget(self._jobs(), keys), _add_scraped(self.add)
        return await self._pods.scrape(some, add, wait_seconds=LOOK_SECONDS)

    async def collect(self, *, spread: bool = False) -> None:
        """One scrape cycle: pods, then Prometheus; `spread`: until the next one is due, which follows."""
        started = self._clock.monotonic()
        seconds = self._settings.spread * self._settings.interval if spread else 0.0
        await self._pods.scrape(self._jobs(), _add_scraped(self.add), spread_seconds=seconds)
        if connected := self._prometheus.connected:
            left = started + self._settings.interval - self._clock.monotonic()
            await self._querying.run(self._query, self._clock.sleep(left) if spread else None)
        self._variants = observation.without_unasked(self._variants, asked=connected)
        self._cycle_seconds = self._clock.monotonic() - started

    async def _query(self) -> None:
        """Read the gateways, and then what the pods did not give: neither fails with the other."""
        sources = [item.source for item in self._variants.values()]
        with self._prometheus.reported():
            failed = await self._gateways.read(self._prometheus.gateways(sources))
            await self._query_fleet()
            if failed is not None:
                raise failed

    async def _query_fleet(self) -> None:
        for key, item in self._variants.items():
            self._variants[key] = replace(
                item, queried=_needs_prometheus(item, self._pods, self._settings)
            )
        queried = {key for key, item in self._variants.items() if item.queried}
        now = self._clock.monotonic()
        beside = self._discovery.due(_answering(self._variants, self._settings, queried), now=now)
        if not (queried or beside):
            return
        attribution = Attribution((item.source for item in self._variants.values()), self._siblings)
        problems: dict[str, str] = {}
        try:
            async for batch in self._prometheus.fleet(attribution, queried, beside=beside):
                if batch.newest:
                    at, oldest = self._clock.monotonic(), batch.oldest(self._settings.oldest)
                    variants = _with_series_pods(self._variants, batch, now=at, oldest=oldest)
                    self._variants = _with_histograms(variants, batch)
                problems = {}
                for sample in batch.samples:
                    if problem := add_queried(self.add, sample):
                        problems[sample.pod.key] = problem
        except PrometheusError:
            if queried:
                raise
            return  # further servers are looked for later
        if beside:
            self._discovery.done(undecided=attribution.undecided)
        for key in self._variants.keys() & (queried | attribution.problems.keys()):
            problem = problems.get(key) or attribution.problems.get(key, "")
            self._variants[key] = replace(self._variants[key], attribution_problem=problem)

    def add(
        self,
        key: str,
        endpoint: str,
        page: model_servers.PodMetrics,
        *,
        now: float,
        source: str,
        how: str = "",
    ) -> None:
        """Add one pod's metrics as of monotonic `now`, from `source`, attributed by `how`."""
        if (item := self._variants.get(key)) is None:
            return  # removed while its pods were scraped
        started = _started(page, self._clock, item.source.restarts.get(endpoint))
        assessment = item.plausibility.assess(
            endpoint, page, now=now, started=started, batch=_largest_batch(item.source)
        )
        if _uncounted(item, endpoint, assessment):
            return
        before = item.window.sampled_at(endpoint)
        item.window.add(endpoint, _without(page, assessment), now=now, started=started)
        origins, how = item.origins, how or item.attributed_by
        if (before is None or now > before) and origins.get(endpoint) != source:
            origins = {**origins, endpoint: source}
        if origins is not item.origins or how != item.attributed_by:
            self._variants[key] = replace(item, origins=origins, attributed_by=how)

    def rates_since_last(self, busy: Collection[str] = ()) -> list[tuple[str, float, float]]:
        """Arrival rates since the last call: variant key, requests per second, monotonic time of the end.

        Variants whose metrics cover less than 0.7 intervals (`busy` ones: 0.4) are left to the next call.
        """
        rates = []
        for key, item in self._variants.items():
            rate = _rate(item, at_least=(0.4 if key in busy else 0.7) * self._settings.interval)
            if rate is not None:
                rates.append((key, *rate))
        return rates

    def windows(self) -> Mapping[str, TrafficWindow]:
        """The window of every variant's traffic, by variant key."""
        return {key: item.window for key, item in self._variants.items()}

    def observe(self, source: VariantSource) -> Observation:
        """The load of one variant now."""
        item, now = self._variants[source.key], self._clock.monotonic()
        covered = observation.coverage(
            source,
            item,
            now=now,
            stale_after=self._settings.oldest,
            failing=self._pods.failing(source.key, source.endpoints),
            scraped=self._prometheus.connected or not _only_prometheus(source, self._settings),
        )
        return observation.assess(
            source,
            item,
            covered,
            now=now,
            error=self._explain(source, item, covered.stale),
            prometheus_failed=item.queried and bool(self._prometheus.problem),
        )

    def _explain(
        self, source: VariantSource, item: CollectedVariant, stale: tuple[str, ...]
    ) -> str:
        """What the sources say about pods without fresh metrics."""
        checks = item.plausibility
        said = ((e, checks.problem(e) or checks.note(e) or item.window.note(e)) for e in stale)
        if wrong := next((f"{e}: {text}" for e, text in said if text), ""):
            return wrong
        reasons = [text for e in stale if (text := self._pods.error(source.key, e))][:1]
        if item.queried:
            reasons.append(
                self._prometheus.problem
                or item.attribution_problem
                or self._prometheus.without_series_of(stale[0] if stale else "it")
            )
        elif _only_prometheus(source, self._settings) and not self._prometheus.connected:
            reasons.append("no Prometheus is set: give --prometheus or PROMETHEUS_BASE_URL")
        return "; ".join(filter(None, reasons))


def _with_histograms(
    variants: Mapping[str, CollectedVariant], batch: Batch
) -> dict[str, CollectedVariant]:
    """The records with what histograms say of lengths; latencies go to the windows.

    Pods that show their own latencies need none.
    """
    for sample in batch.latencies:
        pod, item = sample.pod, variants.get(sample.pod.key)
        if item is not None and item.origins.get(pod.endpoint) != "direct":
            latencies = item.window.latencies_of(pod.endpoint)
            latencies.put(pod.endpoint, pod.sampled.ttft, pod.sampled.itl, at=sample.at)
    return observation.with_variations(variants, batch.variations)


def _answering(
    variants: Mapping[str, CollectedVariant], settings: CollectionSettings, queried: Collection[str]
) -> dict[str, Sequence[str]]:
    """Endpoints by key of the variants whose pods answer, and may have servers that only Prometheus knows."""
    return {
        key: item.source.endpoints
        for key, item in variants.items()
        if key not in queried and _origin(item.source, settings) == "auto"
    }


def _with_series_pods(
    variants: Mapping[str, CollectedVariant], newest: Batch, *, now: float, oldest: float
) -> dict[str, CollectedVariant]:
    """The records with the pods that only Prometheus knows: those of the newest answer, while fresh.

    They are those that are attributed by their model, and further servers.
    """
    present: dict[str, list[str]] = {}
    for sample in newest.samples:
        if sample.pod.how == "model" or sample.pod.further:
            present.setdefault(sample.pod.key, []).append(sample.pod.endpoint)
    return {
        key: observation.with_series_pods(item, present.get(key, ()), now=now, oldest=oldest)
        for key, item in variants.items()
    }


def _uncounted(item: CollectedVariant, endpoint: str, assessed: Assessment) -> bool:
    """Whether a page does not count; after a silent one the next that moves has all that came since."""
    if assessed.problem or assessed.forget:
        item.window.suspend(endpoint, forget=assessed.forget)
    return bool(assessed.problem) or assessed.silent


def _add_scraped(add: Callable[..., None]) -> OnPage:
    return lambda job, page, now: add(job.key, job.endpoint, page, now=now, source="direct")


def _origin(source: VariantSource, settings: CollectionSettings) -> Source:
    return source.metrics_source or settings.source


def _only_prometheus(source: VariantSource, settings: CollectionSettings) -> bool:
    return _origin(source, settings) == "prometheus"


def _needs_prometheus(
    item: CollectedVariant, pods: PodScraper, settings: CollectionSettings
) -> bool:
    source, chosen = item.source, _origin(item.source, settings)
    unknown = not source.endpoints or bool(item.series_pods)  # these serve on while all answer
    unknown |= any(pods.error(source.key, e) for e in source.endpoints)
    return chosen == "prometheus" or (chosen == "auto" and unknown)


def _largest_batch(source: VariantSource) -> float:
    """Most requests that a profile has in service at once, at the lengths of requests that it is for."""
    return max((float(profile.max_batch) for profile in source.profiles), default=0.0)


def _without(page: model_servers.PodMetrics, assessed: Assessment) -> model_servers.PodMetrics:
    """A page without what engines that hang keep, and what its gauge alone has: that is no queue."""
    if assessed.left or assessed.idle:
        running = max(page.running - assessed.idle, 0.0)
        page = replace(page, running=running, waiting=max(page.waiting - assessed.left, 0.0))
    for rank in assessed.hung:
        page = replace(
            page,
            running=max(page.running - rank.running, 0.0),
            waiting=max(page.waiting - rank.waiting, 0.0),
        )
    return page


def _started(page: model_servers.PodMetrics, clock: Clock, again: float | None) -> float | None:
    """When a process started by its page, else its container `again`, monotonic seconds; None: unknown."""
    at = again if page.started_at is None else page.started_at
    return None if at is None else clock.monotonic() - (clock.time() - at) * clock.speed


def _rate(item: CollectedVariant, *, at_least: float) -> tuple[float, float] | None:
    """Arrival rate since the last call and its time; None where it is not known, or cannot be used."""
    try:
        return item.window.rate_since_last(at_least=at_least)
    except Exception:
        log.exception(
            "arrival rate not usable; left out until the next call", variant=item.source.key
        )
        return None
