"""What is known of one variant after a pass, and the series that are served for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from adapter.collector.observation import Metrics, Observation
from adapter.collector.traffic import Traffic
from adapter.kube import quantity
from adapter.planning import plan
from adapter.resources.variant import VariantSource
from adapter.store import CURRENT, DESIRED, RATIO, Series

Outcome = Literal[
    "OptimizationSucceeded", "OptimizationFailed", "MetricsUnavailable", "CapacityShort"
]
"""Reasons of the condition OptimizationReady, likewise; CapacityShort, of our own, has a target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantState:
    """What one variant looks like after a pass: for status, telemetry, the terminal view and explanations.

    Attributes:
        desired: published replicas; None while there is no valid target.
        max_batch: of the chosen candidate; 0 where it is not known.
        observation: of the last pass; None before the first.
        notes: why the target is not simply what the observed rate needs, a clause each.
        problem: why the target was not decided anew, or of what its load is a part only.
        metrics: what became of its metrics.
        outcome: what became of its decision.
        observed_at: Unix time of the traffic.
        decided_at: Unix time of the decision that is served.
        decision: the last one, with its explanation; None where it was made elsewhere.
        scaled_up: decisions of this process for more replicas than before; likewise down.

    """

    source: VariantSource
    observation: Observation | None = None
    desired: int | None = None
    accelerator: str = ""
    max_batch: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""
    metrics: Metrics = "MetricsMissing"
    outcome: Outcome = "MetricsUnavailable"
    observed_at: float = 0.0
    decided_at: float = 0.0
    cost: float = 0.0
    decision: plan.Decision | None = None
    scaled_up: int = 0
    scaled_down: int = 0

    @property
    def traffic(self) -> Traffic | None:
        """What was seen of its load."""
        return None if self.observation is None else self.observation.traffic


def series(state: VariantState, *, valid_until: float) -> tuple[Series, ...]:
    """What is served for a variant: one item per metric name, old and new; none without a target."""
    if state.desired is None:
        return ()
    source = state.source
    values = {
        DESIRED: Decimal(state.desired),
        CURRENT: Decimal(source.replicas),
        RATIO: _ratio(state.desired, source.replicas),
    }
    labels = labels_of(source, state.accelerator)
    return tuple(
        Series(
            metric=name,
            namespace=source.namespace,
            labels=labels,
            value=quantity.canonical(str(value)),
            decided_at=state.decided_at,
            valid_until=valid_until,
        )
        for metric, value in values.items()
        for name in (metric, metric.replace("inferno_", "wva_"))
    )


def labels_of(source: VariantSource, accelerator: str) -> Mapping[str, str]:
    """Labels of a variant's series, as the workload-variant-autoscaler names them."""
    return {
        "variant_name": source.name,
        "namespace": source.namespace,
        "exported_namespace": source.namespace,
        "accelerator_type": accelerator,
        "model_name": source.model,
    }


def _ratio(desired: int, current: int) -> Decimal:
    """Desired over current replicas, in thousandths, rounded up; the desired count from zero."""
    if current == 0:
        return Decimal(desired)
    ratio = Decimal(desired) / Decimal(current)
    return ratio.quantize(Decimal("0.001"), rounding=ROUND_CEILING)
