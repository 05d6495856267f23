"""What a replay found: the numbers by which policies are compared, and the curves behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """How one service class's requests for one model fared.

    Attributes:
        requests: that arrived after the warm-up.
        within: share of them within both targets; one that was not finished is not.
        ttft_within: share within the TTFT target; likewise `itl_within`.
        ttft_mean_ms: since the arrival, waiting at the gateway included; likewise the percentile.
        itl_mean_ms: mean over requests of their mean ITL; likewise the percentile.
        unfinished: requests that were not served to the end within the replay.

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
    """One value per sample for one variant or, for offered load and latency, its model.

    Attributes:
        model: that the variant serves.
        seconds: of the samples, since the beginning.
        offered_rpm: requests that arrived per minute since the last sample.
        ready: replicas that serve; `created` counts those that start, too.
        desired: replicas that the policy wants; NaN where it says nothing.
        waiting: requests in queues, at the gateway included.
        ttft_p95_ms: of requests that got their first token since the last sample; NaN without any.
        itl_p95_ms: likewise, of requests that ended.
        cost_cents: since the beginning.

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
    """What one policy made of the traffic.

    Attributes:
        policy: its name, such as `ours`; `title` says it in words.
        gpu_hours: held by replicas: starting, serving and draining.
        cost_cents: of them.
        scale_ups: changes of a wanted number of replicas upwards; likewise down.
        recovery_seconds: for each step of the load upwards, from it until the requests of the next two
            minutes are within their targets again; NaN where they never are.
        queue_peak: most requests that waited at one time.
        curves: by variant.
        notes: what a reader should know, a sentence each.

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

    @property
    def within(self) -> float:
        """Share of all requests within their targets."""
        total = sum(item.requests for item in self.classes)
        good = sum(item.within * item.requests for item in self.classes)
        return good / total if total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that one replay found.

    Attributes:
        scenario: its name; `trace` names the traffic.
        duration_seconds: of the traffic.
        requests: in it.
        warm_up_seconds: at the beginning, whose requests are not judged.
        results: in the order of the policies; the clairvoyant's, the bound, is called `clairvoyant`.
        facts: of the scenario, by name, to be shown with the results.

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
        """What could have been done by who knows the traffic; None if that was not computed."""
        return next((item for item in self.results if item.policy == "clairvoyant"), None)

    def cost_ratio(self, result: PolicyResult) -> float | None:
        """Cost over the bound's."""
        bound = self.bound
        return (
            None if bound is None or bound.cost_cents <= 0 else result.cost_cents / bound.cost_cents
        )
