"""The HorizontalPodAutoscaler with one External metric, as the real controller computes it.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
Arithmetic is exact: items are rounded up to milli-units and summed, the rest is fractions.
"""

from __future__ import annotations

import json
import math
import re
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import aiohttp

TOLERANCE = Fraction(1, 10)
MAX_INT32 = 2**31 - 1
"""What the controller's guard makes of a count that is negative or too large."""
_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?", re.ASCII
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


class MetricUnavailable(Exception):  # noqa: N818 - a state of the metric, not a fault of the HPA
    """There is no value: the HPA keeps the replicas."""


def quantity(text: str) -> Fraction:
    """Exact value of a Kubernetes quantity; raises MetricUnavailable for other text."""
    form = _QUANTITY.fullmatch(text.strip())
    if form is None:
        raise MetricUnavailable(
            f"quantities must match the regular expression '^([+-]?[0-9.]+)...$': {text!r}"
        )
    number, suffix, exponent = Fraction(form[1]), form[2] or "", form[3]
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    power = int(exponent) if exponent else _DECIMAL.get(suffix, 0)
    return number * (Fraction(10**power) if power >= 0 else Fraction(1, 10**-power))


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
) -> int:
    """Replicas that the metric proposes, before bounds and stabilization.

    Args:
        items: quantities of the metric's items.
        target: quantity, per replica for AverageValue.
        spec_replicas: replicas that the workload's scale asks for.
        ready_replicas: replicas that are ready; only Value multiplies by them.
        max_replicas: what a negative or overflowing proposal becomes.
        target_type: of the HPA's External metric.
        tolerance_up: fraction of the target that the usage may exceed without a change, inclusive.
        tolerance_down: the same for falling short.

    Raises:
        MetricUnavailable: there are no items, or one is no quantity.
        ValueError: the target is not positive, which the API server would not admit.

    """
    if not items:
        raise MetricUnavailable("no metrics returned from external metrics API")
    usage = Fraction(sum(math.ceil(quantity(item) * 1000) for item in items), 1000)
    goal = quantity(target)
    if goal <= 0:
        raise ValueError(f"target: must be positive, not {target!r}")
    if usage < 0:
        return max_replicas
    average = target_type == "AverageValue"
    # At 0 replicas the controller divides by zero, gets infinity, and so leaves the tolerance.
    ratio = usage / (goal * (spec_replicas or Fraction(1, 2**31))) if average else usage / goal
    if 1 - _exact(tolerance_down) <= ratio <= 1 + _exact(tolerance_up):
        return spec_replicas
    proposed = math.ceil(usage / goal) if average else math.ceil(ratio * ready_replicas)
    return proposed if proposed <= MAX_INT32 else max_replicas


def _exact(tolerance: Fraction | float) -> Fraction:
    """0.3 as three tenths, not as the nearest binary fraction."""
    return Fraction(str(tolerance)) if isinstance(tolerance, float) else Fraction(tolerance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Replicas to set, and the condition that the real HPA would show."""

    replicas: int
    reason: str
    message: str


class HorizontalPodAutoscaler:
    """Bounds and stabilization around `desired_replicas`, for AverageValue 1."""

    def __init__(
        self,
        *,
        min_replicas: int = 1,
        max_replicas: int = 10,
        stabilization_up_seconds: float = 0.0,
        stabilization_down_seconds: float = 300.0,
        tolerance_up: Fraction | float = TOLERANCE,
        tolerance_down: Fraction | float = TOLERANCE,
    ) -> None:
        self._min, self._max = min_replicas, max_replicas
        self._up, self._down = stabilization_up_seconds, stabilization_down_seconds
        self._tolerance = (tolerance_up, tolerance_down)
        self._history: deque[tuple[float, int]] = deque()

    def step(
        self,
        *,
        now_seconds: float,
        items: Sequence[str] | None,
        spec_replicas: int,
        ready_replicas: int,
    ) -> Decision:
        """One sync; `items` None means that the metric could not be read."""
        if spec_replicas == 0:
            message = "scaling is disabled since the replica count of the target is zero"
            return Decision(replicas=0, reason="ScalingDisabled", message=message)
        if not self._history:
            self._history.append((now_seconds, spec_replicas))  # it starts from what it finds
        if not self._min <= spec_replicas <= self._max:
            return self._bounded(spec_replicas)  # the controller does not read the metric then
        try:
            proposed = desired_replicas(
                items=items or (),
                target="1",
                spec_replicas=spec_replicas,
                ready_replicas=ready_replicas,
                max_replicas=self._max,
                tolerance_up=self._tolerance[0],
                tolerance_down=self._tolerance[1],
            )
        except MetricUnavailable as error:
            return Decision(
                replicas=spec_replicas, reason="FailedGetExternalMetric", message=str(error)
            )
        stable = self._stabilize(now_seconds, proposed, spec_replicas)
        if not self._min <= stable <= self._max:
            return self._bounded(stable)
        message = f"recommended {proposed}, set {stable}"
        return Decision(replicas=stable, reason="DesiredWithinRange", message=message)

    def _bounded(self, replicas: int) -> Decision:
        if replicas > self._max:
            message = f"the desired replica count is more than the maximum of {self._max}"
            return Decision(replicas=self._max, reason="TooManyReplicas", message=message)
        message = f"the desired replica count is less than the minimum of {self._min}"
        return Decision(replicas=self._min, reason="TooFewReplicas", message=message)

    def _stabilize(self, now: float, proposed: int, current: int) -> int:
        while self._history and self._history[0][0] < now - max(self._up, self._down):
            self._history.popleft()
        # As the controller: a recommendation exactly as old as the window no longer counts.
        up = min([proposed, *(value for at, value in self._history if at > now - self._up)])
        down = max([proposed, *(value for at, value in self._history if at > now - self._down)])
        self._history.append((now, proposed))
        return min(max(current, up), down)


async def read_metric(
    session: aiohttp.ClientSession, url: str, ssl_context: ssl.SSLContext | None
) -> list[str]:
    """Values (quantities) of the items at that URL, asked for as the HPA controller does.

    Raises:
        MetricUnavailable: no answer, an error, or an answer that the controller would not take.

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
        said = document.get("message") if isinstance(document, dict) else None
        raise MetricUnavailable(
            f"unable to fetch metrics from external metrics API: {said or f'status {status}'}"
        )
    if kind != "application/json":
        raise MetricUnavailable(f"serializer for {kind} doesn't exist")
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items or [], list) or not all(isinstance(i, dict) for i in items or []):
        raise MetricUnavailable("the answer is no ExternalMetricValueList")
    values = [item.get("value") for item in items or []]
    return ["0" if value is None else str(value) for value in values]
