"""What a group is sized for: its pooled demand, and what is held of that for the stabilization window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adapter.collector.traffic import Traffic, TrafficWindow
from adapter.controller import demand
from adapter.controller.demand import Queue, SizingRate, backlog
from adapter.controller.groups import availability
from adapter.controller.groups.availability import Outage
from adapter.controller.groups.pooling import GONE, AtGateway
from adapter.controller.groups.state import Demanded, GroupRecord
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Sizing
from adapter.controller.state import VariantRecord
from adapter.resources.model_groups.forming import ModelGroup
from adapter.resources.variant import VariantSource
from adapter.settings.control import DEFAULT_STARTUP_SECONDS
from optimizer import returns

MOST_DEMANDS = 64
"""Demands that are held at most, and so many of the last ones while the load of a part is unknown."""

SPARE_REPLICAS, MOST_SPARE = 0.75, 0.2
"""Replicas that a group has to spare, and the largest share of its demand that they are.

Variants alone are rounded up to whole replicas, each with half of one left over on average. Of the mixes of a
group the one with the least left over is the cheapest: what is to be free has to be asked for.
"""

WINDOW_PART = 0.5
"""Part of the window of a variant alone for which a demand is held; never below the flag's seconds."""

NO_TRAFFIC = replace(GONE, idle_seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """What all groups of one reconcile cycle share.

    Attributes:
        sizing: What all variants share.
        sources: All variants by key.
        windows: Windows of their traffic by key.

    """

    sizing: Sizing
    sources: Mapping[str, VariantSource]
    windows: Mapping[str, TrafficWindow]

    @property
    def settings(self) -> LoopSettings:
        """Settings of the control loop."""
        return self.sizing.settings

    @property
    def costs(self) -> Mapping[str, float]:
        """Cost of one unit of each accelerator, cents per hour."""
        return self.sizing.costs

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self.sizing.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """The demand of one group.

    Attributes:
        rate_rps: Requests per second that it is sized for, apart from what is held.
        arrivals_rps: The part of it that is no queue to be worked off.
        in_flight: Requests that must be in service at once; 0 where none waits.
        backlog_rps: The part of the rate that works off a queue.
        queued_at: Replicas in whose queues all of these requests wait; 0 where any replica can serve some.
        surge: Whether arrivals have risen far.
        ordered: Replicas that serve or come.
        rising: Whether the rate rises by more than chance: no time to have fewer replicas.
        notes: Why the rate is not what is observed, a clause each.
        demands: What it was sized for within the window, which is still planned for.

    """

    rate_rps: float
    arrivals_rps: float
    in_flight: float
    ordered: int
    rising: bool
    notes: tuple[str, ...]
    demands: tuple[Demanded, ...]
    backlog_rps: float = 0.0
    queued_at: int = 0
    surge: bool = False


def ready(source: VariantSource) -> int:
    """Replicas that serve; none where its pods are known and none is ready."""
    if source.pods_known and not source.pods:
        return 0
    return source.ready


def startup(record: GroupRecord, source: VariantSource, settings: LoopSettings) -> float:
    """Start-up time of a replica: what its pods show, or showed while there were some; seconds."""
    return (
        source.startup_seconds
        or record.startups.get(source.key)
        or settings.rates.startup_seconds
        or DEFAULT_STARTUP_SECONDS
    )


def observed(
    record: GroupRecord, group: ModelGroup, records: Mapping[str, VariantRecord], cycle: Cycle
) -> GroupRecord:
    """The record with what the pods of its variants show: start-up times, what does not come, and outages."""
    limits, startups, serves = {}, dict(record.startups), False
    for key in group.members:
        source = cycle.sources.get(key)
        if source is None:
            continue
        serves = serves or ready(source) > 0
        before = record.limits.get(key, availability.NO_LIMIT)
        item = records.get(key)
        limits[key] = availability.observe(
            before, source, asked=None if item is None else item.state.desired, now=cycle.now
        )
        if source.startup_seconds:
            startups[key] = source.startup_seconds
    kept = {key: value for key, value in startups.items() if key in group.members}
    out = availability.outage(
        record.outage,
        serves=serves,
        offered_rps=record.state.observed_rpm / 60.0 if record.state is not None else 0.0,
        window=cycle.settings.collection.window,
        now=cycle.now,
    )
    return replace(record, limits=limits, startups=kept, outage=out)


def lengths(record: GroupRecord, traffic: Traffic | None) -> Traffic | None:
    """The traffic whose lengths of requests to plan for: as last seen where none are there.

    Of the requests that an outage kept waiting the short ones finish first: those before it count.
    """
    if traffic is None or traffic.output_tokens is None:
        return record.traffic
    if record.outage is not None and record.traffic is not None:
        return record.traffic
    return traffic


def sized(
    record: GroupRecord,
    sources: Sequence[VariantSource],
    traffic: Traffic | None,
    at: AtGateway,
    *,
    ordered: int,
    partial: bool,
    expected: float = 0.0,
    cycle: Cycle,
) -> Sized:
    """The demand of a group.

    Args:
        record: What is known of it.
        sources: Its variants that are planned.
        traffic: Their traffic together; None without any.
        at: Its part of the gateways' requests.
        ordered: Replicas of them that serve or come.
        partial: Whether the load of some of its variants is not known: then it is not taken to have fallen.
        expected: Requests that were expected to wait for their first token at this load.
        cycle: What all groups share.

    """
    traffic = traffic or NO_TRAFFIC
    settings = cycle.settings
    serving = [source for source in sources if source.spec_replicas > 0] or sources
    seconds = max(startup(record, source, settings) for source in serving)
    if record.outage is not None:
        start = seconds + settings.interval
        traffic = _of_outage(traffic, record.outage, at, start=start, cycle=cycle)
    serves = sum(ready(source) for source in sources)
    queue = _queue(
        record, traffic, at, start=seconds, ready_now=serves, ordered=ordered, cycle=cycle
    )
    queue = replace(queue, expected=expected)
    anchor = replace(serving[0], startup_seconds=seconds)
    now = _rate(anchor, traffic, at, record, queue=queue, cycle=cycle)
    return _with_spare(
        Sized(
            rate_rps=record.feedback.factor * now.rate_rps,
            arrivals_rps=_arrivals(record, now, partial=partial),
            in_flight=now.in_flight,
            backlog_rps=record.feedback.factor * now.backlog_rps,
            queued_at=now.queued_at,
            surge=now.surge,
            ordered=ordered,
            rising=now.rising,
            notes=(*now.notes, *filter(None, [record.feedback.note])),
            demands=_within(
                record.demands,
                window=returns.hold_seconds(
                    record.returns, now=cycle.now, window=window(anchor, settings)
                ),
                now=cycle.now,
                partial=partial,
            ),
        ),
        record,
    )


def _of_outage(
    traffic: Traffic, outage: Outage, at: AtGateway, *, start: float, cycle: Cycle
) -> Traffic:
    """The traffic of a group of which nothing serves, or did not until a moment ago."""
    if outage.ended is not None:
        return _apart(traffic, outage)
    return _unseen(traffic, outage, at, start=start, cycle=cycle)


def _unseen(
    traffic: Traffic, outage: Outage, at: AtGateway, *, start: float, cycle: Cycle
) -> Traffic:
    """The traffic of a group of which nothing serves: what goes on to arrive waits where no pod shows it.

    The replicas that come meet all of it at once. What a gateway counts is known, and not estimated.
    """
    waiting = outage.waiting(cycle.now, most_seconds=start)
    offered = outage.offered_rps(cycle.now)
    return replace(
        traffic,
        arrival_rate_rps=offered,
        long_rate_rps=offered,
        recent=(),
        sudden=(),
        running=0.0,
        waiting=max(waiting - at.waiting, 0.0),
        waiting_elsewhere=max(waiting - at.waiting, 0.0),
        waiting_growth_rps=outage.growth_rps(cycle.now, most_seconds=start),
        queued_at=0,
        idle=False,
    )


def _apart(traffic: Traffic, outage: Outage) -> Traffic:
    """The traffic just after an outage without what that kept waiting: it reaches the pods all at once.

    It is no rise of the rate, and where it queues there, it counts as the queue that it is.
    """

    def bounded(rates: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        return tuple((seconds, min(rate, outage.rate_rps)) for seconds, rate in rates)

    return replace(
        traffic,
        arrival_rate_rps=min(traffic.arrival_rate_rps, outage.rate_rps),
        long_rate_rps=min(traffic.long_rate_rps, outage.rate_rps),
        recent=bounded(traffic.recent),
        sudden=bounded(traffic.sudden),
    )


def _rate(
    anchor: VariantSource,
    traffic: Traffic,
    at: AtGateway,
    record: GroupRecord,
    *,
    queue: Queue,
    cycle: Cycle,
) -> SizingRate:
    settings = cycle.settings
    rates, out = settings.rates, record.outage
    if out is not None and out.ended is None:
        # An outage is to cost a cycle and a start-up: what waits by then is to be served within the cycle.
        rates = replace(rates, drain_seconds=min(rates.drain_seconds, settings.interval))
    return demand.sizing_rate(
        anchor,
        traffic,
        gateway_rps=at.rate_rps,
        trend=record.trend,
        work=record.work,
        settings=rates,
        window_seconds=settings.collection.window,
        interval_seconds=settings.interval,
        now=cycle.now,
        queue=queue,
    )


def _with_spare(need: Sized, record: GroupRecord) -> Sized:
    """The demand with what is kept free in place of what rounding leaves over."""
    if need.rate_rps <= 0:
        return need
    # Not by what there is at the moment alone: one replica less would ask for itself again.
    number = max((sum(item.floor.replicas.values()) for item in record.demands), default=0)
    spare = min(SPARE_REPLICAS / max(number, need.ordered, 1), MOST_SPARE)
    note = f"{spare:.0%} more, as rounding leaves nothing over"
    return replace(
        need,
        rate_rps=need.rate_rps * (1.0 + spare),
        backlog_rps=need.backlog_rps * (1.0 + spare),
        notes=(*need.notes, note),
    )


def window(source: VariantSource, settings: LoopSettings) -> float:
    """Time for which a group's demand is held, seconds; `source` has the start-up time of the slowest."""
    return max(settings.limits.down_seconds, WINDOW_PART * settings.limits_for(source).down_seconds)


def _arrivals(record: GroupRecord, now: SizingRate, *, partial: bool) -> float:
    """The rate without what works off a queue; no less than the last one while a part of it is not known."""
    last = [item.rate_rps for item in record.returns.loads[-1:]] if partial else []
    return max((now.rate_rps - now.backlog_rps, *last))


def _within(
    demands: tuple[Demanded, ...],
    *,
    window: float,
    now: float,
    partial: bool,
) -> tuple[Demanded, ...]:
    """Those that the stabilization window still holds; all of the last ones while a part is unknown."""
    if partial:
        return demands[-MOST_DEMANDS:]
    return _thinned(tuple(item for item in demands if item.at > now - window))


def _thinned(demands: tuple[Demanded, ...]) -> tuple[Demanded, ...]:
    """The largest of some that follow each other where they are too many: a long hold needs no more."""
    step = math.ceil(len(demands) / MOST_DEMANDS)
    if step <= 1:
        return demands
    parts = (demands[at : at + step] for at in range(0, len(demands), step))
    return tuple(max(part, key=lambda item: item.floor.rate_rps) for part in parts)


def _queue(
    record: GroupRecord,
    traffic: Traffic,
    at: AtGateway,
    *,
    start: float,
    ready_now: int,
    ordered: int,
    cycle: Cycle,
) -> Queue:
    """The queues of its pods and gateways together, with the replicas that serve them or come."""
    settings = cycle.settings
    start += settings.interval
    loading = start
    asked_at, seen = record.raised_at, 0.25 * settings.collection.window
    if record.outage is not None and record.outage.ended is None:
        asked_at, seen = record.outage.since, math.inf
    if asked_at is not None:
        loading = start - (cycle.now - asked_at)
    waiting = traffic.waiting + at.waiting
    if _certain(-traffic.waiting_growth_rps, traffic, settings) * start >= waiting:
        # Those that serve work it off before a replica that is created now is ready.
        waiting = 0.0
    return Queue(
        running=traffic.running,
        waiting=waiting,
        growth_rps=_certain(traffic.waiting_growth_rps, traffic, settings),
        seen_seconds=seen,
        queued_at=traffic.queued_at,
        elsewhere=traffic.waiting_elsewhere + at.waiting,
        ready=ready_now,
        ordered=ordered,
        start_seconds=start,
        loading_seconds=min(max(loading, settings.interval), start),
    )


def _certain(growth_rps: float, traffic: Traffic, settings: LoopSettings) -> float:
    """The part of a growth of the queues that is not chance, requests per second."""
    return backlog.certain_growth(
        growth_rps,
        rate_rps=traffic.recent[0][1] if traffic.recent else traffic.arrival_rate_rps,
        seconds=0.25 * settings.collection.window,
    )
