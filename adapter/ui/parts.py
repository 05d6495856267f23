"""Parts of a variant's document of `/variants`: measured latencies, and the group whose demand it shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One latency by the pods' histograms over the collection window, in milliseconds.

    Attributes:
        p50: Median; None where pods show no histogram.
        p95: 95th percentile; likewise.
        within: Share within the SLO target, 0 to 1; None without a target.
        count: Latencies that were counted.
        problem: Why there are no percentiles, or not of all; empty otherwise.

    """

    p50: float | None = None
    p95: float | None = None
    within: float | None = None
    count: float = 0.0
    problem: str = ""

    @classmethod
    def of(cls, document: Mapping[str, Any], name: str) -> Measured:
        """Read a latency of a variant's document."""
        item = (document.get("latencies") or {}).get(name)
        if item is None:
            return cls()
        return cls(
            p50=item["p50Milliseconds"],
            p95=item["p95Milliseconds"],
            within=item["withinTarget"],
            count=item["count"],
            problem=item["problem"] or "",
        )

    def misses(self, percentile: float | None) -> bool:
        """Whether fewer are known to be within the target than that percentile asks for.

        Not known where so few were counted that one above the target would be too many.
        """
        if percentile is None or self.within is None or self.count * (1.0 - percentile) < 1.0:
            return False
        return self.within < percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The demand that the variants of one group share, and what was decided for all of them.

    Attributes:
        name: Name of the group, unique in the fleet.
        routing: How its gateway spreads requests.
        demand: Requests per minute that it is sized for.
        observed: Requests per minute at its pods.
        gateway: Requests per minute at its gateways; None where none counts them.
        waiting: Requests that wait at its gateways and pods.
        capacity: Requests per minute that the planned replicas carry; None without a decision, likewise
            `cost`.
        cost: Cost of the planned replicas, cents per hour.
        served: full, partial or none of the demand; empty without a decision.
        binding: What bounds it.
        runner_up: Next-best replicas in words; empty without any.
        spot_limit: Largest part of the demand that interruptible variants may carry together.
        cut_by: Ceilings that kept it from carrying its whole demand, in words.
        notes: What to know of the demand, a clause each, and why it could not be planned.

    """

    name: str
    routing: str = ""
    demand: float = 0.0
    observed: float = 0.0
    gateway: float | None = None
    waiting: float = 0.0
    capacity: float | None = None
    cost: float | None = None
    served: str = ""
    binding: str = ""
    runner_up: str = ""
    spot_limit: float = 1.0
    cut_by: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Shared | None:
        """Read the group of a variant's document; None where it is alone."""
        item = document.get("group")
        if item is None:
            return None
        notes = (item.get("problem"), item.get("waking"), *item["notes"])
        return cls(
            name=str(item["name"]),
            routing=str(item["routing"]),
            demand=item["demandPerMinute"],
            observed=item["observedArrivalRatePerMinute"],
            gateway=item["gatewayArrivalRatePerMinute"],
            waiting=item["waitingRequests"],
            capacity=item.get("capacityPerMinute"),
            cost=item.get("cost"),
            served=item.get("served") or "",
            binding=item.get("binding") or "",
            runner_up=item.get("runnerUp") or "",
            spot_limit=item["interruptibleShareLimit"],
            cut_by=tuple(item.get("cutBy") or ()),
            notes=tuple(filter(None, notes)),
        )
