"""What a scrape cycle shows between two reconcile cycles: trends, and what should not wait."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from adapter.collector.collector import Collector
from adapter.collector.observation import Observation
from adapter.collector.traffic import RECENT_PARTS, SUDDEN_PARTS
from adapter.controller import demand
from adapter.controller.demand import work
from adapter.controller.demand.work import Work
from adapter.controller.estimates import prior
from adapter.controller.estimates.lengths import of_traffic
from adapter.controller.groups.keeper import Groups
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import plan
from adapter.resources.serving.pools import fair

WATCHED_PODS = 32
"""Pods that are scraped as often as those of busy variants though nothing moves: a rise shows sooner then,
and this many pages take little CPU. Larger fleets wait for the scrape cycle."""


_HELD = frozenset({"OptimizationFailed", "InvalidConfiguration"})
"""Outcomes of cycles that keep a decision for reasons that no load changes."""


def record_load(
    collector: Collector,
    records: dict[str, VariantRecord],
    groups: Groups,
    busy: Sequence[str] = (),
    *,
    between: bool = False,
) -> tuple[list[str], tuple[str, ...]]:
    """Record the last scrape: the trends of the records are replaced.

    Args:
        collector: What was collected.
        records: Records by variant key.
        groups: Groups of variants.
        busy: Keys that the last call returned.
        between: Whether it was one between two scrape cycles.

    Returns:
        Keys of the variants whose rate or queue exceeds what was last decided for, and of those whose
        requests wait or whose load has just moved, the longest queue first.

    """
    exceeded, moved = _record_rates(collector, records, groups, busy)
    risen = _risen(collector, records, groups, busy)
    exceeded += risen
    moved += risen
    queues = {}
    for key, window in collector.windows().items():
        item, waiting = records.get(key), window.waiting
        # Whoever looks more often sees more of the queues that arrivals in batches leave for a moment.
        if item is None or (between and key not in busy and key not in risen):
            continue
        ready = min(item.source.ready, len(item.source.endpoints))
        traffic = item.state.traffic
        usual = 0.0
        if traffic is not None:
            usual = demand.expected_waiting(traffic, item.state.decision, item.source.targets)
        if demand.queues_up(waiting, ready=ready, expected=usual):
            queues[key] = waiting
        if item.state.decision is not None:
            known = 0.0 if traffic is None else traffic.waiting
            if demand.queues_up(waiting, ready=ready, known=known):
                exceeded.append(key)
    now_busy = {**dict.fromkeys(moved, 0.0), **queues}
    return exceeded, tuple(sorted(now_busy, key=lambda key: -now_busy[key]))


def without_momentary(seen: Observation, waiting: float) -> Observation:
    """What was seen of a variant that is not busy, with no longer queue than the last scrape cycle showed.

    Arrivals in batches leave a queue for a moment, which no replica could serve sooner; more frequent
    scrapes show more of them. Where the rate has risen, or a queue was there before, the variant is busy.
    """
    traffic = seen.traffic
    if traffic is None or traffic.waiting <= waiting:
        return seen
    return replace(seen, traffic=replace(traffic, waiting=waiting))


def _risen(
    collector: Collector,
    records: Mapping[str, VariantRecord],
    groups: Groups,
    busy: Sequence[str],
) -> list[str]:
    """Keys of the variants whose last seconds show for certain more than they were sized for."""
    risen, windows = [], collector.windows()
    for key in watched(records, busy):
        item, window = records.get(key), windows.get(key)
        # What one member is offered is the gateway's choice.
        if item is None or window is None or item.state.decision is None or groups.is_member(key):
            continue
        # One more cycle would decide the same for it, and each is one of all variants.
        if item.source.held or item.state.outcome in _HELD:
            continue
        sized = _sized_rps(item.state, item.state.decision)
        rates = tuple(window.rates_of(SUDDEN_PARTS))
        dispersion = demand.dispersion(item.trend)
        # What counts in full at the next cycle need not wait for it; looks at shorter ones err more often.
        lasting = tuple(window.rates_of(RECENT_PARTS[-1:]))
        if demand.rises_suddenly(
            rates, sized, window.dispersion, dispersion
        ) or demand.rises_certainly(lasting, sized, dispersion):
            risen.append(key)
    return risen


def _sized_rps(state: VariantState, decision: plan.Decision) -> float:
    """The rate that a decision is of, or the higher one at which the last cycle could only hold the target.

    While pods are silent the decision stays the old one. The next cycle would hold it at the same rate too.
    """
    seen = state.observation
    if state.outcome != "MetricsUnavailable" or seen is None or seen.traffic is None:
        return decision.arrival_rate_rps
    return max(decision.arrival_rate_rps, *(rate for _, rate in seen.traffic.recent), 0.0)


def _work(item: VariantRecord, rate: float, *, at: float) -> Work | None:
    """The variant's work after one more rate; as before while the lengths of its requests are not known."""
    traffic, profile = item.state.traffic, prior.current_profile(item.source)
    if traffic is None or profile is None or traffic.output_tokens is None:
        return item.work
    return work.record(item.work, profile, of_traffic(traffic), rate, at=at)


def watched(records: Mapping[str, VariantRecord], busy: Sequence[str]) -> tuple[str, ...]:
    """Keys of the variants that are scraped between two scrape cycles: busy ones, and a few others.

    Both of each namespace in turn: these scrapes have a budget, which the pages of one tenant must not fill.
    """
    keys, left = _in_turn(busy), WATCHED_PODS
    known = set(busy)
    for key in _in_turn(records):
        item = records[key]
        pods = len(item.source.endpoints)
        # Before the first decision nothing can rise, and the first requests to finish are the short ones.
        if key not in known and item.state.decision is not None and 0 < pods <= left:
            keys.append(key)
            left -= pods
    return tuple(keys)


def _in_turn(keys: Iterable[str]) -> list[str]:
    rows = [(key.partition("/")[0], key) for key in keys]
    return [key for _, key in fair(rows, len(rows))]


def _record_rates(
    collector: Collector,
    records: dict[str, VariantRecord],
    groups: Groups,
    busy: Collection[str],
) -> tuple[list[str], list[str]]:
    """Update the trends; variants whose rate exceeds their decision's, and those whose rate moved."""
    rates = collector.rates_since_last(busy)
    # What one member is offered is the gateway's choice: the demand of its group counts.
    exceeded, moved = groups.record_rates(rates, records), []
    for key, rate, at in rates:
        item = records.get(key)
        if item is None:
            continue
        # Without the decision of one that is held: another cycle would keep it too.
        decision = None if item.source.held else item.state.decision
        if decision is not None and not groups.is_member(key):
            sized = _sized_rps(item.state, decision)
            if demand.exceeds_forecast(item.trend, rate, at=at, sized_rps=sized):
                exceeded.append(key)
        if demand.moves(item.trend, rate, at=at):
            moved.append(key)
        trend = demand.record(item.trend, rate, at=at, new=item.new)
        records[key] = replace(
            item, trend=trend, work=_work(item, rate, at=at), new=item.new and trend.new
        )
    return exceeded, moved
