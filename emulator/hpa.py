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
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?")
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
    max_replicas: int,
    target_type: Literal["AverageValue", "Value"] = "AverageValue",
    tolerance_up: Fraction | float = TOLERANCE,
    tolerance_down: Fraction | float = TOLERANCE,
) -> int:
    """What the metric proposes, before bounds and stabilization.

    Raises:
        MetricUnavailable: there are no items, or one is no quantity.

    """
    if not items:
        raise MetricUnavailable("no metrics returned from external metrics API")
    usage = Fraction(sum(math.ceil(quantity(item) * 1000) for item in items), 1000)
    goal = quantity(target)
    if usage < 0:
        return max_replicas  # the controller's overflow guard reads a negative count so
    replicas = spec_replicas if target_type == "AverageValue" else ready_replicas
    ratio = usage / (goal * spec_replicas) if target_type == "AverageValue" else usage / goal
    if 1 - Fraction(tolerance_down) <= ratio <= 1 + Fraction(tolerance_up):
        return spec_replicas
    return math.ceil(usage / goal) if target_type == "AverageValue" else math.ceil(ratio * replicas)


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
        if stable > self._max:
            message = f"the desired replica count is more than the maximum of {self._max}"
            return Decision(replicas=self._max, reason="TooManyReplicas", message=message)
        if stable < self._min:
            message = f"the desired replica count is less than the minimum of {self._min}"
            return Decision(replicas=self._min, reason="TooFewReplicas", message=message)
        message = f"recommended {proposed}, set {stable}"
        return Decision(replicas=stable, reason="DesiredWithinRange", message=message)

    def _stabilize(self, now: float, proposed: int, current: int) -> int:
        if not self._history:
            self._history.append((now, current))  # the controller starts from what it finds
        while self._history and self._history[0][0] < now - max(self._up, self._down):
            self._history.popleft()
        # As the controller: a recommendation exactly as old as the window no longer counts.
        up = min([proposed, *(value for at, value in self._history if at > now - self._up)])
        down = max([proposed, *(value for at, value in self._history if at > now - self._down)])
        self._history.append((now, proposed))
        return min(max(current, up), down)


async def read_metric(
    session: aiohttp.ClientSession, url: str, ssl_context: ssl.SSLContext
) -> list[str]:
    """Values of the items at that URL, asked for as the HPA controller does.

    Raises:
        MetricUnavailable: no answer, an error, or an answer that the controller would not take.

    """
    headers = {
        "Accept": "application/vnd.kubernetes.protobuf, */*",
        "User-Agent": "kube-controller-manager/emulated",
    }
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with session.get(url, headers=headers, ssl=ssl_context, timeout=timeout) as response:
            if response.content_type != "application/json":
                raise MetricUnavailable(f"serializer for {response.content_type} doesn't exist")
            document = json.loads(await response.text())
            if response.status != 200:
                raise MetricUnavailable(
                    f"unable to fetch metrics from external metrics API: {document.get('message')}"
                )
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise MetricUnavailable(f"unable to fetch metrics: {error}") from error
    return [str(item.get("value", "0")) for item in document.get("items") or []]
