"""What one variant's numbers are worth: found, missing, stale, or Prometheus at fault.

A load of which a part is missing is still a lower bound: it may raise a target, but not lower it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adapter.collector.traffic import Traffic
from adapter.resources.variant import VariantSource

Metrics = Literal["MetricsFound", "MetricsMissing", "MetricsStale", "PrometheusError"]
"""Reasons of the condition MetricsAvailable, as the workload-variant-autoscaler has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One variant's load as far as it is known.

    Attributes:
        traffic: None while nothing is known.
        metrics: in one word.
        problem: what is wrong and what to do; empty where the load is known.
        complete: whether all of its pods were heard; else the load is a lower bound.
        age_seconds: of the oldest pod's numbers.
        origin: direct, prometheus, or both.
        how: series in Prometheus were attributed by; empty where it was not asked.

    """

    traffic: Traffic | None
    metrics: Metrics = "MetricsFound"
    problem: str = ""
    complete: bool = True
    age_seconds: float = 0.0
    origin: str = ""
    how: str = ""

    @property
    def usable(self) -> bool:
        """Whether a pass can do something with it."""
        if not self.problem:
            return True
        # Without the length of requests nothing can be sized.
        return self.traffic is not None and self.traffic.output_tokens is not None


def judge(
    source: VariantSource,
    *,
    traffic: Traffic | None,
    now: float,
    expected: int,
    unseen: int,
    late: Sequence[str],
    new: Sequence[str],
    never: Sequence[str],
    error: str,
    failed: bool,
    origin: str,
    how: str,
) -> Observation:
    """The worth of what was collected.

    Args:
        source: the variant.
        traffic: over its window.
        now: monotonic seconds.
        expected: pods that should be heard.
        unseen: replicas beyond those that are known by their series only.
        late: pods without fresh numbers.
        new: pods that came so lately that they need not have been heard.
        never: pods that were not heard at all.
        error: what the sources say of them.
        failed: whether Prometheus was needed and gave no answer.
        origin: where the numbers come from.
        how: they were attributed.

    """
    age = 0.0 if traffic is None else max(now - traffic.sampled_at, 0.0)

    def found(metrics: Metrics, problem: str, *, complete: bool = True) -> Observation:
        return Observation(
            traffic=traffic,
            metrics="PrometheusError" if failed and problem else metrics,
            problem=problem,
            complete=complete,
            age_seconds=age,
            origin=origin,
            how=how,
        )

    if expected == 0:
        if source.replicas == 0 and source.wanted == 0:
            return found("MetricsFound", "")
        why = error or "no endpoints to scrape"
        return found("MetricsMissing", f"{source.replicas} replicas, but {why}", complete=False)
    if late:
        silent = len(never) >= expected
        # With one pod's numbers missing the load would look too small.
        return found(
            "MetricsMissing" if silent else "MetricsStale",
            f"no fresh metrics of {len(late)} of {expected}: {error or late[0]}",
            complete=False,
        )
    if traffic is None:
        return found("MetricsMissing", "waiting for a second scrape", complete=False)
    if traffic.output_tokens is None and not traffic.idle:
        return found(
            "MetricsMissing",
            "requests run, but none has finished yet: their lengths are unknown",
            complete=False,
        )
    return found("MetricsFound", "", complete=not new and not unseen)
