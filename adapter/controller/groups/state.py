"""What the control loop knows of one group, and what it says of it after a reconcile cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapter.collector.traffic import Traffic
from adapter.controller.demand.work import Work
from adapter.controller.estimates.feedback import Feedback
from adapter.controller.groups.availability import Limit, Outage
from adapter.planning.groups import INTERRUPTIBLE_SHARE, Floor, GroupDecision, Routing
from analyzer import forecast
from optimizer.returns import Returns


@dataclass(frozen=True, slots=True)
class Demanded:
    """What a group was sized for at a monotonic time.

    Attributes:
        at: Monotonic seconds.
        floor: The demand, in terms of the replicas that were planned.

    """

    at: float
    floor: Floor


@dataclass(frozen=True, slots=True)
class Worths:
    """What a replica of each variant was planned to carry at a monotonic time.

    Attributes:
        at: Monotonic seconds.
        rates_rps: Requests per second within the SLO targets, by variant key.

    """

    at: float
    rates_rps: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What people have set that the plan of a group depends on, to be compared.

    Attributes:
        own: Settings of its own namespace and of the installation, and its routing.
        guests: Settings of its variants of other namespaces.

    """

    own: object
    guests: object


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """One group after a reconcile cycle: for status, telemetry and explanations.

    Attributes:
        name: Name of the group, unique.
        members: Keys of its variants.
        routing: How its gateway spreads requests, as planned with.
        spread: How its pods are offered requests as observed: even, uneven, or empty while it is not known.
        per_pod_rpm: Requests per minute that one ready pod of each variant is offered, by key.
        observed_rpm: Requests per minute at its pods.
        gateway_rpm: Requests per minute at its gateways; None where none counts them.
        waiting: Requests that wait at its gateways and pods.
        demand_rpm: Requests per minute that it is sized for.
        feedback: Factor on its demand that its misses of SLO targets ask for; 1 for none.
        notes: Why that differs from what is observed, and what it lacks, a clause each.
        unavailable: What keeps replicas of a variant from coming, by key.
        outside: Why a variant is not planned with the group, by key.
        waking: Variant that last woke it from zero, and why; empty before.
        interruptible_share: Largest part of its demand that interruptible variants carry together, 0 to 1.
        decision: What was decided; None where it could not be planned.
        problem: Why it could not be planned; empty where it was.
        targets: The desired replicas, by key.
        held: Why a variant is not given what was planned, by key.

    """

    name: str
    members: tuple[str, ...]
    routing: Routing
    spread: str = ""
    per_pod_rpm: Mapping[str, float] = field(default_factory=dict)
    observed_rpm: float = 0.0
    gateway_rpm: float | None = None
    waiting: float = 0.0
    demand_rpm: float = 0.0
    feedback: float = 1.0
    notes: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    waking: str = ""
    interruptible_share: float = INTERRUPTIBLE_SHARE
    decision: GroupDecision | None = None
    problem: str = ""
    targets: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """All that the control loop knows of one group.

    Attributes:
        trend: Trend of its arrival rate; None before the first observation.
        since: Monotonic time of its first plan by this process; None before it.
        demands: What it was sized for within the stabilization window, oldest first.
        raised_at: Monotonic time of the last target of it that was higher than before; None before it.
        limits: Replicas that can run, by variant key, where something keeps others from it.
        outage: Time in which none of its replicas serves, though requests were offered; None without one.
        startups: Start-up times of its variants as last seen, seconds, by key: none shows at zero replicas.
        traffic: Its last traffic with known lengths of requests; None before the first.
        rates: Arrival rates of members since the last one of the trend, with their times, by key.
        work: Its work, rate times size of its requests; None while sizes are not known.
        changed_at: Monotonic time at which replicas were last asked for or given up; None before it.
        carried: Whether the replicas that were asked for before the last cycle carry its demand.
        move_since: Monotonic time since which the plan has moved load between variants that carry it; None
            where it does not.
        configuration: What people have set that its plan depends on; None before the first objects.
        reconfigured: Whether that has changed, and no plan since was one that moves no load.
        hurried_at: Monotonic time at which load last moved at once for that; None before.
        worths: What replicas carried within the time in which a move has to pay for itself, oldest first.
        feedback: What its misses of SLO targets ask of its plan.
        returns: How long load stayed away that fell and came back.
        state: What is said of it; None before its first cycle.

    """

    trend: forecast.State | None = None
    since: float | None = None
    demands: tuple[Demanded, ...] = ()
    raised_at: float | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    outage: Outage | None = None
    startups: Mapping[str, float] = field(default_factory=dict)
    traffic: Traffic | None = None
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    work: Work | None = None
    changed_at: float | None = None
    carried: bool = False
    move_since: float | None = None
    configuration: Configuration | None = None
    reconfigured: bool = False
    hurried_at: float | None = None
    worths: tuple[Worths, ...] = ()
    feedback: Feedback = field(default_factory=Feedback)
    returns: Returns = field(default_factory=Returns)
    state: GroupState | None = None
