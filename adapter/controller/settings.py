"""Settings of the control loop: everything that flags and the ConfigMap can set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from adapter.collector.collector import CollectionSettings
from adapter.controller.demand import RateSettings
from adapter.controller.tuning import TuningSettings
from adapter.planning import fleet
from adapter.planning.groups import Budget
from adapter.resources.variant import VariantSource
from adapter.settings.control import DEFAULT_STARTUP_SECONDS, Reconciling, Sizing
from optimizer.problem import SaturationPolicy
from optimizer.stabilization import StabilizationLimits

_RECONCILING, _SIZING = Reconciling(), Sizing()
"""The declared defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Settings of the control loop; times in seconds. Defaults are those of the declared settings.

    Attributes:
        interval: Time between two reconcile cycles.
        collection: How load is collected. It is read once, at the start.
        rates: How the arrival rate for sizing is derived.
        limits: How targets may change.
        down_startups: Scale-down stabilization window as a multiple of a variant's start-up time, where
            that is longer than the one of `limits`.
        time_to_live: How long a published target stays valid without a new decision.
        scale_to_zero: Whether a variant that is proven idle may go to 0 replicas.
        retention: How long a variant must be idle before it goes to 0 replicas.
        keep_accelerator: Whether every variant keeps its accelerator unless it says otherwise. Default false.
        tune: Whether profiles follow the observed latencies unless the variant says otherwise.
        stability_margin: Share of a replica's service rate kept free even where latencies allow more; None:
            the default of each kind of profile.
        policy: Saturation policy: who gets the remaining devices when not everyone can be served.
        budgets: Ceilings on cost and GPUs.
        routing: How requests are routed to replicas, for variants that do not say.
        slo_feedback: Whether misses of SLO targets beyond those planned raise the load that is sized for.
        model_groups: Whether variants that name no group form one with those like them.
        interruptible_share: Share of a group's demand that its interruptible variants carry at most.

    """

    interval: float = _RECONCILING.interval
    collection: CollectionSettings = field(default_factory=CollectionSettings)
    rates: RateSettings = field(default_factory=RateSettings)
    limits: StabilizationLimits = field(
        default_factory=lambda: StabilizationLimits(
            down_seconds=_SIZING.down_window, step_up=_SIZING.step_up, step_down=_SIZING.step_down
        )
    )
    down_startups: float = _SIZING.down_window_startups
    time_to_live: float = _RECONCILING.time_to_live
    scale_to_zero: bool = _RECONCILING.scale_to_zero
    retention: float = _RECONCILING.scale_to_zero_retention
    keep_accelerator: bool = False
    tune: bool = _RECONCILING.tune
    stability_margin: float | None = _RECONCILING.stability_margin
    policy: SaturationPolicy = _RECONCILING.saturation_policy
    budgets: tuple[Budget, ...] = ()
    routing: fleet.Routing = _SIZING.routing
    slo_feedback: bool = _SIZING.slo_feedback
    model_groups: bool = _SIZING.model_groups
    interruptible_share: float = _SIZING.interruptible_share

    def limits_for(self, source: VariantSource) -> StabilizationLimits:
        """How a variant's targets may change: down only after a time in which replicas could come back.

        After a far fall that is a start-up: replicas that are kept so long cost what starting them again
        does, so that it is never more than twice the least (rent or buy, with nothing known of returns).
        """
        startup = source.startup_seconds or self.rates.startup_seconds or DEFAULT_STARTUP_SECONDS
        shortest = self.limits.down_seconds
        if shortest <= 0:
            return self.limits
        window = max(shortest, self.down_startups * startup)
        fall = min(max(shortest, startup), window)
        return replace(self.limits, down_seconds=window, fall_seconds=fall)

    @property
    def tuning(self) -> TuningSettings:
        """How profiles are tuned: one observation per window of the collection."""
        return TuningSettings(
            enabled=self.tune, window_seconds=self.collection.window, routing=self.routing
        )

    @property
    def planning(self) -> fleet.Settings:
        """Settings of a planning step; arrivals, and so their dispersion, are counted between two scrapes."""
        return fleet.Settings(
            policy=self.policy, dispersion_seconds=self.collection.interval
        ).with_margin(self.stability_margin)
