"""Replica counts from metric values, and the scaling policies that limit their rate of change.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#scaling-policies
Ratios and percentages are binary fractions: 10 % more than 100 replicas are 111, as in the controller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_INT32 = 2**31 - 1
"""Result of the controller's overflow guard."""
MAX_INT64 = 2**63 - 1
LONGEST_PERIOD_SECONDS = 1800.0
_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?", re.ASCII
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


class MetricUnavailable(Exception):  # noqa: N818 - a state of the metric, not a fault of the HPA
    """The metric has no value; the HPA keeps the replicas."""


def quantity(text: str) -> Fraction:
    """Exact value of a Kubernetes quantity.

    Raises:
        MetricUnavailable: The text is no quantity.

    """
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The controller's three computations from values to replicas.

    Attributes:
        goal: Target value in milli-units.
        lowest: Smallest ratio of usage to target within the tolerance.
        highest: Largest ratio of usage to target within the tolerance.
        spec: Replicas in the spec of the scale.

    """

    goal: int
    lowest: float
    highest: float
    spec: int

    def by_average(self, values: Sequence[int], pods: int) -> int:
        usage = 0
        for value in values:
            usage += value
            if not 0 <= usage <= MAX_INT64:
                usage = MAX_INT64  # the controller takes a negative sum for an overflow
                break
        # With no pods the controller's ratio is infinite or no number: never within the tolerance.
        if pods and self._within(usage / (self.goal * pods)):
            return pods
        return math.ceil(usage / self.goal)

    def by_value(self, values: Sequence[int], pods: int, ready: int) -> int:
        ratio = min(sum(values), MAX_INT64) / self.goal
        if self.spec == 0:
            return math.ceil(ratio)
        if self._within(ratio):
            return self.spec
        if not pods:
            raise MetricUnavailable("no pods returned by selector while calculating replica count")
        return math.ceil(ratio * ready)

    def of_pods(self, values: Sequence[int], pods: int, pending: int) -> int:
        if not pods:
            raise MetricUnavailable("no pods returned by selector while calculating replica count")
        total, counted = sum(values), len(values)
        missing = max(0, pods - pending - counted)
        ratio = self._ratio(total, counted)
        grow_pending = pending > 0 and ratio > 1
        if not missing and not grow_pending:
            return self.spec if self._within(ratio) else math.ceil(ratio * counted)
        if ratio < 1:
            total += missing * self.goal  # scaling down, they count as being at the target
            counted += missing
        elif ratio > 1:
            counted += missing + pending  # scaling up, they count as idle
        cautious = self._ratio(total, counted)
        if self._within(cautious) or min(ratio, cautious) < 1 < max(ratio, cautious):
            return self.spec
        proposed = math.ceil(cautious * counted)
        backwards = proposed > self.spec if cautious < 1 else proposed < self.spec
        return self.spec if backwards else proposed

    def _within(self, ratio: float) -> bool:
        return self.lowest <= ratio <= self.highest

    def _ratio(self, total: int, counted: int) -> float:
        return math.trunc(Fraction(total, counted)) / self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class HPAScalingPolicy:
    """A limit of `value` Pods or Percent within any `period_seconds`.

    Raises:
        ValueError: The API server would not admit the policy.

    """

    type: Literal["Pods", "Percent"]
    value: int
    period_seconds: float

    def __post_init__(self) -> None:
        if self.type not in {"Pods", "Percent"}:
            raise ValueError(f"policy: type: must be Pods or Percent, not {self.type!r}")
        if self.value <= 0:
            raise ValueError(f"policy: value: must be positive, not {self.value}")
        if not 0 < self.period_seconds <= LONGEST_PERIOD_SECONDS:
            raise ValueError(
                f"policy: period_seconds: must be over 0 and at most {LONGEST_PERIOD_SECONDS:g},"
                f" not {self.period_seconds:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRules:
    """The scaleUp or scaleDown of a `behavior`; policies of None are Kubernetes' defaults.

    Raises:
        ValueError: The API server would not admit the rules.

    """

    policies: tuple[HPAScalingPolicy, ...] | None = None
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"

    def __post_init__(self) -> None:
        if self.policies is not None and not self.policies:
            raise ValueError("rules: policies: must be at least one, or None for the defaults")
        if self.select_policy not in {"Max", "Min", "Disabled"}:
            raise ValueError(
                f"rules: select_policy: must be Max, Min or Disabled, not {self.select_policy!r}"
            )


DEFAULT_UP = (
    HPAScalingPolicy(type="Pods", value=4, period_seconds=15),
    HPAScalingPolicy(type="Percent", value=100, period_seconds=15),
)
DEFAULT_DOWN = (HPAScalingPolicy(type="Percent", value=100, period_seconds=15),)


@dataclass(frozen=True, slots=True)
class _Event:
    at_seconds: float
    change: int


class Pace:
    """Scale events of one HPA, and the limits that its policies derive from them."""

    def __init__(self, *, up: ScalingRules | None, down: ScalingRules | None) -> None:
        self._up, self._down = up or ScalingRules(), down or ScalingRules()
        self._up_policies = self._up.policies or DEFAULT_UP
        self._down_policies = self._down.policies or DEFAULT_DOWN
        self._ups: list[_Event] = []
        self._downs: list[_Event] = []

    def up_limit(self, now_seconds: float, current: int) -> int:
        """Largest count that the scaleUp rules allow now; never below the current."""
        if self._up.select_policy == "Disabled":
            return current
        limits = []
        for policy in self._up_policies:
            start = self._start(now_seconds, policy.period_seconds, current)
            grown = math.ceil(start * (1 + policy.value / 100))
            limits.append(start + policy.value if policy.type == "Pods" else min(grown, MAX_INT32))
        return max(current, min(limits) if self._up.select_policy == "Min" else max(limits))

    def down_limit(self, now_seconds: float, current: int) -> int:
        """Smallest count that the scaleDown rules allow now; never above the current."""
        if self._down.select_policy == "Disabled":
            return current
        limits = []
        for policy in self._down_policies:
            start = self._start(now_seconds, policy.period_seconds, current)
            least = start * (1 - policy.value / 100)
            limits.append(start - policy.value if policy.type == "Pods" else int(least))
        # The smallest change keeps the most replicas.
        return min(current, max(limits) if self._down.select_policy == "Min" else min(limits))

    def record(self, now_seconds: float, before: int, after: int) -> None:
        """Record a scale event."""
        if after > before:
            _store(self._ups, self._up_policies, _Event(now_seconds, after - before))
        elif after < before:
            _store(self._downs, self._down_policies, _Event(now_seconds, before - after))

    def _start(self, now: float, period: float, current: int) -> int:
        """Replicas at the start of the period; an event exactly as old as the period precedes it."""
        added = sum(event.change for event in self._ups if event.at_seconds > now - period)
        deleted = sum(event.change for event in self._downs if event.at_seconds > now - period)
        return current - added + deleted


def _store(events: list[_Event], policies: Sequence[HPAScalingPolicy], new: _Event) -> None:
    # As in the controller: a new event replaces an outdated one. Until then the outdated event stays,
    # and counts in the other direction's policies where their periods are longer.
    longest = max(policy.period_seconds for policy in policies)
    for index in reversed(range(len(events))):
        if events[index].at_seconds < new.at_seconds - longest:
            events[index] = new
            return
    events.append(new)
