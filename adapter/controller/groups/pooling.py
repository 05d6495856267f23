"""The demand of a group: what its pods, its gateway and its queue are offered together."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adapter.collector import gateway
from adapter.collector.gateway import Rates
from adapter.collector.servers.histogram import merged
from adapter.collector.traffic import RECENT_PARTS, SUDDEN_PARTS, Traffic, TrafficWindow
from adapter.collector.windows import looks
from adapter.collector.windows.latencies import Distribution
from adapter.planning.groups import Routing
from adapter.resources.model_groups.forming import ModelGroup
from adapter.resources.variant import VariantSource

GONE = Traffic(
    arrival_rate_rps=0.0,
    input_tokens=None,
    output_tokens=None,
    ttft_ms=None,
    itl_ms=None,
    idle=True,
    idle_seconds=math.inf,
)
"""Traffic of a variant whose pods left more than a window ago."""


def pooled(traffics: Iterable[Traffic]) -> Traffic | None:
    """Traffic of several variants as that of one; None without any.

    Counts and rates add up; lengths and latencies are means over requests; variations of lengths are those of
    the mixture, so that variants with requests of different lengths show more of it than each alone.
    """
    items = list(traffics)
    if len(items) < 2:
        return items[0] if items else None
    rates = [max(item.arrival_rate_rps, 0.0) for item in items]

    def mean(value: Callable[[Traffic], float | None]) -> float | None:
        return _mean([value(item) for item in items], rates)

    def total(value: Callable[[Traffic], float | None]) -> float | None:
        known = [amount for item in items if (amount := value(item)) is not None]
        return sum(known) if known else None

    caches = [item.kv_cache for item in items if item.kv_cache is not None]
    return Traffic(
        arrival_rate_rps=sum(rates),
        long_rate_rps=sum(item.long_rate_rps or item.arrival_rate_rps for item in items)
        if any(item.long_rate_rps > 0 for item in items)
        else 0.0,
        recent=_recent(items, [item.recent for item in items]),
        sudden=_recent(items, [item.sudden for item in items]),
        input_tokens=mean(lambda item: item.input_tokens),
        output_tokens=mean(lambda item: item.output_tokens),
        # A group is sized for the lengths observed: smoothed ones, of a mix that moves, made it dearer.
        steady=None,
        ttft_ms=mean(lambda item: item.ttft_ms),
        itl_ms=mean(lambda item: item.itl_ms),
        idle=all(item.idle for item in items),
        idle_seconds=min(item.idle_seconds for item in items),
        running=sum(item.running for item in items),
        waiting=sum(item.waiting for item in items),
        waiting_growth_rps=sum(item.waiting_growth_rps for item in items),
        queue_growth_rps=sum(item.queue_growth_rps for item in items),
        queued_at=sum(item.queued_at for item in items),
        waiting_elsewhere=sum(item.waiting_elsewhere for item in items),
        kv_cache=max(caches, default=None),
        input_cv=_mixed_cv([(item.input_tokens, item.input_cv) for item in items], rates),
        output_cv=_mixed_cv([(item.output_tokens, item.output_cv) for item in items], rates),
        short_answers=_mixed_shares([item.short_answers for item in items], rates),
        cached_tokens=mean(lambda item: item.cached_tokens),
        preemptions_rps=total(lambda item: item.preemptions_rps),
        sampled_at=min(item.sampled_at for item in items),
        ttft=_together(item.ttft for item in items),
        itl=_together(item.itl for item in items),
        tpot=_together(item.tpot for item in items),
        itl_samples=tuple(sample for item in items for sample in item.itl_samples),
        most_there=sum(item.most_there for item in items),
    )


def with_left(
    traffics: Mapping[str, Traffic | None],
    windows: Mapping[str, TrafficWindow],
    serving: Collection[str],
) -> dict[str, Traffic]:
    """Traffic by variant key of those of which some is known, with what came to pods that have all left.

    Where no pod of any variant is heard it is as it was last seen, and so it is of pods that are there and
    only not heard: `serving` are the keys of variants that have some.
    """
    heard = _heard(windows.values())
    known = {}
    for key, traffic in traffics.items():
        window = None if key in serving else windows.get(key)
        if heard is not None and window is not None and math.isinf(window.last):
            traffic = _left(traffic, window, until=heard)  # noqa: PLW2901
        if traffic is not None:
            known[key] = traffic
    return known


def _left(traffic: Traffic | None, window: TrafficWindow, *, until: float) -> Traffic | None:
    """Traffic of a variant whose pods have all left: what came to them is past, and none has come since.

    The requests go to the other variants now. As a rate of its last seconds it would count beside these,
    and without it the rate of the long window, which has both, would have fallen: each shows a rise.

    Args:
        traffic: What is known of it; None where that is too old.
        window: Its window.
        until: Time of the last sample of the others' pods, monotonic seconds.

    """
    long_rps = window.arrived(window.long_seconds, until=until)
    if traffic is None:
        if long_rps <= 0:
            return None
        traffic = replace(GONE, sampled_at=until)

    def rates(parts: Iterable[float]) -> tuple[tuple[float, float], ...]:
        lengths = [part * window.window_seconds for part in parts]
        return tuple((seconds, window.arrived(seconds, until=until)) for seconds in lengths)

    return replace(
        traffic,
        arrival_rate_rps=window.arrived(window.window_seconds, until=until),
        long_rate_rps=long_rps,
        recent=rates(RECENT_PARTS),
        sudden=rates(SUDDEN_PARTS),
    )


def with_dispersions(traffic: Traffic | None, windows: Sequence[TrafficWindow]) -> Traffic | None:
    """The traffic with the dispersions of the arrivals at the pods of all these windows together.

    They do not follow from each one's: a bunch of requests reaches several variants at once, and a gateway
    that knows the load of the pods gives to each in turn.
    """
    last = _heard(windows)
    if traffic is None or last is None:
        return traffic

    def dispersion(seconds: float) -> float | None:
        growth = heapq.merge(*(item.growth for item in windows), key=lambda item: item.at)
        return looks.dispersion(growth, seconds, until=last - seconds)

    return replace(traffic, dispersions=tuple(dispersion(s) for s, _ in traffic.sudden))


def _heard(windows: Iterable[TrafficWindow]) -> float | None:
    """Time of the last sample of a pod that is there, monotonic seconds; None where none is."""
    return max((item.last for item in windows if math.isfinite(item.last)), default=None)


def _together(parts: Iterable[Distribution]) -> Distribution:
    """Latencies of all parts; buckets are those of the parts that have some."""
    known = list(parts)
    return Distribution(
        counted=sum(item.counted for item in known),
        histogram=merged(item.histogram for item in known if item.histogram is not None),
    )


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [
        (value, weight) for value, weight in zip(values, weights, strict=True) if value is not None
    ]
    if not known:
        return None
    whole = sum(weight for _, weight in known)
    if whole <= 0:
        return sum(value for value, _ in known) / len(known)
    return sum(value * weight for value, weight in known) / whole


def _mixed_cv(
    items: Sequence[tuple[float | None, float | None]], weights: Sequence[float]
) -> float | None:
    """Coefficient of variation of a mixture, by its second moment; None where no part knows its own."""
    known = [
        (mean, cv, weight)
        for (mean, cv), weight in zip(items, weights, strict=True)
        if mean is not None and cv is not None and weight > 0
    ]
    whole = sum(weight for *_, weight in known)
    first = sum(mean * weight for mean, _, weight in known)
    if whole <= 0 or first <= 0:
        return next((cv for _, cv in items if cv is not None), None)
    mean_all = first / whole
    second = sum(weight * mean * mean * (1.0 + cv * cv) for mean, cv, weight in known) / whole
    return math.sqrt(max(second / (mean_all * mean_all) - 1.0, 0.0))


def _mixed_shares(
    items: Sequence[tuple[float, ...]], weights: Sequence[float]
) -> tuple[float, ...]:
    """Shares of short answers of a mixture, of the parts that know theirs; empty where none does."""
    known = [(shares, weight) for shares, weight in zip(items, weights, strict=True) if shares]
    whole = sum(weight for _, weight in known)
    if whole <= 0:
        return next((shares for shares, _ in known), ())
    columns = zip(*(shares for shares, _ in known), strict=True)
    rates = [weight for _, weight in known]
    return tuple(
        sum(share * rate for share, rate in zip(column, rates, strict=True)) / whole
        for column in columns
    )


def _recent(
    items: Sequence[Traffic], windows: Sequence[tuple[tuple[float, float], ...]]
) -> tuple[tuple[float, float], ...]:
    """Rates over each one's shorter windows; one that has none of a length counts with its rate."""
    lengths = sorted({seconds for item in windows for seconds, _ in item})
    return tuple(
        (
            seconds,
            sum(
                dict(short).get(seconds, item.arrival_rate_rps)
                for item, short in zip(items, windows, strict=True)
            ),
        )
        for seconds in lengths
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AtGateway:
    """A group's part of what its gateways count.

    Attributes:
        rate_rps: Requests per second; None where no gateway counts its model.
        waiting: Requests in the gateways' queues.
        arrived: Whether requests arrived since the last scrape of a gateway.

    """

    rate_rps: float | None = None
    waiting: float = 0.0
    arrived: bool = False


def at_gateway(
    group: ModelGroup,
    sources: Mapping[str, VariantSource],
    *,
    rates: Rates,
    parts: Mapping[str, float],
    waiting: Mapping[gateway.ModelKey, gateway.Demand],
) -> AtGateway:
    """The group's part of the requests at the gateways, each counted once however many variants there are.

    A gateway knows models, not groups. Where variants outside the group serve the same model, the group's
    part is that of its pods' rates; a model that only the group serves is all its own.

    Args:
        group: The group.
        sources: All variants of the fleet by key.
        rates: Requests per second at the gateways.
        parts: Each variant's part of them, by variant key.
        waiting: Requests that wait at the gateways or arrived there.

    """
    members = frozenset(group.members)
    rate: float | None = None
    queued, arrived = 0.0, False
    seen: set[object] = set()
    for namespace in sorted({sources[key].namespace for key in group.members if key in sources}):
        place = rates.key(namespace, group.model)
        others = [
            source.key
            for source in sources.values()
            if source.model == group.model
            and source.key not in members
            and (source.namespace == namespace or (place is not None and not place[0]))
        ]
        own = 1.0
        if place is not None:
            total = rates.rps[place]
            if others:
                mine = sum(parts.get(key, 0.0) for key in group.members)
                own = min(mine / total, 1.0) if total > 0 else 0.0
            if place not in seen:
                seen.add(place)
                rate = (rate or 0.0) + own * total
        elif others:
            own = len(members) / (len(members) + len(others))
        key = (namespace, group.model) if (namespace, group.model) in waiting else ("", group.model)
        demand = waiting.get(key)
        if demand is not None and ("queue", *key) not in seen:
            seen.add(("queue", *key))
            queued += own * demand.waiting
            arrived |= demand.any
    return AtGateway(rate_rps=rate, waiting=queued, arrived=arrived)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How requests reach the pods of a group, as observed.

    Attributes:
        routing: `even` where every pod is offered about the same, `uneven` where not; empty while it is not
            known.
        per_pod_rpm: Requests per minute that one ready pod of each variant is offered, by key.

    """

    routing: str = ""
    per_pod_rpm: Mapping[str, float]


EVEN_ERRORS = 3.0
"""Standard errors of the counts within which the pods of two variants are offered the same."""


def spread(
    traffics: Mapping[str, Traffic], ready: Mapping[str, int], *, window_seconds: float
) -> Spread:
    """The observed share per pod.

    Args:
        traffics: Traffic by variant key.
        ready: Ready pods by variant key.
        window_seconds: Window of the rates, from which their standard error follows.

    """
    rates = {
        key: item.arrival_rate_rps / ready[key]
        for key, item in traffics.items()
        if ready.get(key, 0) > 0
    }
    per_pod = {key: 60.0 * rate for key, rate in rates.items()}
    if len(rates) < 2 or sum(rates.values()) <= 0:
        return Spread(per_pod_rpm=per_pod)
    low, high = min(rates, key=lambda key: rates[key]), max(rates, key=lambda key: rates[key])

    def error(key: str) -> float:
        return math.sqrt(max(rates[key], 1.0 / window_seconds) / (ready[key] * window_seconds))

    apart = rates[high] - rates[low] > EVEN_ERRORS * math.hypot(error(low), error(high))
    return Spread(routing="uneven" if apart else "even", per_pod_rpm=per_pod)


def unlike(routing: Routing, observed: str) -> tuple[str, ...]:
    """Note that pods are not offered what the routing that is planned with would give them."""
    if routing == "round-robin" and observed == "uneven":
        return (
            (
                "pods are not offered the same, as round-robin would; annotate llmd.ai/group-routing:"
                " least-loaded where the gateway knows the load of the pods, or llmd.ai/group: none where"
                " each variant has a Service of its own"
            ),
        )
    if routing == "least-loaded" and observed == "even":
        return ("pods of all variants are offered about the same, whatever they can carry",)
    return ()
