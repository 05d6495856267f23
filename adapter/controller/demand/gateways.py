"""Requests at the inference gateways: attributed to the variants of their model, and waking one at zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from adapter.collector import gateway
from adapter.collector.gateway import GatewayWindow, Rates
from adapter.collector.observation import Observation
from adapter.collector.pickers import applying
from adapter.collector.pickers.loads import NO_LOAD, PoolLoad, PoolLoads
from adapter.collector.promql import GatewayCount
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource

_ROOM = 0.75
"""Largest share of batch and KV cache in use with which a pod takes up whatever comes."""

REMEMBER_SECONDS = 5.0
"""Seconds for which requests wake a variant, though the gateway's next page does not show them any more."""


class GatewayDemand:
    """Requests at all gateways: as Prometheus has them, and newer where gateways are scraped directly."""

    def __init__(self, *, window_seconds: float) -> None:
        """`window_seconds`: time over which rates are taken."""
        self._window = GatewayWindow(window_seconds=window_seconds)
        self._counts: Sequence[GatewayCount] = ()
        self._queued: Mapping[gateway.ModelKey, gateway.Demand] = {}
        self._scraped: Mapping[gateway.ModelKey, gateway.Demand] = {}
        self._recent: dict[gateway.ModelKey, tuple[float, gateway.Demand]] = {}
        self._waiting: Mapping[gateway.ModelKey, gateway.Demand] = {}
        self._unread: Mapping[str, str] = {}
        self._by_prometheus = PoolLoads(still_seconds=window_seconds)
        self._by_scrapes = PoolLoads(still_seconds=window_seconds)

    @property
    def window(self) -> GatewayWindow:
        """Growth of the gateways' counters; direct scrapes add to it."""
        return self._window

    @property
    def waiting(self) -> Mapping[gateway.ModelKey, gateway.Demand]:
        """Requests that wait at a gateway or came a moment ago, by model; another mapping when it changes."""
        return self._waiting

    def record_counts(self, counts: Sequence[GatewayCount], *, now: float) -> None:
        """Use what Prometheus has of the gateways, at monotonic `now`; the same object is no news."""
        if counts is self._counts:
            return
        self._counts = counts
        self._window.add("", counts, now=now)
        self._queued = {
            (count.namespace, count.model): gateway.Demand(waiting=count.waiting)
            for count in counts
            if count.model
        }
        self._combine()

    def record_load(self, load: PoolLoad, *, now: float) -> None:
        """Use what Prometheus has of the endpoint pickers' pools, at monotonic `now`."""
        self._by_prometheus.use(load, now=now)

    def applied(
        self, source: VariantSource, observation: Observation, *, now: float
    ) -> Observation:
        """The load of a variant with what its endpoint pickers know; those that are scraped count first."""
        waiting = gateway.of_model(self._waiting, source.namespace, source.model)
        queued = waiting is not None and waiting.waiting > 0
        scraped = self._by_scrapes.at(now=now)
        load = scraped if scraped != PoolLoad() else self._by_prometheus.at(now=now)
        problem = self._unread.get(source.namespace) or self._unread.get("", "")
        if problem:
            observation = replace(observation, gateway_problem=problem)
        return applying.applied(load, source, observation, queued=queued)

    def set_scraped(
        self,
        scraped: Mapping[gateway.ModelKey, gateway.Demand],
        *,
        now: float,
        load: PoolLoad = NO_LOAD,
        unread: Mapping[str, str] | None = None,
    ) -> None:
        """Use what the last direct scrape showed, at monotonic `now`.

        Args:
            scraped: demand by namespace and model.
            now: monotonic seconds.
            load: load of the pickers' pools.
            unread: why a gateway cannot be read, by namespace of its models (empty for any).

        """
        self._scraped = scraped
        self._unread = unread or {}
        self._by_scrapes.use(load, now=now)
        for key, item in scraped.items():
            if item.any:
                came = gateway.Demand(arrived=max(item.arrived, item.waiting))
                self._recent[key] = (now, came)
        self._recent = {
            key: (at, item)
            for key, (at, item) in self._recent.items()
            if now - at < REMEMBER_SECONDS
        }
        self._combine()

    def _combine(self) -> None:
        whole = {**self._queued, **self._scraped}
        for key, (_, came) in self._recent.items():
            # Scrapes are quick: what one of them shows must last until somebody has acted.
            if key not in whole or not whole[key].any:
                whole[key] = came
        if whole != self._waiting:
            self._waiting = whole


def credible(
    rates: Rates,
    variants: Iterable[VariantSource],
    observations: Mapping[str, Observation],
) -> Rates:
    """The rates at the gateways, without what cannot have come to a model's pods.

    What a gateway forwards is at the pods at once. Where all of a model's pods are heard, none has a queue
    and all have room, and nothing waits at the gateway, a gateway that counts more has a wrong counter, or
    forwards to others besides: then the pods' rate counts, with what came since their pages.
    """
    places: dict[gateway.ModelKey, list[VariantSource]] = {}
    for source in variants:
        place = rates.key(source.namespace, source.model)
        if place is not None:
            places.setdefault(place, []).append(source)
    rps = dict(rates.rps)
    for place, sources in places.items():
        if place in rates.queued:
            continue
        if all(_has_room(source, observations.get(source.key)) for source in sources):
            heard = [observations[source.key] for source in sources]
            seen = sum(one.traffic.arrival_rate_rps for one in heard if one.traffic is not None)
            newer = rates.within(place, max(one.age_seconds for one in heard))
            rps[place] = min(rps[place], seen + newer)
    return replace(rates, rps=rps)


def _has_room(source: VariantSource, observation: Observation | None) -> bool:
    """Whether all pods of a variant are heard and would take up more at once; False where not known."""
    traffic = None if observation is None else observation.traffic
    if observation is None or traffic is None or not (observation.usable and observation.complete):
        return False
    batch = min((float(profile.max_batch) for profile in source.profiles), default=0.0)
    empty = traffic.waiting < 1 and traffic.running < _ROOM * batch * source.ready
    return empty and (traffic.kv_cache is None or traffic.kv_cache <= _ROOM)


def gateway_parts(
    variants: Iterable[VariantSource],
    observed: Mapping[str, float],
    rates: Rates,
) -> dict[str, float]:
    """Requests per second at the gateways for each variant, by variant key.

    A gateway knows models, not variants: its count is divided in proportion to the rates at the pods, and
    where these are zero equally among the variants with replicas.
    """
    members: dict[tuple[str, str], list[VariantSource]] = {}
    for source in variants:
        place = rates.key(source.namespace, source.model)
        if place is not None:
            members.setdefault(place, []).append(source)
    parts: dict[str, float] = {}
    for place, sources in members.items():
        shares = {source.key: max(observed.get(source.key, 0.0), 0.0) for source in sources}
        whole = sum(shares.values())
        if whole <= 0:
            shares = {source.key: float(source.replicas > 0) for source in sources}
            whole = sum(shares.values())
        total = rates.rps[place]
        parts |= {key: total * share / whole for key, share in shares.items() if whole > 0}
    return parts


def variants_to_wake(
    inputs: Inputs, waiting: Mapping[gateway.ModelKey, gateway.Demand]
) -> frozenset[str]:
    """Keys of variants at zero to start: the cheapest of each model with requests and no replica."""
    costs = {item.name: item.unit_cost for item in inputs.accelerators}

    def cost(source: VariantSource) -> tuple[float, str]:
        units = (costs.get(p.accelerator, 0.0) * p.accelerator_count for p in source.profiles)
        own = costs.get(source.accelerator, 0.0) * source.units(source.accelerator)
        return min(units, default=own), source.key

    models: dict[tuple[str, str], list[VariantSource]] = {}
    for source in inputs.variants:
        models.setdefault((source.namespace, source.model), []).append(source)
    cheapest = set()
    for (namespace, model), sources in models.items():
        requests = gateway.of_model(waiting, namespace, model)
        if (
            requests is None
            or not requests.any
            or any(s.replicas or s.spec_replicas for s in sources)
        ):
            continue
        cheapest.add(min(sources, key=cost).key)
    return frozenset(cheapest)
