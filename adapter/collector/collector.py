"""What is known of every variant's load, how old it is, and where it comes from.

Two sources fill the same windows, since both hold the pods' counters: the pods themselves, and Prometheus
for those that do not answer or are not to be asked. A variant can change over in the middle of a window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp
import structlog

from adapter.clock import Clock
from adapter.collector import model_servers, promql
from adapter.collector.attribution import Attributed, Attribution
from adapter.collector.instant_vector import InstantVector
from adapter.collector.observation import Observation, judge
from adapter.collector.pod_scraper import DirectSource, Job
from adapter.collector.prometheus import PrometheusClient, PrometheusError, PrometheusOptions
from adapter.collector.traffic import TrafficWindow
from adapter.resources.variant import Source, VariantSource

log = structlog.get_logger()

BACKFILL_QUERIES = 6
"""Into the past at most, when Prometheus is asked for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """How to collect, in seconds.

    Attributes:
        interval: from one round to the next.
        window: over which rates are taken; `long_window` likewise, for what is to be steadier.
        stale_after: age at which a pod's numbers no longer count; 0: two missed rounds and some.
        source: of variants that do not say.
        spread: share of the interval over which the pods of a round are spread.

    """

    interval: float = 15.0
    window: float = 60.0
    long_window: float = 180.0
    stale_after: float = 0.0
    source: Source = "auto"
    spread: float = 0.2

    @property
    def oldest(self) -> float:
        """Age in seconds at which a pod's numbers no longer count."""
        return self.stale_after or 2.5 * self.interval


class Collector:
    """Owns the windows of all variants.

    Attributes:
        fleet_queries: rounds in which Prometheus was asked for pods; gateways are asked for in every one.
        prometheus_problem: why it gave no answer the last time; empty if it did.
        gateways: what it said of them in the last round.
        round_seconds: that the last round took.

    """

    def __init__(
        self, *, session: aiohttp.ClientSession, clock: Clock, settings: CollectionSettings
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._session = session
        self._sources: dict[str, VariantSource] = {}
        self._windows: dict[str, TrafficWindow] = {}
        self._joined: dict[tuple[str, str], float] = {}
        self._loose: dict[str, dict[str, float]] = {}
        self._from: dict[tuple[str, str], str] = {}
        self._how: dict[str, str] = {}
        self._odd: dict[str, str] = {}
        self._direct = DirectSource(session, clock, interval=settings.interval)
        self._prometheus: PrometheusClient | None = None
        self._asked: frozenset[str] = frozenset()
        self._filled = False
        self._warnings: tuple[str, ...] = ()
        self.fleet_queries = 0
        self.prometheus_problem = ""
        self.gateways: tuple[promql.GatewayCount, ...] = ()
        self.round_seconds = 0.0

    @property
    def counts(self) -> Mapping[str, int]:
        """What was asked so far, for telemetry."""
        asked = self._prometheus
        return {
            "scrapes": self._direct.scrapes,
            "scrape_failures": self._direct.failures,
            "queries": 0 if asked is None else asked.queries,
            "query_failures": 0 if asked is None else asked.failures,
        }

    def connect(self, options: PrometheusOptions | None) -> None:
        """Use that Prometheus from now on; the same one is kept."""
        before = None if self._prometheus is None else self._prometheus.options
        if options == before:
            return
        self.close()
        self._prometheus = None if options is None else PrometheusClient(self._session, options)
        self._filled = False
        self.prometheus_problem = ""
        if options is not None:
            log.info("Prometheus in use", url=options.shown_url)

    def close(self) -> None:
        """Let go of Prometheus."""
        if self._prometheus is not None:
            self._prometheus.close()

    def use(self, variants: Iterable[VariantSource]) -> None:
        """These are the variants from now on; what is known of those that stay is kept."""
        self._sources = {source.key: source for source in variants}
        settings = self.settings
        self._windows = {
            key: self._windows.get(key)
            or TrafficWindow(window_seconds=settings.window, long_seconds=settings.long_window)
            for key in self._sources
        }
        now = self._clock.monotonic()
        places = {(s.key, e) for s in self._sources.values() for e in s.endpoints}
        self._joined = {place: self._joined.get(place, now) for place in places}
        self._loose = {key: self._loose[key] for key in self._loose if key in self._sources}
        for key, source in self._sources.items():
            if source.endpoints or source.pods_known:
                self._loose.pop(key, None)
            self._windows[key].keep((*source.endpoints, *self._loose.get(key, ())))
        self._direct.keep(self._jobs())
        self._from = {
            (key, endpoint): origin
            for (key, endpoint), origin in self._from.items()
            if (key, endpoint) in places or endpoint in self._loose.get(key, ())
        }
        self._how = {key: how for key, how in self._how.items() if key in self._sources}

    def _source(self, variant: VariantSource) -> Source:
        return variant.metrics_source or self.settings.source

    def _jobs(self) -> list[Job]:
        return [
            Job(source.key, endpoint, source.model)
            for source in self._sources.values()
            if self._source(source) != "prometheus"
            for endpoint in source.endpoints
        ]

    async def collect(self, *, spread: bool = False) -> None:
        """One round: the pods, then Prometheus for what they did not give."""
        began = self._clock.monotonic()
        seconds = self.settings.spread * self.settings.interval if spread else 0.0
        await self._direct.scrape(self._jobs(), self._take, spread_seconds=seconds)
        # What waited at a gateway a while ago says nothing of now.
        self.gateways = ()
        if self._prometheus is not None:
            self._asked = frozenset(
                source.key for source in self._sources.values() if self._needs(source)
            )
            try:
                if self._asked:
                    await self._ask(self._prometheus)
                counts = await self._prometheus.query(promql.gateways())
                self.gateways = tuple(promql.models(counts.samples))
                if self.prometheus_problem:
                    log.info("Prometheus works again", url=self._prometheus.options.shown_url)
                self.prometheus_problem = ""
            except PrometheusError as error:
                if str(error) != self.prometheus_problem:
                    log.warning("Prometheus not usable", error=str(error))
                self.prometheus_problem = str(error)
        self.round_seconds = self._clock.monotonic() - began

    def _needs(self, source: VariantSource) -> bool:
        """Whether Prometheus has to say something about it."""
        chosen = self._source(source)
        if chosen == "direct":
            return False
        return chosen == "prometheus" or (
            not source.endpoints
            or any(self._direct.error(source.key, endpoint) for endpoint in source.endpoints)
        )

    def _take(self, job: Job, page: model_servers.Page, now: float) -> None:
        self.add(job.key, job.endpoint, page, now=now, source="direct")

    def add(
        self, key: str, endpoint: str, page: model_servers.Page, *, now: float, source: str
    ) -> None:
        """Take one pod's page, as it was at monotonic `now`; `source` says where it comes from."""
        window = self._windows.get(key)
        if window is None:
            return  # it went while its pods were asked
        started = None
        if page.started_at is not None:
            age = self._clock.time() - page.started_at
            started = self._clock.monotonic() - age * self._clock.speed
        before = window.sampled_at(endpoint)
        window.add(endpoint, page, now=now, started=started)
        if before is None or now > before:
            self._from[key, endpoint] = source

    async def _ask(self, prometheus: PrometheusClient) -> None:
        # Samples are placed by their age: what is done after this moment must not make them younger.
        asked = self._clock.monotonic()
        self.fleet_queries += 1
        answer = await prometheus.query(promql.fleet())
        past = [] if self._filled else await self._past(prometheus, answer)
        self._filled = True
        if answer.warnings != self._warnings:
            log.warning("Prometheus warns; its answer may be a part", warnings=answer.warnings)
        self._warnings = answer.warnings
        attribution = Attribution(self._sources.values())
        newest = _evaluated(answer, self._clock.time())
        for one in (*past, answer):
            # Thousands of pods are a lot to look through: requests are answered meanwhile.
            found = [
                item
                for item in await asyncio.to_thread(_attributed, attribution, one)
                if item.key in self._asked
            ]
            if one is answer:
                self._loosen(found)
            for item in found:
                self._place(item, newest, asked)
        self._odd = {key: text for key, text in self._odd.items() if key not in self._asked}
        self._odd |= attribution.problems
        for item in found:
            if item.sampled.problem:
                self._odd[item.key] = f"{item.endpoint}: {item.sampled.problem}"

    async def _past(
        self, prometheus: PrometheusClient, answer: InstantVector
    ) -> list[InstantVector]:
        """Answers of the last window, oldest first: rates are then there at once, not a window later."""
        last = _evaluated(answer, self._clock.time())
        settings = self.settings
        step = max(settings.interval, settings.long_window / BACKFILL_QUERIES)
        number = int(settings.long_window / step)
        answers = []
        for index in range(number):
            at = last - self._clock.real_seconds(step) * (number - index)
            try:
                answers.append(await prometheus.query(promql.fleet(), at=at))
            except PrometheusError as error:
                # The present is known; without the past, rates come a round later.
                log.info("Prometheus gave no past", error=str(error))
                break
        return answers

    def _loosen(self, found: list[Attributed]) -> None:
        """Pods that are known by their series only: those of the newest answer."""
        now = self._clock.monotonic()
        for item in found:
            if item.how == "model":
                self._loose.setdefault(item.key, {})[item.endpoint] = now
        for key, seen in self._loose.items():
            kept = {e: at for e, at in seen.items() if now - at <= self.settings.oldest}
            if kept.keys() != seen.keys():
                self._loose[key] = kept
                self._windows[key].keep(kept)

    def _place(self, item: Attributed, newest: float, asked: float) -> None:
        """Take one pod's numbers; `newest` is the time there of the answer that was asked for at `asked`."""
        sampled = item.sampled
        if sampled.page is None:
            return
        # Ages are differences within the clock of Prometheus: ours may be another.
        age = max(newest - sampled.sampled_at, 0.0) * self._clock.speed
        now = asked - age
        self.add(item.key, item.endpoint, sampled.page, now=now, source="prometheus")
        self._how[item.key] = item.how

    def news(self) -> list[tuple[str, float, float]]:
        """Variants with what arrived at each since it was told last: key, requests per second, when."""
        found = []
        for key, window in self._windows.items():
            news = window.news(at_least=0.4 * self.settings.interval)
            if news is not None:
                found.append((key, *news))
        return found

    def observe(self, source: VariantSource) -> Observation:
        """What is known of one variant now."""
        key, now = source.key, self._clock.monotonic()
        window = self._windows[key]
        loose = tuple(sorted(self._loose.get(key, ())))
        expected = source.endpoints or loose
        late = window.stale(expected, now=now, after_seconds=self.settings.oldest)
        # A pod that has just come was not asked yet, and that is no fault of anybody.
        new = [
            endpoint
            for endpoint in late
            if not self._unasked(source)
            and now - self._joined.get((key, endpoint), -1e9) < self.settings.oldest
            and window.sampled_at(endpoint) is None
            and not self._direct.error(key, endpoint)
        ]
        origins = {self._from.get((key, endpoint), "") for endpoint in expected} - {""}
        return judge(
            source,
            traffic=window.traffic(now=now),
            now=now,
            expected=len(expected),
            unseen=max(source.replicas - len(loose), 0) if loose else 0,
            late=[e for e in late if e not in new],
            new=new,
            never=[e for e in late if window.sampled_at(e) is None],
            error=self._why(source, late),
            failed=key in self._asked and bool(self.prometheus_problem),
            origin=" and ".join(sorted(origins)),
            how=self._how.get(key, "") if "prometheus" in origins else "",
        )

    def _unasked(self, source: VariantSource) -> bool:
        """Whether it wants a Prometheus that there is not."""
        return self._source(source) == "prometheus" and self._prometheus is None

    def _why(self, source: VariantSource, late: list[str]) -> str:
        """What the sources say about pods whose numbers are missing."""
        said = [text for e in late if (text := self._direct.error(source.key, e))][:1]
        if source.key in self._asked:
            if self.prometheus_problem:
                said.append(self.prometheus_problem)
            elif source.key in self._odd:
                said.append(self._odd[source.key])
            elif self._prometheus is not None:
                where = self._prometheus.options.shown_url
                said.append(
                    f"Prometheus {where} has no recent series of {late[0] if late else 'it'}: is there a"
                    " PodMonitor that selects its pods?"
                )
        elif self._unasked(source):
            said.append("no Prometheus is set: give --prometheus or PROMETHEUS_BASE_URL")
        return "; ".join(said)


def _evaluated(answer: InstantVector, default: float) -> float:
    """When an answer was evaluated, by the clock of Prometheus."""
    return max((item.evaluated_at for item in answer.samples), default=default)


def _attributed(attribution: Attribution, answer: InstantVector) -> list[Attributed]:
    return attribution.all(promql.pods(answer.samples))
