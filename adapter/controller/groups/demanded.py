"""What a group is sized for: its pooled demand, held up for the stabilization window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adapter.collector.traffic import Traffic
from adapter.controller import demand
from adapter.controller.demand import Queue, SizingRate, backlog
from adapter.controller.groups.pooling import AtGateway
from adapter.controller.groups.state import Demanded, GroupRecord
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Sizing
from adapter.resources.variant import VariantSource
from adapter.settings.control import DEFAULT_STARTUP_SECONDS

NO_TRAFFIC = Traffic(
    arrival_rate_rps=0.0,
    input_tokens=None,
    output_tokens=None,
    ttft_ms=None,
    itl_ms=None,
    idle=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """What all groups of one reconcile cycle share.

    Attributes:
        sizing: What all variants share.
        sources: All variants by key.

    """

    sizing: Sizing
    sources: Mapping[str, VariantSource]

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
        rate_rps: Requests per second that it is sized for.
        in_flight: Requests that must be in service at once; 0 where none waits.
        ordered: Replicas that serve or come.
        notes: Why the rate is not what is observed, a clause each.
        demands: What it was sized for within the window, for the next cycle.

    """

    rate_rps: float
    in_flight: float
    ordered: int
    notes: tuple[str, ...]
    demands: tuple[Demanded, ...]


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


def sized(
    record: GroupRecord,
    sources: Sequence[VariantSource],
    traffic: Traffic | None,
    at: AtGateway,
    *,
    ordered: int,
    partial: bool,
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
        cycle: What all groups share.

    """
    traffic = traffic or NO_TRAFFIC
    settings = cycle.settings
    serving = [source for source in sources if source.spec_replicas > 0] or sources
    seconds = max(startup(record, source, settings) for source in serving)
    serves = sum(ready(source) for source in sources)
    queue = _queue(
        record, traffic, at, start=seconds, ready_now=serves, ordered=ordered, cycle=cycle
    )
    anchor = replace(serving[0], startup_seconds=seconds)
    now = _rate(anchor, traffic, at, record, queue=queue, cycle=cycle)
    lasting = _rate(anchor, traffic, at, record, queue=None, cycle=cycle)
    window = max(settings.limits_for(anchor).down_seconds, 0.0)
    known = tuple(item for item in record.demands if item.at > cycle.now - window or partial)
    highest = max((item.rate_rps for item in known), default=0.0)
    notes = list(now.notes)
    rate = now.rate_rps
    if highest > rate:
        last = max(item.at for item in known if item.rate_rps >= highest)
        left = max(last + window - cycle.now, 0.0)
        rate = highest
        why = "the load of a part is unknown" if partial and not left else f"for {left:.0f} s more"
        notes.append(f"held at {60.0 * highest:.4g} req/min {why} (stabilization window)")
    return Sized(
        rate_rps=rate,
        in_flight=now.in_flight,
        ordered=ordered,
        notes=tuple(notes),
        demands=(*known, Demanded(cycle.now, lasting.rate_rps)) if window > 0 or partial else (),
    )


def _rate(
    source: VariantSource,
    traffic: Traffic,
    at: AtGateway,
    record: GroupRecord,
    *,
    queue: Queue | None,
    cycle: Cycle,
) -> SizingRate:
    return demand.sizing_rate(
        source,
        traffic,
        gateway_rps=at.rate_rps,
        trend=record.trend,
        settings=cycle.settings.rates,
        window_seconds=cycle.settings.collection.window,
        interval_seconds=cycle.settings.interval,
        now=cycle.now,
        queue=queue,
    )


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
    if record.raised_at is not None:
        loading = start - (cycle.now - record.raised_at)
    return Queue(
        running=traffic.running,
        waiting=traffic.waiting + at.waiting,
        growth_rps=backlog.certain_growth(
            traffic.waiting_growth_rps,
            rate_rps=traffic.recent[0][1] if traffic.recent else traffic.arrival_rate_rps,
            seconds=0.25 * settings.collection.window,
        ),
        ready=ready_now,
        ordered=ordered,
        start_seconds=start,
        loading_seconds=min(max(loading, settings.interval), start),
    )
