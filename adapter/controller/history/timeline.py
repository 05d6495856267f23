"""What was, beside what would have been: replicas, cost and attainment of each variant over the last day.

Every reconcile cycle adds the time since the last one to a bucket of a quarter of an hour, for what the scale
target has (under whatever scales it now) and for what was decided. Kept in memory by the leader; Prometheus
has the same series for longer.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from adapter.controller.state import VariantState

BUCKET_SECONDS = 900.0
BUCKETS = 96
"""Buckets that are kept."""

DAY_SECONDS = BUCKETS * BUCKET_SECONDS
"""Time that is kept."""

GAP_SECONDS = 300.0
"""Longest time between two cycles that is counted: what was in a longer one is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One variant at one time, by what it has and by what was decided.

    Attributes:
        present: Replicas that the scale target's spec asks for.
        ours: Replicas that were decided.
        present_cost: Cost of the former, cents per hour.
        our_cost: Cost of the latter, cents per hour.
        present_within: Whether the observed latencies are within the SLO targets; None where not known.
        ours_within: Whether the predicted ones are; None where not known.

    """

    present: int
    ours: int
    present_cost: float
    our_cost: float
    present_within: bool | None
    ours_within: bool | None


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums over time; times in seconds.

    Attributes:
        seconds: Time that is known.
        present: Replica-seconds that the scale target had.
        ours: Replica-seconds that were decided.
        present_cost: Cost of the former, cents.
        our_cost: Cost of the latter, cents.
        observed: Time in which there were latencies to compare with the SLO targets.
        present_within: Time of that in which they were within.
        predicted: Time in which a latency was predicted for what was decided.
        ours_within: Time of that in which it was within.
        more: Time in which more replicas were decided than there were.
        fewer: Time in which fewer were.
        most_more: Most replicas more.
        most_fewer: Most replicas fewer.

    """

    seconds: float = 0.0
    present: float = 0.0
    ours: float = 0.0
    present_cost: float = 0.0
    our_cost: float = 0.0
    observed: float = 0.0
    present_within: float = 0.0
    predicted: float = 0.0
    ours_within: float = 0.0
    more: float = 0.0
    fewer: float = 0.0
    most_more: float = 0.0
    most_fewer: float = 0.0

    def add(self, moment: Moment, seconds: float) -> None:
        """Add a time in which a moment lasted."""
        hours = seconds / 3600.0
        self.seconds += seconds
        self.present += moment.present * seconds
        self.ours += moment.ours * seconds
        self.present_cost += moment.present_cost * hours
        self.our_cost += moment.our_cost * hours
        if moment.present_within is not None:
            self.observed += seconds
            self.present_within += seconds * moment.present_within
        if moment.ours_within is not None:
            self.predicted += seconds
            self.ours_within += seconds * moment.ours_within
        difference = moment.ours - moment.present
        self.more += seconds * (difference > 0)
        self.fewer += seconds * (difference < 0)
        self.most_more = max(self.most_more, float(difference))
        self.most_fewer = max(self.most_fewer, float(-difference))

    def merge(self, other: Totals) -> None:
        """Add another time's totals."""
        for item in fields(self):
            name = item.name
            mine, theirs = getattr(self, name), getattr(other, name)
            largest = name.startswith("most_")
            setattr(self, name, max(mine, theirs) if largest else mine + theirs)

    def packed(self) -> array[float]:
        """The numbers alone: a day of a thousand variants is 96,000 of these, 17 MB."""
        return array("f", (getattr(self, item.name) for item in fields(self)))


@dataclass(slots=True)
class _Buckets:
    """Totals of one variant by bucket.

    Attributes:
        number: Number of the open bucket, to which time is added.
        totals: Its totals.
        closed: Numbers and totals of those before it, oldest first.

    """

    number: int
    totals: Totals = field(default_factory=Totals)
    closed: deque[tuple[int, array[float]]] = field(default_factory=lambda: deque(maxlen=BUCKETS))

    def add(self, moment: Moment, seconds: float, *, number: int) -> None:
        """Add a time to the bucket of this number; another open one is closed."""
        if self.number != number:
            self.closed.append((self.number, self.totals.packed()))
            self.number, self.totals = number, Totals()
        self.totals.add(moment, seconds)

    def since(self, first: int) -> Totals:
        """Totals of the buckets from this number on."""
        whole = Totals()
        for number, numbers in self.closed:
            if number >= first:
                whole.merge(Totals(**dict(zip(_NAMES, numbers, strict=True))))
        if self.number >= first:
            whole.merge(self.totals)
        return whole


class Timeline:
    """Totals by variant and bucket."""

    def __init__(self) -> None:
        self._by_variant: dict[str, _Buckets] = {}
        self._last: float | None = None

    def record(self, states: Mapping[str, VariantState], *, now: float) -> None:
        """Record that every variant has been as it is now since the last call; `now`: Unix seconds."""
        last, self._last = self._last, now
        for gone in self._by_variant.keys() - states.keys():
            del self._by_variant[gone]
        if last is None or not 0.0 < now - last <= GAP_SECONDS:
            return
        number = int(now // BUCKET_SECONDS)
        for key, state in states.items():
            moment = moment_of(state)
            if moment is None:
                continue
            buckets = self._by_variant.get(key)
            if buckets is None:
                buckets = self._by_variant[key] = _Buckets(number)
            buckets.add(moment, now - last, number=number)

    def forget(self) -> None:
        """Count no time until the next record: another replica leads meanwhile."""
        self._last = None

    def since(self, start: float) -> dict[str, Totals]:
        """Totals by variant of the buckets that end after a time, Unix seconds."""
        first = int(start // BUCKET_SECONDS)
        totals_by_variant = {key: item.since(first) for key, item in self._by_variant.items()}
        return {key: totals for key, totals in totals_by_variant.items() if totals.seconds > 0}


_NAMES = tuple(item.name for item in fields(Totals))


def moment_of(state: VariantState) -> Moment | None:
    """A variant as it is; None while there is no decision of this process."""
    decision = state.decision
    if state.desired is None or decision is None:
        return None
    targets, traffic, candidate = state.source.targets, state.traffic, decision.candidate
    observed = (None, None) if traffic is None else (traffic.ttft_ms, traffic.itl_ms)
    bounds = (targets.ttft_ms, targets.itl_ms)
    unit = state.cost / state.desired if state.desired else 0.0
    replicas = state.source.replicas
    current = decision.current_cost
    if replicas and current:
        current *= state.source.spec_replicas / replicas
    elif state.accelerator == state.source.accelerator:
        current = unit * state.source.spec_replicas
    return Moment(
        present=state.source.spec_replicas,
        ours=state.desired,
        present_cost=current,
        our_cost=state.cost,
        present_within=within(observed, bounds),
        ours_within=within((candidate.ttft_ms or None, candidate.itl_ms or None), bounds),
    )


def within(
    latencies: tuple[float | None, float | None], bounds: tuple[float, float]
) -> bool | None:
    """Whether latencies are within their targets; None where no target has a latency."""
    pairs = [
        (latency, bound)
        for latency, bound in zip(latencies, bounds, strict=True)
        if bound and latency is not None
    ]
    return all(latency <= bound for latency, bound in pairs) if pairs else None


def document(totals: Totals) -> dict[str, Any]:
    """Totals as JSON: means, hours, cents, shares from 0 to 1; null where nothing is known."""

    def share(part: float, whole: float) -> float | None:
        return round(part / whole, 4) if whole > 0 else None

    def side(replicas: float, cost: float, within: float, known: float) -> dict[str, Any]:
        return {
            "meanReplicas": share(replicas, totals.seconds),
            "replicaHours": round(replicas / 3600.0, 3),
            "costCents": round(cost, 2),
            "attainment": share(within, known),
        }

    return {
        "hours": round(totals.seconds / 3600.0, 3),
        "present": side(
            totals.present, totals.present_cost, totals.present_within, totals.observed
        ),
        "ours": side(totals.ours, totals.our_cost, totals.ours_within, totals.predicted),
        "moreReplicas": {
            "share": share(totals.more, totals.seconds),
            "most": round(totals.most_more),
        },
        "fewerReplicas": {
            "share": share(totals.fewer, totals.seconds),
            "most": round(totals.most_fewer),
        },
    }
