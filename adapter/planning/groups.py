"""Groups of variants that share one demand, and ceilings on what plans may cost.

A `Group` is planned as one: its variants together carry its traffic, and what a replica is worth follows from
how the gateway spreads requests. A `Fleet` holds groups and budgets; the plan answers `GroupDecision`s.
Everything is immutable and picklable. Costs in cents per hour, rates in requests per minute.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from adapter.planning.fleet import Load

Routing = Literal["least-loaded", "round-robin", "weights"]
"""How a gateway spreads the requests of a group over its variants.

least-loaded: each replica gets as much as its speed allows. round-robin: each pod gets the same, so the
slowest used replica bounds all. weights: each variant gets a fixed part (HTTPRoute), whatever its replicas.
"""

ROUTINGS: tuple[Routing, ...] = ("least-loaded", "round-robin", "weights")

INTERRUPTIBLE_SHARE = 0.5
"""Default largest part of a group's demand that interruptible variants carry."""

UNLIMITED = -1
"""Ceiling that does not bind, as in the workload-variant-autoscaler's quotas; 0 denies everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a group knows of one of its variants, beside what the fleet's `Variant` says.

    Attributes:
        available: replicas that can be ready at most, those that are starting in time included; below what is
            wanted where replicas are unschedulable or fail. None: no such limit.
        unavailable_reason: why `available` is what it is, as a clause, such as `2 replicas unschedulable`.
        interruptible: True where the devices may be taken away at any time (spot).
        weight: part of the requests that the gateway sends here, under routing weights; no unit.

    """

    available: int | None = None
    unavailable_reason: str = ""
    interruptible: bool = False
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthClass:
    """Requests of one class of lengths, where the gateway routes by length.

    Attributes:
        share: part of the group's requests that are of this class; the shares of a group sum up to 1.
        input_tokens: mean prompt tokens per request.
        output_tokens: mean generated tokens per request.

    """

    name: str
    share: float
    input_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A demand of a moment ago that is still planned for, in terms of the replicas that carried it.

    What a replica carries changes with the lengths of requests: a rate of other requests says little.

    Attributes:
        replicas: replicas that were planned for it, by variant.
        part: part of what they carry that the demand was.
        rate_rps: the demand, requests per second; counts where a variant of `replicas` can no longer serve.

    """

    replicas: Mapping[str, int]
    part: float
    rate_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Variants of one model and service class that share one demand.

    Attributes:
        name: name unique among groups; `NAMESPACE/NAME` for Kubernetes objects.
        namespace: namespace that budgets count its variants in which have none of their own; empty: none.
        variants: names of the fleet's variants that belong to it; one name belongs to one group.
        traffic: demand of the group: what its pods, its gateway and its queue are offered together.
        routing: how the gateway spreads requests.
        members: what is known of single variants, by name; a variant not named has the defaults.
        interruptible_share: largest part of the demand that interruptible variants carry together, 0 to 1.
        length_classes: classes of lengths that the gateway routes by; empty where it does not.
        floors: demands of a moment ago; what exceeds `traffic` is planned for.
        hysteresis: share of the cost of replicas to be started that a shift of load between the variants must
            save; None for that of the fleet's settings.

    """

    name: str
    model: str
    service_class: str
    variants: tuple[str, ...]
    traffic: Load
    namespace: str = ""
    routing: Routing = "least-loaded"
    members: Mapping[str, Member] = field(default_factory=dict)
    interruptible_share: float = INTERRUPTIBLE_SHARE
    length_classes: tuple[LengthClass, ...] = ()
    floors: tuple[Floor, ...] = ()
    hysteresis: float | None = None


def present(groups: Iterable[Group], names: Container[str]) -> tuple[Group, ...]:
    """The groups of the variants of these names: without others of their variants, and without empty ones."""
    narrowed = (
        replace(group, variants=tuple(name for name in group.variants if name in names))
        for group in groups
    )
    return tuple(group for group in narrowed if group.variants)


BudgetScope = Literal["installation", "namespace", "class"]

EVERY = "*"
"""Subject that stands for each namespace or class without a budget of its own.

People write `default`, which is the name of a namespace too: what is left to that one alone must not be taken
for what each of the others may have.
"""


OF_ROLES = (" (prefill)", " (decode)")
"""What stands behind the name of a class for replicas that do one part of requests."""


def without_role(service_class: str) -> str:
    """The service class that is written: replicas of one part of requests have one made of it."""
    for suffix in OF_ROLES:
        service_class = service_class.removesuffix(suffix)
    return service_class


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Ceilings on what all variants of one scope hold together. -1 is unlimited, 0 denies everything.

    Attributes:
        name: name in conditions and metrics, such as `namespace team-a`.
        scope: what it counts: the whole installation, one namespace or one service class.
        subject: the namespace or class; `EVERY`: each one without a budget of its own; empty: installation.
        cost: largest cost, cents per hour.
        devices: most devices of all types together.
        devices_by_type: most devices by device type, or units by accelerator name.

    """

    name: str
    scope: BudgetScope = "installation"
    subject: str = ""
    cost: float = UNLIMITED
    devices: int = UNLIMITED
    devices_by_type: Mapping[str, int] = field(default_factory=dict)

    @property
    def bounds(self) -> bool:
        """Whether it has any ceiling that is not unlimited."""
        return any(
            limit >= 0 for limit in (self.cost, self.devices, *self.devices_by_type.values())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What bounds a plan: devices that there are, or one ceiling of a budget.

    Attributes:
        name: name, such as `capacity H100`, `budget team-a: cost` or `budget team-a: H100`.
        limit: the ceiling; cents per hour or devices.
        used: what the plan takes of it.
        unit: `cents/h` or `devices`.

    """

    name: str
    limit: float
    used: float
    unit: str

    def __str__(self) -> str:
        """As in reasons and logs."""
        return f"{self.name}: {self.used:g} of {self.limit:g} {self.unit} used"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDecision:
    """What was decided for a group, over its variants' decisions.

    Attributes:
        cost: cost of all its replicas, cents per hour.
        demand_rpm: requests per minute that it must carry.
        capacity_rpm: requests per minute that the chosen replicas carry within the targets, as the gateway
            spreads them.
        binding: what bounds it: ttft, itl, tps, kv or stability of the variant that carries most, minimum,
            maximum, unavailable, interruptible, or the name of the ceiling that cut it.
        served: full, partial or none of the demand.
        shares: part of the demand by variant; sums up to 1 where anything runs.
        marginal_costs: cents per 1,000 requests of one replica more, by variant that can serve.
        runner_up: the next-best replicas by variant that carry the demand, in words; empty if there are none.
        arriving: part of the replicas that the arrivals take by themselves; the rest works off a queue.
        cut_by: ceilings that kept it from carrying its whole demand.
        reason: reasons in one sentence.

    """

    cost: float
    demand_rpm: float
    capacity_rpm: float
    binding: str
    served: Literal["full", "partial", "none"]
    shares: Mapping[str, float]
    marginal_costs: Mapping[str, float] = field(default_factory=dict)
    runner_up: str = ""
    arriving: float = 1.0
    cut_by: tuple[Ceiling, ...] = ()
    reason: str = ""
