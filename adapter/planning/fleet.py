"""The fleet at one moment: input of the planning step, wherever it was read from.

A `Fleet` is built from Kubernetes objects in a folder, from a cluster, or from a plan file; planning
sees no difference. Everything is immutable and picklable, because planning runs in a worker process.

Units: costs in cents per hour, latencies in milliseconds, rates in requests per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from adapter.planning.groups import Budget, Group
from analyzer.defaults import HEADROOM, STABILITY_MARGIN
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes
from optimizer.problem import TRANSITION_FACTOR, SaturationPolicy, SolverName

LARGEST_BATCH = 8192
"""Largest batch that is sized: time and memory for it grow with it."""

LARGEST_RATE_RPM = 1e9
"""Largest rate of one load that is planned, requests per minute; more is a mistake."""

MOST_REPLICAS = 10**6
"""Most replicas of one variant of a group that are planned: more than a cluster has pods, and few enough for
integer programs to tell one replica from none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One kind of unit that replicas run on.

    Attributes:
        name: name in profiles and variants, such as `A100` or `2xH100`.
        device_type: unit in which capacity is counted; several accelerators may share one.
        unit_cost: cost of one unit, cents per hour.
        multiplicity: devices of `device_type` in one unit.

    """

    name: str
    device_type: str
    unit_cost: float
    multiplicity: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How fast one model runs on one accelerator.

    Attributes:
        accelerator: name of the accelerator.
        latency: coefficients of one engine step, which hold for requests of all lengths, or of decode and
            prefill time, which hold at the lengths that they were measured at.
        limits: limits of the engine; None where only `max_batch` is known.
        accelerator_count: units of the accelerator that one replica holds.
        max_batch: largest number of requests in service; 0 when not given.
        at_tokens: output tokens per request at which the profile was measured; 0 when not given.
        at_input_tokens: input tokens per request at which it was measured; 0 when not given.

    """

    accelerator: str
    latency: LatencyParameters | StepTimes
    limits: EngineLimits | None = None
    accelerator_count: int = 1
    max_batch: int = 0
    at_tokens: int = 0
    at_input_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Service level of one model in one service class; 0 means no such target.

    Attributes:
        itl_ms: largest inter-token latency (slo-tpot), milliseconds.
        ttft_ms: largest time to first token (slo-ttft), milliseconds.
        tps: least output tokens per second over all replicas (slo-tps).
        percentile: bounded percentile of the latencies (slo-percentile), such as 0.95; None is the mean.

    """

    itl_ms: float = 0.0
    ttft_ms: float = 0.0
    tps: float = 0.0
    percentile: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClass:
    """A class of traffic with its priority (1 is highest, 100 lowest) and its targets by model."""

    name: str
    priority: int
    targets: Mapping[str, Targets]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Traffic offered to one variant.

    Attributes:
        arrival_rate_rps: requests offered per second, not requests finished.
        input_tokens: mean prompt tokens per request.
        output_tokens: mean generated tokens per request; at least 1 where there is traffic.
        dispersion: variance of the number of arrivals over its mean; 1 for Poisson arrivals.
        input_cv: coefficient of variation of the prompt tokens; 0 for equal lengths.
        output_cv: coefficient of variation of the generated tokens.
        cached_tokens: mean prompt tokens per request that the prefix cache serves, part of `input_tokens`.
        short_answers: shares of answers of at most `SHORT_BOUNDS` tokens; empty where they are not known.
        in_flight: requests that replicas must have in service at once, because some wait; 0 where none does.
        ordered: replicas that serve or were asked for; where the rate needs no more, nor does `in_flight`.
        backlog_rps: part of the rate that is there to work off requests in the queues of replicas.
        queued_at: replicas in whose queues those requests wait, and which alone can serve them; 0 where any
            replica can.
        surge: whether arrivals have risen far, so that more than the rate needs may be ordered.
        drained: whether the ordered replicas work those queues off before others could be ready.

    """

    arrival_rate_rps: float
    input_tokens: float
    output_tokens: float
    dispersion: float = 1.0
    input_cv: float = 0.0
    output_cv: float = 0.0
    cached_tokens: float = 0.0
    short_answers: tuple[float, ...] = ()
    in_flight: float = 0.0
    ordered: int = 0
    backlog_rps: float = 0.0
    queued_at: int = 0
    surge: bool = False
    drained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentAllocation:
    """Current allocation of a variant.

    Attributes:
        accelerator: name of the accelerator; empty when unknown or nothing runs.
        cost: cost in cents per hour; None computes it from the accelerator.

    """

    accelerator: str
    replicas: int
    cost: float | None = None


Routing = Literal["random", "least-loaded"]
"""Policy by which requests reach replicas: random (a Service) or least-loaded (a load-aware gateway)."""

ROUTINGS: tuple[Routing, ...] = ("random", "least-loaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One scale target as the planning step sees it.

    Attributes:
        name: unique in the fleet; `NAMESPACE/NAME` for Kubernetes objects.
        max_batch: overrides the profiles' batch size on every accelerator; 0 means it does not.
        max_replicas: upper bound; None is unbounded.
        keep_accelerator: True considers the current accelerator only.
        routing: policy by which requests reach replicas; least-loaded replicas share a queue.
        namespace: namespace that budgets count it in; empty takes what stands before `/` in the name.
        narrowed: type under which the devices of a device type are counted that it may use only a part of.

    """

    name: str
    model: str
    service_class: str
    profiles: tuple[Profile, ...]
    load: Load
    current: CurrentAllocation
    max_batch: int = 0
    min_replicas: int = 1
    max_replicas: int | None = None
    keep_accelerator: bool = False
    routing: Routing = "random"
    namespace: str = ""
    narrowed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a planning step.

    Attributes:
        solver: solver to use; auto is unlimited without a capacity, else branch-and-bound.
        policy: saturation policy, which shares devices when not everyone can be served.
        delayed_best_effort: True shares leftovers after all priorities, False after each (greedy only).
        transition_factor: penalty for switching accelerators, as a share of the sum of both costs.
        stability_margin: share of a replica's throughput kept free, of profiles of alpha to delta.
        step_margin: the same of profiles of step times, given or converted.
        time_limit_s: time limit of branch-and-bound, seconds.
        gap: relative distance to the bound that counts as optimal.
        hysteresis: share of the cost of replicas to be started that a shift of load between the variants of a
            group must save at least.
        dispersion_seconds: length of the windows that the dispersion of arrivals was measured in; 0: it holds
            for any length.

    """

    solver: SolverName = "auto"
    policy: SaturationPolicy = "None"
    delayed_best_effort: bool = False
    transition_factor: float = TRANSITION_FACTOR
    stability_margin: float = STABILITY_MARGIN
    step_margin: float = HEADROOM
    time_limit_s: float = 10.0
    gap: float = 1e-6
    hysteresis: float = 0.05
    dispersion_seconds: float = 0.0

    def with_margin(self, given: float | None) -> Settings:
        """With one margin for profiles of both kinds; None leaves each its own."""
        return self if given is None else replace(self, stability_margin=given, step_margin=given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All variants and the accelerators that they may run on.

    Attributes:
        capacity: devices by device type; a type that is not named has none. None: unlimited.
        within: all wider device types of a type, whose devices are among those of each and count there too.
        settings: settings of the planning step.
        groups: variants that share one demand; their own loads are not looked at.
        budgets: ceilings that no plan exceeds.

    """

    accelerators: tuple[Accelerator, ...]
    service_classes: tuple[ServiceClass, ...]
    variants: tuple[Variant, ...]
    capacity: Mapping[str, int] | None = None
    within: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Settings = Settings()
    groups: tuple[Group, ...] = ()
    budgets: tuple[Budget, ...] = ()
