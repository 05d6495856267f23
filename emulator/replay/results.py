"""Results of a replay: the numbers by which policies are compared, and the curves behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """SLO attainment and latencies of one service class's requests for one model.

    Attributes:
        service_class: Name of the service class.
        model: Name of the model.
        ttft_target_ms: TTFT target of the SLO.
        itl_target_ms: ITL target of the SLO.
        requests: Requests that arrived after the warm-up.
        within: Share of the requests within both targets, 0 to 1; an unfinished request is not within.
        ttft_within: Share of the requests within the TTFT target.
        itl_within: Share of the requests within the ITL target.
        ttft_mean_ms: Mean time from a request's arrival to its first token, waiting at the gateway included.
        ttft_p95_ms: 95th percentile of the same time.
        itl_mean_ms: Mean over requests of their mean inter-token latency.
        itl_p95_ms: 95th percentile over requests of their mean inter-token latency.
        unfinished: Requests without their last token at the end of the replay.

    """

    service_class: str
    model: str
    ttft_target_ms: float
    itl_target_ms: float
    requests: int
    within: float
    ttft_within: float
    itl_within: float
    ttft_mean_ms: float
    ttft_p95_ms: float
    itl_mean_ms: float
    itl_p95_ms: float
    unfinished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Time series of one variant, one value per sample; offered load and gateway queue are the model's.

    Attributes:
        model: Name of the model that the variant serves.
        seconds: Time of each sample since the beginning of the replay.
        offered_rpm: Arrival rate since the sample before, requests per minute.
        ready: Replicas that serve requests.
        created: Replicas that start or serve.
        desired: Replicas that the policy wants; NaN where it has no value.
        waiting: Requests in queues, at the gateway included.
        ttft_p95_ms: 95th percentile of requests with a first token since the sample before; NaN without any.
        itl_p95_ms: 95th percentile of requests that ended since the sample before; NaN without any.
        cost_cents: Cost since the beginning of the replay.

    """

    model: str
    seconds: FloatArray
    offered_rpm: FloatArray
    ready: FloatArray
    created: FloatArray
    desired: FloatArray
    waiting: FloatArray
    ttft_p95_ms: FloatArray
    itl_p95_ms: FloatArray
    cost_cents: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """Service, cost and scale events of one policy.

    Attributes:
        policy: Name of the policy, such as `ours`.
        title: Description of the policy in a few words.
        classes: Results of each service class and model.
        gpu_hours: GPU time that replicas held while starting, serving and draining.
        cost_cents: Cost of `gpu_hours`.
        scale_ups: Increases of a variant's replicas.
        scale_downs: Decreases of a variant's replicas.
        recovery_seconds: Time from each upward step of the load until the requests of the next two minutes
            are within their targets again; NaN where they never are.
        queue_peak: Largest number of requests that waited at one time.
        curves: Time series by the variant's name.
        notes: Remarks for the reader, one sentence each.
        family: Name of the curve that the policy is a point of, such as `ours` or `kpa`; empty for its own.
        settings: Threshold or settings of the policy, by their names.

    """

    policy: str
    title: str
    classes: tuple[ClassResult, ...]
    gpu_hours: float
    cost_cents: float
    scale_ups: int
    scale_downs: int
    recovery_seconds: tuple[float, ...]
    queue_peak: int
    curves: Mapping[str, Curves]
    notes: tuple[str, ...] = ()
    family: str = ""
    settings: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def scale_events(self) -> int:
        """Changes of a variant's replicas."""
        return self.scale_ups + self.scale_downs

    @property
    def within(self) -> float:
        """Share of all requests within their targets, 0 to 1."""
        total = sum(item.requests for item in self.classes)
        within = sum(item.within * item.requests for item in self.classes)
        return within / total if total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Results of all policies on the same traffic.

    Attributes:
        scenario: Name of the scenario.
        trace: Name of the traffic.
        duration_seconds: Duration of the traffic.
        requests: Number of requests in the traffic.
        warm_up_seconds: Length of the warm-up, whose requests are not counted.
        results: Results in the order of the policies; the bound is the policy named `clairvoyant`.
        facts: Properties of the scenario to be shown with the results, by their names.

    """

    scenario: str
    trace: str
    duration_seconds: float
    requests: int
    warm_up_seconds: float
    results: tuple[PolicyResult, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def bound(self) -> PolicyResult | None:
        """The clairvoyant's result, the bound of cost for its attainment; None if it was not replayed."""
        return next((item for item in self.results if item.policy == "clairvoyant"), None)

    def cost_ratio(self, result: PolicyResult) -> float | None:
        """Cost divided by the bound's; None without a bound."""
        bound = self.bound
        return (
            None if bound is None or bound.cost_cents <= 0 else result.cost_cents / bound.cost_cents
        )
