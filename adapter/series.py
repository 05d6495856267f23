"""One served series: what the control loop publishes and the external metrics API answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DESIRED, CURRENT, RATIO = (
    "inferno_desired_replicas",
    "inferno_current_replicas",
    "inferno_desired_ratio",
)
OWN_METRICS = frozenset(
    name.replace("inferno_", prefix)
    for name in (DESIRED, CURRENT, RATIO)
    for prefix in ("inferno_", "wva_")
)
"""What this adapter publishes for every variant, under the reference's old and new names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One item of an `ExternalMetricValueList`.

    Attributes:
        metric: metric name, such as `inferno_desired_replicas`.
        namespace: namespace it is served in; None serves it in every namespace.
        labels: metric labels that selectors match on.
        value: a canonical quantity, such as `3` or `3500m`; never negative.
        decided_at: when the value was decided, Unix seconds; becomes the item's `timestamp`.
        valid_until: Unix seconds after which the item is left out of answers; None: no end.

    """

    metric: str
    namespace: str | None
    labels: Mapping[str, str]
    value: str
    decided_at: float
    valid_until: float | None = None
