"""Settings of the control loop: everything that flags and the ConfigMap can set."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapter.collector.collector import CollectionSettings
from adapter.controller.demand import RateSettings
from adapter.controller.tuning import TuningSettings
from adapter.planning import fleet
from analyzer.defaults import STABILITY_MARGIN
from optimizer.problem import SaturationPolicy
from optimizer.stabilization import StabilizationLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Settings of the control loop; times in seconds.

    Attributes:
        interval: Time between two reconcile cycles. Default 30.
        collection: How load is collected. It is read once, at the start.
        rates: How the arrival rate for sizing is derived.
        limits: How targets may change. Default: a scale-down stabilization window of 90 s.
        time_to_live: How long a published target stays valid without a new decision. Default 300.
        scale_to_zero: Whether a variant that is proven idle may go to 0 replicas. Default false.
        retention: How long a variant must be idle before it goes to 0 replicas. Default 600.
        keep_accelerator: Whether every variant keeps its accelerator unless it says otherwise. Default false.
        tune: Whether profiles follow the observed latencies unless the variant says otherwise. Default false.
        stability_margin: Share of a replica's service rate kept free even where latencies allow more.
        policy: Saturation policy: who gets the remaining devices when not everyone can be served.
        routing: How requests are routed to replicas, for variants that do not say. Default random.

    """

    interval: float = 30.0
    collection: CollectionSettings = field(default_factory=CollectionSettings)
    rates: RateSettings = field(default_factory=RateSettings)
    limits: StabilizationLimits = field(
        default_factory=lambda: StabilizationLimits(down_seconds=90.0)
    )
    time_to_live: float = 300.0
    scale_to_zero: bool = False
    retention: float = 600.0
    keep_accelerator: bool = False
    tune: bool = False
    stability_margin: float = STABILITY_MARGIN
    policy: SaturationPolicy = "PriorityExhaustive"
    routing: fleet.Routing = "random"

    @property
    def tuning(self) -> TuningSettings:
        """How profiles are tuned: one observation per window of the collection."""
        return TuningSettings(enabled=self.tune, window_seconds=self.collection.window)
