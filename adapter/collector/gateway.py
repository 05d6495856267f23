"""Demand at the inference gateways: requests that arrive, and those queued while a model has no replica.

The endpoint picker reports its queue per model, and counts the requests that it has forwarded. It is scraped
directly, or by Prometheus. A model belongs to a namespace where the gateway's is known, else to every one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import structlog

from adapter.collector import exposition
from adapter.collector.pickers import loads, pages
from adapter.collector.pickers.counters import Counter
from adapter.collector.pickers.loads import PoolLoad
from adapter.collector.promql import GatewayCount
from adapter.collector.transport import access
from adapter.collector.transport.reading import PageReader
from adapter.collector.windows.counts import offered
from adapter.collector.windows.restarts import NEAR_ZERO_SHARE

log = structlog.get_logger()

ModelKey = tuple[str, str]
"""Namespace (empty for any) and model."""


LASTING_SCRAPES = 3
"""Scrapes on end of a page that cannot be used, from which on it is no restart of a picker."""

_FEW = 10.0
"""Requests that a picker which began anew may have counted at its first scrape, whatever it had before."""

COUNTERS = 2 * pages.MODELS
"""Counters of one gateway beyond which only those of its last page are kept."""

_MIN_WINDOW_SHARE = 0.5
"""Share of the window that must be observed before there is a rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Requests for one model at all gateways.

    Attributes:
        waiting: Requests in the gateways' queues.
        arrived: Requests since the last scrape.

    """

    waiting: float = 0.0
    arrived: float = 0.0

    def __str__(self) -> str:
        """Text for reasons."""
        return f"{self.waiting:g} wait at the gateway, {self.arrived:g} came"

    def __add__(self, other: Demand) -> Demand:
        """Requests for the model at other gateways besides."""
        return Demand(waiting=self.waiting + other.waiting, arrived=self.arrived + other.arrived)

    @property
    def any(self) -> bool:
        """Whether there are requests for the model."""
        return self.waiting > 0 or self.arrived > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests per second that arrive at the gateways, by namespace and model.

    Attributes:
        rps: Their rates.
        queued: Models of which requests waited at a gateway at its last scrape.
        counted: What each scrape added to a rate, and how many seconds ago that was.

    """

    rps: Mapping[ModelKey, float] = field(default_factory=dict)
    queued: frozenset[ModelKey] = frozenset()
    counted: Mapping[ModelKey, Sequence[tuple[float, float]]] = field(default_factory=dict)

    def within(self, key: ModelKey, seconds: float) -> float:
        """The part of a model's rate that was counted within the last seconds."""
        return sum(rps for ago, rps in self.counted.get(key, ()) if ago < seconds)

    def key(self, namespace: str, model: str) -> ModelKey | None:
        """The key that a variant's model is counted under; None where no gateway counts it."""
        return next((key for key in ((namespace, model), ("", model)) if key in self.rps), None)


class GatewayWindow:
    """Growth of the gateways' counters over a sliding window."""

    def __init__(self, *, window_seconds: float) -> None:
        self._window = window_seconds
        self._counters: dict[str, dict[ModelKey, Counter]] = {}  # by origin
        self._unnamed: dict[tuple[str, str], tuple[float, float]] = {}

    def add(self, origin: str, counts: Sequence[GatewayCount], *, now: float) -> None:
        """Add one scrape at monotonic `now`; `origin` is its URL, empty for what Prometheus has."""
        grown: dict[str, list[Counter]] = {}
        counters = self._counters.setdefault(origin, {})
        if origin and len(counters) > COUNTERS:
            # Whoever shows other models at each scrape takes no more memory for that.
            shown = {(count.namespace, count.model) for count in counts}
            counters = {key: item for key, item in counters.items() if key in shown}
            self._counters[origin] = counters
        for count in counts:
            if not count.model:
                continue
            key = (count.namespace, count.model)
            counter = counters.get(key)
            if counter is None:
                counters[key] = Counter(
                    now, now, count.requests, count.waiting, count.rejected, grew_at=now
                )
                continue
            # Arrivals are what was forwarded, and the growth of the queue.
            forwarded = _increase(counter.forwarded, count.requests)
            rejected = _increase(counter.rejected, count.rejected)
            if _falls(counter.forwarded, count.requests):
                counter.doubt()
            elif counter.doubtful:
                counter.doubtful -= 1
                counter.since = now
            else:
                forwarded = counter.confirmed(forwarded, now=now, sampled=not origin)
                came = forwarded + count.waiting - counter.waiting
                counter.growth.append((now, came, rejected))
                grown.setdefault(count.namespace, []).append(counter)
            counter.at, counter.forwarded = now, count.requests
            counter.waiting, counter.rejected = count.waiting, count.rejected
        for count in counts:
            if not count.model:
                self._divide(origin, count, grown.get(count.namespace, ()), now=now)

    def begin_anew(self, origin: str) -> None:
        """Forget what an origin counted: its counters mean something else from its next scrape on."""
        self._counters.pop(origin, None)

    def _divide(
        self, origin: str, count: GatewayCount, among: Sequence[Counter], *, now: float
    ) -> None:
        """Divide what was turned away of no known model among the models, as what was forwarded is."""
        place = (origin, count.namespace)
        before = self._unnamed.get(place)
        self._unnamed = {
            key: item for key, item in self._unnamed.items() if item[1] > now - self._window
        }
        self._unnamed[place] = (count.rejected, now)
        if before is None or now - before[1] > self._window:
            return
        # The same requests may be counted by model, by a name that has only those of the queue.
        named = sum(counter.growth[-1][2] for counter in among)
        rest = max(_increase(before[0], count.rejected) - named, 0.0)
        came = [max(counter.growth[-1][1], 0.0) for counter in among]
        for counter, part in zip(among, came, strict=True):
            share = part / sum(came) if sum(came) > 0 else 1.0 / len(among)
            counter.growth.append((now, 0.0, rest * share))

    def rates(self, *, now: float) -> Rates:
        """Rates of what was observed long enough; those of Prometheus only where no gateway is scraped."""
        for origin, counters in list(self._counters.items()):
            recent = {key: item for key, item in counters.items() if item.at > now - self._window}
            if recent:
                self._counters[origin] = recent
            else:
                del self._counters[origin]
        scraped = any(self._counters)
        rates: dict[ModelKey, float] = {}
        counted: dict[ModelKey, list[tuple[float, float]]] = {}
        queued: set[ModelKey] = set()
        flat = (
            (origin, key, counter)
            for origin, counters in self._counters.items()
            for key, counter in counters.items()
        )
        for origin, key, counter in flat:
            while counter.growth and counter.growth[0][0] <= now - self._window:
                counter.growth.popleft()
            span = counter.at - max(counter.since, now - self._window)
            known = not counter.doubtful and span >= _MIN_WINDOW_SHARE * self._window
            if not known or bool(origin) != scraped:
                continue
            came = sum(growth for _, growth, _ in counter.growth)
            rate = offered(came, sum(rejected for *_, rejected in counter.growth)) / span
            rates[key] = rates.get(key, 0.0) + rate
            parts = ((now - at, max(growth, 0.0) / span) for at, growth, _ in counter.growth)
            counted.setdefault(key, []).extend(parts)
            queued |= {key} if counter.waiting > 0 else set()
        return Rates(rps=rates, queued=frozenset(queued), counted=counted)


@dataclass(slots=True)
class _Scraped:
    """What was scraped of one endpoint picker.

    Attributes:
        counts: Requests that came since it began, by model.
        load: Load of its pools and their pods; None where the last page could not be read.
        problem: Why the last page could not be read; empty where it could.
        unusable: Why the last page could not be used: not read, or of something else; empty where it could.
        unusable_scrapes: Scrapes on end whose page could not be used.
        names_servers: Whether its pages have the label of the model that answered; None before the first.
        shared: Whether a counter fell without beginning anew: several pickers answer at the address.

    """

    counts: dict[str, float] = field(default_factory=dict)
    load: PoolLoad | None = None
    problem: str = ""
    unusable: str = ""
    unusable_scrapes: int = 0
    names_servers: bool | None = None
    shared: bool = False

    def arrived(self, model: str, count: float, url: str) -> float | None:
        """Requests for a model since the last scrape; None at the first."""
        before = self.counts.get(model)
        self.counts[model] = count
        if before is None:
            return None
        if _falls(before, count) and not self.shared:
            self.shared = True
            log.warning(
                "counters of a gateway fell; its rates are not used until they only grow",
                why="several pickers answer in turn at this address: name one URL per picker",
                gateway=url,
            )
        return _increase(before, count)

    def begins_to_name(self, names: bool) -> bool:  # noqa: FBT001 - what a page shows
        """Whether it names servers with this page only: what failed before counted as forwarded."""
        before, self.names_servers = self.names_servers, names
        return names and before is False

    def record_use(self, problem: str) -> None:
        """Count how often on end a page could not be used; `problem` is empty where it could."""
        self.unusable = problem
        self.unusable_scrapes = self.unusable_scrapes + 1 if problem else 0


class Gateways:
    """Scrapes the metrics of all endpoint pickers; one that does not answer counts as unknown."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoints: Sequence[tuple[str, str]],
        by: access.Access = access.PLAIN,
        *,
        reading: PageReader | None = None,
        known: Callable[[], pages.Known | None] = lambda: None,
    ) -> None:
        """Make it.

        Args:
            session: for the requests.
            endpoints: namespace of the models (empty for any) and metrics URL.
            by: how to reach them.
            reading: turns of all whose pages are read.
            known: what variants have; None: everything is kept.

        """
        self._reading = reading or PageReader()
        self._known = known
        self._session = session
        self._by = by
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._scraped = {url: _Scraped() for _, url in self._endpoints}

    @property
    def failing(self) -> bool:
        """Whether a page could not be read the last time."""
        return any(item.problem for item in self._scraped.values())

    @property
    def problem(self) -> str:
        """Why a page could not be used for some scrapes on end; empty while all can be."""
        lasting = (
            item.unusable
            for item in self._scraped.values()
            if item.unusable_scrapes >= LASTING_SCRAPES
        )
        return next(lasting, "")

    @property
    def load(self) -> PoolLoad:
        """What the pages of the last scrape showed of pools and their pods."""
        return loads.merged(item.load for item in self._scraped.values() if item.load is not None)

    async def demand(
        self, window: GatewayWindow | None = None, *, now: float = 0.0
    ) -> dict[ModelKey, Demand]:
        """Scrape; return demand by namespace and model. Counts are added to `window` at monotonic `now`."""
        answers = await asyncio.gather(*(self._page(*item) for item in self._endpoints))
        known = self._known()
        waiting: dict[ModelKey, float] = {}
        arrived: dict[ModelKey, float] = {}
        for (namespace, url), page in zip(self._endpoints, answers, strict=True):
            scraped = self._scraped[url]
            if page is not None and known is not None:
                page = page.only(known)  # noqa: PLW2901 - the same page
            scraped.load = None if page is None else page.load(namespace, known)
            if page is None:
                continue
            if scraped.begins_to_name(page.names_servers) and window is not None:
                window.begin_anew(url)
            queue, requests, rejected, unnamed = (
                page.queue,
                page.requests,
                page.rejected,
                page.unnamed,
            )
            for model, value in queue.items():
                key = (namespace, model)
                waiting[key] = waiting.get(key, 0.0) + value
            counts = []
            if unnamed is not None and window is not None:
                whole = GatewayCount(namespace=namespace, model="", rejected=unnamed)
                counts.append(whole)
            models = requests.keys() | rejected.keys()
            if len(scraped.counts) > COUNTERS:
                scraped.counts = {
                    key: scraped.counts[key] for key in scraped.counts.keys() & models
                }
            for model in models:
                # What was turned away came, as what was forwarded did.
                value = requests.get(model, 0.0) + rejected.get(model, 0.0)
                if unnamed is not None and not rejected and len(models) == 1:
                    value += unnamed
                key = (namespace, model)
                counts.append(
                    GatewayCount(
                        namespace=namespace,
                        model=model,
                        requests=requests.get(model, 0.0),
                        waiting=queue.get(model, 0.0),
                        rejected=rejected.get(model, 0.0),
                    )
                )
                came = scraped.arrived(model, value, url)
                if came is not None:
                    arrived[key] = arrived.get(key, 0.0) + came
            if window is not None:
                window.add(url, counts, now=now)
        return {
            key: Demand(waiting=waiting.get(key, 0.0), arrived=arrived.get(key, 0.0))
            for key in waiting.keys() | arrived.keys()
        }

    async def _page(self, namespace: str, url: str) -> pages.PickerMetrics | None:
        """What the page of a gateway shows; None if it cannot be read."""
        scraped = self._scraped[url]
        try:
            page, _ = await exposition.page(
                self._session, url,
                lambda text: pages.read(text, url, names_servers=bool(scraped.names_servers)),
                by=self._by, reading=self._reading, party=namespace,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - one gateway must not end the reading of all
            problem = (
                str(error) if isinstance(error, exposition.ScrapeError) else type(error).__name__
            )
            if scraped.problem != problem:
                log.warning(
                    "gateway metrics unreadable; its demand is unknown until it answers",
                    namespace=namespace,
                    error=problem,
                )
            scraped.problem = problem
            scraped.record_use(problem)
            return None
        scraped.problem = ""
        scraped.record_use("" if page.of_gateway else f"{url}: {pages.NO_GATEWAY}")
        return page


def of_model(demand: Mapping[ModelKey, Demand], namespace: str, model: str) -> Demand | None:
    """Demand for one namespace's model; None where it is unknown."""
    return demand.get((namespace, model)) or demand.get(("", model))


def _increase(before: float, after: float) -> float:
    """Growth of a counter; one that fell to near zero has begun anew, another fall says nothing."""
    if after >= before:
        return after - before
    return 0.0 if _falls(before, after) else after


def _falls(before: float, after: float) -> bool:
    """Whether a counter fell without beginning anew: an address answers for several pickers, in turn."""
    return max(NEAR_ZERO_SHARE * before, _FEW) < after < before
