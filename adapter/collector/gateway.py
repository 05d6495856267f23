"""What comes to the inference gateway: requests offered, and those that wait while a model has no replica.

The endpoint picker reports its queue per model, and counts the requests that it passed on. It is asked
directly, or through Prometheus. A model is one of a namespace where the gateway's is known, and of every
namespace where it is not.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import structlog
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from adapter import errors
from adapter.collector import exposition
from adapter.collector.promql import GATEWAY_QUEUES, GATEWAY_REQUESTS, GatewayCount, gateway_model

log = structlog.get_logger()

Place = tuple[str, str]
"""Namespace, empty for any, and model."""

_NAMED = re.compile(r"([a-z0-9]([-a-z0-9]*[a-z0-9])?)=(https?://.*)")
_LEAST_SHARE = 0.5
"""Of the window that must have been watched before a rate is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Traffic for one model at all gateways.

    Attributes:
        waiting: requests in the gateway's queue.
        arrived: requests that came since the last look.

    """

    waiting: float = 0.0
    arrived: float = 0.0

    def __str__(self) -> str:
        """As in reasons."""
        return f"{self.waiting:g} wait at the gateway, {self.arrived:g} came"

    @property
    def any(self) -> bool:
        """Whether somebody wants the model."""
        return self.waiting > 0 or self.arrived > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests per second that came to the gateways."""

    rps: Mapping[Place, float] = field(default_factory=dict)

    def place(self, namespace: str, model: str) -> Place | None:
        """Under which place a variant's model is counted; None where no gateway counts it."""
        return next((p for p in ((namespace, model), ("", model)) if p in self.rps), None)


@dataclass(slots=True)
class _Counter:
    since: float
    at: float
    passed: float
    waiting: float
    growth: deque[tuple[float, float]] = field(default_factory=deque)


class GatewayWindow:
    """Growth of the gateways' counters over a sliding window."""

    def __init__(self, *, window_seconds: float) -> None:
        self._window = window_seconds
        self._counters: dict[tuple[str, str, str], _Counter] = {}

    def add(self, origin: str, counts: Iterable[GatewayCount], *, now: float) -> None:
        """Take one look; `origin` tells whose counters these are, `now` is monotonic seconds."""
        for count in counts:
            key = (origin, count.namespace, count.model)
            counter = self._counters.get(key)
            if counter is None:
                self._counters[key] = _Counter(now, now, count.requests, count.waiting)
                continue
            # What was passed on, and what waits more than before: what came. A fall is a restart.
            grown = count.requests - counter.passed
            grown = grown if grown >= 0 else count.requests
            counter.growth.append((now, grown + count.waiting - counter.waiting))
            counter.at, counter.passed, counter.waiting = now, count.requests, count.waiting

    def rates(self, *, now: float) -> Rates:
        """Rates of those that were watched for long enough; what Prometheus says only where we do not ask."""
        self._counters = {
            key: counter
            for key, counter in self._counters.items()
            if counter.at > now - self._window
        }
        asked = any(origin for origin, _, _ in self._counters)
        found: dict[Place, float] = {}
        for (origin, namespace, model), counter in self._counters.items():
            while counter.growth and counter.growth[0][0] <= now - self._window:
                counter.growth.popleft()
            span = counter.at - max(counter.since, now - self._window)
            if span < _LEAST_SHARE * self._window or bool(origin) != asked:
                continue
            place = (namespace, model)
            rate = max(sum(grown for _, grown in counter.growth), 0.0) / span
            found[place] = found.get(place, 0.0) + rate
        return Rates(rps=found)


class Gateways:
    """Looks at the metrics of all endpoint pickers; one that does not answer says nothing."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        """`urls`: each alone, or with the namespace of what it serves, as NAMESPACE=URL.

        Raises:
            InputError: one is neither.

        """
        self._session = session
        self._urls = tuple(dict.fromkeys(map(parsed, urls)))
        self._counts: dict[tuple[str, str], float] = {}
        self._problems: dict[str, str] = {}

    async def demand(
        self, window: GatewayWindow | None = None, *, now: float = 0.0
    ) -> dict[Place, Demand]:
        """Demand by namespace and model; what was counted goes to the window, at monotonic `now`."""
        waiting: dict[Place, float] = {}
        arrived: dict[Place, float] = {}
        for namespace, url in self._urls:
            try:
                samples = list(_samples(await exposition.text(self._session, url)))
            except (exposition.ScrapeError, ValueError) as error:
                if self._problems.get(url) != str(error):
                    log.warning("gateway not readable", error=str(error))
                self._problems[url] = str(error)
                continue
            self._problems.pop(url, None)
            queue = _first(samples, GATEWAY_QUEUES)
            for model, value in queue.items():
                place = (namespace, model)
                waiting[place] = waiting.get(place, 0.0) + value
            counts = []
            for model, value in _first(samples, GATEWAY_REQUESTS).items():
                place = (namespace, model)
                counts.append(
                    GatewayCount(
                        namespace=namespace,
                        model=model,
                        requests=value,
                        waiting=queue.get(model, 0.0),
                    )
                )
                before = self._counts.get((url, model))
                self._counts[url, model] = value
                if before is not None:
                    # A counter that fell was restarted.
                    grown = value - before if value >= before else value
                    arrived[place] = arrived.get(place, 0.0) + grown
            if window is not None:
                window.add(url, counts, now=now)
        return {
            place: Demand(waiting=waiting.get(place, 0.0), arrived=arrived.get(place, 0.0))
            for place in waiting.keys() | arrived.keys()
        }


def parsed(text: str) -> tuple[str, str]:
    """Namespace, empty for any, and URL of a gateway's metrics.

    Raises:
        InputError: the text is neither URL nor NAMESPACE=URL.

    """
    if text.startswith(("http://", "https://")):
        return "", text
    found = _NAMED.fullmatch(text)
    if found is None:
        raise errors.InputError(f"--gateway-metrics: must be a URL or NAMESPACE=URL, not {text!r}")
    return found[1], found[3]


def of_model(demand: Mapping[Place, Demand], namespace: str, model: str) -> Demand | None:
    """What is known of one namespace's model."""
    return demand.get((namespace, model)) or demand.get(("", model))


def _samples(text: str) -> Iterable[Sample]:
    for family in text_string_to_metric_families(text):
        if family.name.startswith(("inference_", "llm_d_")):
            yield from family.samples


def _first(samples: list[Sample], names: Sequence[str]) -> dict[str, float]:
    """By model, under the newest name that is there."""
    return next((found for name in names if (found := _by_model(samples, name))), {})


def _by_model(samples: list[Sample], name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in samples:
        # Older versions do not say whose queue it is.
        model = gateway_model(sample.labels)
        if sample.name == name and model:
            found[model] = found.get(model, 0.0) + sample.value
    return found
