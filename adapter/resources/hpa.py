"""HorizontalPodAutoscalers: bounds, the metrics of the adapter that they read, and changes they ignore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from adapter.kube import quantity
from adapter.kube.scale import Reference
from adapter.store import OWN_METRICS

DEFAULT_TOLERANCE = 0.1
"""Relative change up to which kube-controller-manager ignores a metric."""

DEFAULT_STABILIZATION_SECONDS = {"scaleUp": 0, "scaleDown": 300}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One of our metrics in an HPA.

    Attributes:
        variant: `variant_name` that it selects; empty without one.
        target_type: Value, AverageValue or Utilization.
        target: target value; None where it is missing or not a number.

    """

    metric: str
    variant: str
    target_type: str
    target: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """One HPA.

    Attributes:
        readings: metrics of the adapter that it reads; empty if it reads others only.
        up_tolerance: relative change that it ignores when scaling up; likewise down.
        up_seconds: stabilization window for scaling up; likewise down.

    """

    namespace: str
    name: str
    reference: Reference
    minimum: int
    maximum: int
    readings: tuple[Reading, ...] = ()
    up_tolerance: float = DEFAULT_TOLERANCE
    down_tolerance: float = DEFAULT_TOLERANCE
    up_seconds: int = 0
    down_seconds: int = 300

    def reads(self, variant: str) -> bool:
        """Whether it reads our metric of that variant."""
        return any(reading.variant == variant for reading in self.readings)

    def ignores(self, current: int, desired: int) -> float | None:
        """Tolerance by which the HPA ignores this change, as its controller computes it; None otherwise."""
        if current <= 0 or desired == current:
            return None
        ratio = desired / current
        # Written as the controller has it: 1.1 - 1 would be more than 0.1.
        if not 1.0 - self.down_tolerance <= ratio <= 1.0 + self.up_tolerance:
            return None
        return self.up_tolerance if ratio > 1 else self.down_tolerance


def parse(item: Mapping[str, Any]) -> Scaler:
    """An `autoscaling/v2` HorizontalPodAutoscaler; the API server has validated it."""
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    target, behavior = spec.get("scaleTargetRef") or {}, spec.get("behavior") or {}

    def of(direction: str, name: str, default: float) -> float:
        found = (behavior.get(direction) or {}).get(name)
        return default if found is None else float(quantity.parse(str(found)))

    return Scaler(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
        reference=Reference(
            name=str(target.get("name") or ""),
            kind=str(target.get("kind") or ""),
            api_version=str(target.get("apiVersion") or ""),
        ).canonical,
        minimum=1 if spec.get("minReplicas") is None else int(spec["minReplicas"]),
        maximum=int(spec.get("maxReplicas") or 0),
        readings=tuple(
            _reading(metric["external"])
            for metric in spec.get("metrics") or ()
            if metric.get("type") == "External"
            and (metric.get("external") or {}).get("metric", {}).get("name") in OWN_METRICS
        ),
        up_tolerance=of("scaleUp", "tolerance", DEFAULT_TOLERANCE),
        down_tolerance=of("scaleDown", "tolerance", DEFAULT_TOLERANCE),
        up_seconds=int(of("scaleUp", "stabilizationWindowSeconds", 0)),
        down_seconds=int(of("scaleDown", "stabilizationWindowSeconds", 300)),
    )


def _reading(external: Mapping[str, Any]) -> Reading:
    metric, target = external["metric"], external.get("target") or {}
    kind = str(target.get("type") or "")
    text = target.get("averageValue") if kind == "AverageValue" else target.get("value")
    number: Decimal | None = None
    if text is not None:
        try:
            number = Decimal(quantity.parse(str(text)))
        except ValueError:
            number = None
    labels = (metric.get("selector") or {}).get("matchLabels") or {}
    return Reading(
        metric=str(metric["name"]),
        variant=str(labels.get("variant_name") or ""),
        target_type=kind,
        target=None if number is None else float(number),
    )
