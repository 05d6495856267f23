"""From what is known of a variant's load to what is planned for it, or to why nothing can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapter.collector import gateway
from adapter.collector.gateway import Rates
from adapter.collector.observation import Observation
from adapter.controller import demand
from adapter.controller.demand import Forecaster, Offered
from adapter.controller.settings import LoopSettings
from adapter.controller.tuning import Tuning
from adapter.planning import fleet
from adapter.resources.variant import VariantSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a pass found of one variant before planning.

    Attributes:
        offered: the rate that it is sized for; None without traffic.
        variant: for the planner; None where its load is not known.

    """

    observation: Observation
    offered: Offered | None = None
    variant: fleet.Variant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What is the same for every variant of one pass.

    Attributes:
        rates: at the gateways, and `parts` of them by variant key.
        called: who waits at the gateways.
        waking: keys of variants at zero that somebody wants.
        now: monotonic seconds.

    """

    settings: LoopSettings
    tuning: Tuning
    forecaster: Forecaster
    rates: Rates
    parts: Mapping[str, float]
    called: Mapping[gateway.Place, gateway.Demand]
    waking: frozenset[str]
    now: float

    def look(self, source: VariantSource, observation: Observation, before: int | None) -> Looked:
        """The variant with its load; `before` is the target that is published."""
        traffic = observation.traffic
        if not observation.usable:
            return Looked(observation=observation)
        load = None
        if traffic is not None:
            if observation.complete:
                self.tuning.observe(source, traffic, now=self.now)
            load = demand.of(
                source,
                traffic,
                gateway_rps=self.parts.get(source.key),
                forecaster=self.forecaster,
                settings=self.settings.rates,
                window_seconds=self.settings.collection.window,
                interval_seconds=self.settings.interval,
                now=self.now,
            )
        keep = source.keep_accelerator
        variant = fleet.Variant(
            name=source.key,
            model=source.model,
            service_class=source.service_class,
            profiles=self.tuning.profiles(source),
            load=fleet.Load(
                arrival_rate_rps=load.rate_rps if load else 0.0,
                input_tokens=(traffic.input_tokens if traffic else None) or 0.0,
                output_tokens=(traffic.output_tokens if traffic else None) or 1.0,
                dispersion=self.forecaster.dispersion(source.key),
            ),
            current=fleet.CurrentAllocation(
                accelerator=source.accelerator, replicas=source.replicas
            ),
            min_replicas=self._minimum(source, observation, before),
            max_replicas=source.max_replicas,
            keep_accelerator=self.settings.keep_accelerator if keep is None else keep,
            routing=source.routing or self.settings.routing,
        )
        return Looked(observation=observation, offered=load, variant=variant)

    def _minimum(self, source: VariantSource, observation: Observation, before: int | None) -> int:
        """Least replicas: zero only for who is proven idle and may go there."""
        to_zero = self.settings.scale_to_zero
        if source.scale_to_zero is not None:
            to_zero = source.scale_to_zero
        minimum = source.min_replicas
        if minimum is None:
            minimum = 0 if to_zero else 1
        if source.key in self.waking or not self._idle(source, observation):
            minimum = max(minimum, 1)
        if not observation.complete and before is not None:
            # What is known is a lower bound of the load: the target may rise, not fall.
            most = before if source.max_replicas is None else min(before, source.max_replicas)
            minimum = max(minimum, most)
        return minimum

    def _idle(self, source: VariantSource, observation: Observation) -> bool:
        """Whether it is at zero, or has been proven idle for its retention, here and at the gateways."""
        if source.replicas == 0 and source.wanted == 0:
            return True
        traffic = observation.traffic
        if not observation.complete or traffic is None or not traffic.idle:
            return False
        called = gateway.of_model(self.called, source.namespace, source.model)
        place = self.rates.place(source.namespace, source.model)
        if (called is not None and called.any) or (place is not None and self.rates.rps[place] > 0):
            return False
        return traffic.idle_seconds >= (source.retention_seconds or self.settings.retention)
