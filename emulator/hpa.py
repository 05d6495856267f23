"""The HorizontalPodAutoscaler with External or Pods metrics, computed as the real controller does.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
As there, items are rounded up to milli-units, which are summed; ratios are binary fractions.
"""

from __future__ import annotations

import json
import math
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import aiohttp

from emulator import hpa_rules
from emulator.hpa_rules import MAX_INT32, MetricUnavailable, quantity

__all__ = [
    "MAX_INT32",
    "TOLERANCE",
    "HorizontalPodAutoscaler",
    "HpaDecision",
    "Metric",
    "MetricUnavailable",
    "desired_replicas",
    "quantity",
    "read_metric",
]

TOLERANCE = Fraction(1, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of an HPA.

    Attributes:
        target: Target as a quantity, per replica for AverageValue.
        target_type: Type of the target; Pods metrics have AverageValue only.
        source: External, whose items are summed, or Pods, with one item per pod.

    Raises:
        ValueError: The API server would not admit the metric.

    """

    target: str = "1"
    target_type: Literal["AverageValue", "Value"] = "AverageValue"
    source: Literal["External", "Pods"] = "External"

    def __post_init__(self) -> None:
        try:
            positive = quantity(self.target) > 0
        except MetricUnavailable as error:
            raise ValueError(f"target: {error}") from error
        if not positive:
            raise ValueError(f"target: must be positive, not {self.target!r}")
        if self.target_type not in {"AverageValue", "Value"}:
            raise ValueError(
                f"target_type: must be AverageValue or Value, not {self.target_type!r}"
            )
        if self.source not in {"External", "Pods"}:
            raise ValueError(f"source: must be External or Pods, not {self.source!r}")
        if self.source == "Pods" and self.target_type == "Value":
            raise ValueError("target_type: must be AverageValue for a Pods metric")


def desired_replicas(
    *,
    items: Sequence[str],
    target: str,
    spec_replicas: int,
    ready_replicas: int,
    max_replicas: int = MAX_INT32,
    target_type: Literal["AverageValue", "Value"] = "AverageValue",
    tolerance_up: Fraction | float = TOLERANCE,
    tolerance_down: Fraction | float = TOLERANCE,
    status_replicas: int | None = None,
    source: Literal["External", "Pods"] = "External",
    pending_replicas: int = 0,
) -> int:
    """Replicas that one metric proposes, before bounds and stabilization.

    Args:
        items: Quantities of the metric's items.
        target: Target as a quantity, per replica for AverageValue.
        spec_replicas: Replicas in the spec of the workload's scale.
        ready_replicas: Ready replicas; only Value multiplies by them.
        max_replicas: Result for a proposal that overflows.
        target_type: Type of the target.
        tolerance_up: Fraction by which the usage may exceed the target without a change, inclusive.
        tolerance_down: Fraction by which the usage may fall short of the target without a change.
        status_replicas: Existing replicas, by default spec_replicas; AverageValue divides by them.
        source: Source of the metric, External or Pods.
        pending_replicas: Existing replicas that do not run yet; only Pods metrics use them.

    Raises:
        MetricUnavailable: There are no items, one is no quantity, or there are no pods to count.
        ValueError: The API server would not admit the target.

    """
    metric = Metric(target=target, target_type=target_type, source=source)
    if not items:
        api = "external" if source == "External" else "custom"
        raise MetricUnavailable(f"no metrics returned from {api} metrics API")
    values = [_int64(quantity(item) * 1000) for item in items]
    pods = spec_replicas if status_replicas is None else status_replicas
    count = hpa_rules.Count(
        goal=math.ceil(quantity(metric.target) * 1000),
        lowest=1.0 - float(tolerance_down),
        highest=1.0 + float(tolerance_up),
        spec=spec_replicas,
    )
    if source == "Pods":
        proposed = count.of_pods(values, pods, pending_replicas)
    elif target_type == "AverageValue":
        proposed = count.by_average(values, pods)
    else:
        proposed = count.by_value(values, pods, ready_replicas)
    return max(0, proposed) if proposed <= MAX_INT32 else max_replicas


def _int64(milli: Fraction) -> int:
    return max(-hpa_rules.MAX_INT64, min(math.ceil(milli), hpa_rules.MAX_INT64))


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaDecision:
    """Replicas to set, with reason and message of the condition that the real HPA would show."""

    replicas: int
    reason: str
    message: str


class HorizontalPodAutoscaler:
    """Metrics, stabilization, policies and bounds of an HPA, in the controller's order.

    Args:
        min_replicas: Lower bound; 0 needs the feature gate HPAScaleToZero in a cluster.
        max_replicas: Upper bound.
        stabilization_up_seconds: Stabilization window of scaleUp.
        stabilization_down_seconds: Stabilization window of scaleDown.
        tolerance_up: Tolerance of scaleUp, as a fraction of the target.
        tolerance_down: Tolerance of scaleDown, as a fraction of the target.
        target: Target of a single external metric.
        target_type: Type of that target.
        metrics: Metrics instead of `target` and `target_type`, for Pods metrics or several.
        scale_up: Rules of scaleUp. Default: the larger of 4 pods and 100 % per 15 s.
        scale_down: Rules of scaleDown. Default: 100 % per 15 s.
        without_behavior: Whether the HPA has no `behavior` at all; each sync may then double the
            replicas or go to 4, and only the scale-down window applies.

    Raises:
        ValueError: Arguments exclude each other.

    """

    def __init__(
        self,
        *,
        min_replicas: int = 1,
        max_replicas: int = 10,
        stabilization_up_seconds: float = 0.0,
        stabilization_down_seconds: float = 300.0,
        tolerance_up: Fraction | float = TOLERANCE,
        tolerance_down: Fraction | float = TOLERANCE,
        target: str = "1",
        target_type: Literal["AverageValue", "Value"] = "AverageValue",
        metrics: Sequence[Metric] | None = None,
        scale_up: hpa_rules.ScalingRules | None = None,
        scale_down: hpa_rules.ScalingRules | None = None,
        without_behavior: bool = False,
    ) -> None:
        if metrics is not None and (not metrics or (target, target_type) != ("1", "AverageValue")):
            raise ValueError("metrics: must be at least one, and then no target or target_type")
        if without_behavior and (
            scale_up or scale_down or stabilization_up_seconds or tolerance_up != tolerance_down
        ):
            raise ValueError(
                "without_behavior: takes no scale_up, scale_down or stabilization_up_seconds,"
                " and one tolerance: leave these out"
            )
        self._min, self._max = min_replicas, max_replicas
        self._up, self._down = stabilization_up_seconds, stabilization_down_seconds
        self._tolerance = (tolerance_up, tolerance_down)
        self._metrics = tuple(metrics or (Metric(target=target, target_type=target_type),))
        self._pace = None if without_behavior else hpa_rules.Pace(up=scale_up, down=scale_down)
        self._history: deque[tuple[float, int]] = deque()
        self._scaled_to_zero = False

    def step(
        self,
        *,
        now_seconds: float,
        spec_replicas: int,
        ready_replicas: int,
        items: Sequence[str] | None = None,
        items_by_metric: Sequence[Sequence[str] | None] | None = None,
        status_replicas: int | None = None,
        pending_replicas: int = 0,
    ) -> HpaDecision:
        """Run one sync; the caller must carry out its decision.

        Args:
            now_seconds: Time of a clock that never goes back.
            spec_replicas: Replicas in the spec of the workload's scale.
            ready_replicas: Ready replicas.
            items: Quantities of a single metric; None if it could not be read.
            items_by_metric: Quantities of each metric, instead of `items`.
            status_replicas: Existing replicas, by default spec_replicas.
            pending_replicas: Existing replicas that do not run yet.

        """
        readings = (items,) if items_by_metric is None else tuple(items_by_metric)
        if len(readings) != len(self._metrics) or (items is not None and items_by_metric):
            raise ValueError(f"items_by_metric: must be {len(self._metrics)}, one for each metric")
        if not self._history:
            self._history.append(
                (now_seconds, spec_replicas)
            )  # the first sync starts from the present count
        if spec_replicas == 0 and not self._scaled_to_zero:
            message = "scaling is disabled since the replica count of the target is zero"
            return HpaDecision(replicas=0, reason="ScalingDisabled", message=message)
        if spec_replicas and not self._min <= spec_replicas <= self._max:
            decision = self._bounded(spec_replicas)  # here the controller reads no metric
        else:
            proposed = self._propose(
                readings,
                spec_replicas=spec_replicas,
                ready_replicas=ready_replicas,
                status_replicas=status_replicas,
                pending_replicas=pending_replicas,
            )
            if isinstance(proposed, HpaDecision):
                return proposed
            stable = self._stabilize(now_seconds, proposed, spec_replicas)
            decision = self._limited(now_seconds, spec_replicas, stable) or HpaDecision(
                replicas=stable,
                reason="DesiredWithinRange",
                message=f"recommended {proposed}, set {stable}",
            )
        if decision.replicas != spec_replicas:
            if self._pace:
                self._pace.record(now_seconds, spec_replicas, decision.replicas)
            self._scaled_to_zero = decision.replicas == 0 and any(
                metric.source == "External" for metric in self._metrics
            )
        return decision

    def _propose(
        self,
        readings: Sequence[Sequence[str] | None],
        *,
        spec_replicas: int,
        ready_replicas: int,
        status_replicas: int | None,
        pending_replicas: int,
    ) -> int | HpaDecision:
        """The largest proposal, or a failed metric's condition if all fail or the result would scale down."""
        proposals, failures = [], []
        for metric, items in zip(self._metrics, readings, strict=True):
            try:
                proposal = desired_replicas(
                    items=items or (),
                    target=metric.target,
                    spec_replicas=spec_replicas,
                    ready_replicas=ready_replicas,
                    target_type=metric.target_type,
                    tolerance_up=self._tolerance[0],
                    tolerance_down=self._tolerance[1],
                    status_replicas=status_replicas,
                    source=metric.source,
                    pending_replicas=pending_replicas,
                )
            except MetricUnavailable as error:
                failures.append((f"FailedGet{metric.source}Metric", str(error)))
            else:
                proposals.append(proposal)
        if failures and (not proposals or max(proposals) < spec_replicas):
            reason, message = failures[0]
            return HpaDecision(replicas=spec_replicas, reason=reason, message=message)
        return max(proposals)

    def _stabilize(self, now: float, proposed: int, current: int) -> int:
        while self._history and self._history[0][0] < now - max(self._up, self._down):
            self._history.popleft()
        if self._pace is None:
            # Here a recommendation exactly as old as the window still counts.
            recent = [value for _, value in self._history] if self._down else []
            stable = max([proposed, *recent])
        else:
            # And here it no longer counts.
            up = min([proposed, *(value for at, value in self._history if at > now - self._up)])
            down = max([proposed, *(value for at, value in self._history if at > now - self._down)])
            stable = min(max(current, up), down)
        self._history.append((now, proposed))
        return stable

    def _limited(self, now: float, current: int, stable: int) -> HpaDecision | None:
        """Decision where policies or bounds do not allow the stabilized count; None where they do."""
        if stable > current:
            limit = self._pace.up_limit(now, current) if self._pace else max(2 * current, 4)
            if stable > limit and limit < self._max:
                message = f"the scale-up policies allow {limit} now, not {stable}"
                return HpaDecision(replicas=limit, reason="ScaleUpLimit", message=message)
        elif stable < current:
            limit = self._pace.down_limit(now, current) if self._pace else 0
            if stable < limit and limit > self._min:
                message = f"the scale-down policies allow {limit} now, not {stable}"
                return HpaDecision(replicas=limit, reason="ScaleDownLimit", message=message)
        return None if self._min <= stable <= self._max else self._bounded(stable)

    def _bounded(self, replicas: int) -> HpaDecision:
        if replicas > self._max:
            message = f"the desired replica count is more than the maximum of {self._max}"
            return HpaDecision(replicas=self._max, reason="TooManyReplicas", message=message)
        message = f"the desired replica count is less than the minimum of {self._min}"
        return HpaDecision(replicas=self._min, reason="TooFewReplicas", message=message)


async def read_metric(
    session: aiohttp.ClientSession, url: str, ssl_context: ssl.SSLContext | None
) -> list[str]:
    """Query a metric as the HPA controller does; returns the quantities of its items.

    Raises:
        MetricUnavailable: No response, an error, or a response that the controller would reject.

    """
    headers = {
        "Accept": "application/vnd.kubernetes.protobuf, */*",
        "User-Agent": "kube-controller-manager/v1.34.0 (linux/amd64) horizontal-pod-autoscaler",
    }
    timeout = aiohttp.ClientTimeout(total=10)
    verify = True if ssl_context is None else ssl_context
    try:
        async with session.get(url, headers=headers, ssl=verify, timeout=timeout) as response:
            status, kind = response.status, response.content_type
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise MetricUnavailable(f"unable to fetch metrics: {error}") from error
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if status != 200:
        message = document.get("message") if isinstance(document, dict) else None
        raise MetricUnavailable(
            f"unable to fetch metrics from external metrics API: {message or f'status {status}'}"
        )
    if kind != "application/json":
        raise MetricUnavailable(f"serializer for {kind} doesn't exist")
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items or [], list) or not all(isinstance(i, dict) for i in items or []):
        raise MetricUnavailable("the answer is no ExternalMetricValueList")
    if not all(isinstance(item.get("timestamp"), str | None) for item in items or []):
        raise MetricUnavailable("timestamp: must be a text")
    values = [item.get("value") for item in items or []]
    return ["0" if value is None else str(value) for value in values]
