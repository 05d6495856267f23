"""How the control loop works: everything that flags and the ConfigMap may say of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapter.collector.collector import CollectionSettings
from adapter.controller.demand import RateSettings
from adapter.planning import fleet
from analyzer.defaults import STABILITY_MARGIN
from optimizer.problem import Policy
from optimizer.stabilization import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How the loop works; times in seconds.

    Attributes:
        interval: from one pass to the next.
        collection: how load is collected.
        rates: what of it variants are sized for.
        limits: how targets may change.
        time_to_live: how long a target is served without being decided anew.
        scale_to_zero: whether a variant that is proven idle may go to 0 replicas.
        retention: for how long it must have been idle then.
        keep_accelerator: keep every variant's accelerator, as if each were told to.
        tune: let profiles follow what is observed, for variants that do not say otherwise.
        stability_margin: share of a replica's own speed kept free, also where latencies allow more.
        policy: who gets what is left of limited devices when not everyone can be served.
        routing: how requests find their replica, for variants that do not say.

    """

    interval: float = 30.0
    collection: CollectionSettings = field(default_factory=CollectionSettings)
    rates: RateSettings = field(default_factory=RateSettings)
    limits: Limits = field(default_factory=lambda: Limits(down_seconds=90.0))
    time_to_live: float = 300.0
    scale_to_zero: bool = False
    retention: float = 600.0
    keep_accelerator: bool = False
    tune: bool = False
    stability_margin: float = STABILITY_MARGIN
    policy: Policy = "PriorityExhaustive"
    routing: fleet.Routing = "random"
