"""The workload-variant-autoscaler of October 2025, and the same told a multiple of the SLO targets.

It takes the rate of finished requests over the last minute, as Prometheus computes it, as the load, and its
decision reaches the HPA through Prometheus and prometheus-adapter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from adapter.planning import fleet
from adapter.planning import plan as planning
from emulator.replay.adapter_policy import inputs_of
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer
from emulator.replay.replicas.planner import known_or_true
from emulator.replay.scenario import Hpa, Scenario

_Scrape = tuple[float, dict[int, tuple[float, float, float]]]
"""Time of a scrape, and by replica its finished requests with the sums of their prompt and output tokens."""


@dataclass(slots=True, kw_only=True)
class _Record:
    """What the rule knows of one variant.

    Attributes:
        history: Scrapes of the last minute, the oldest first.
        desired: Replicas that it decided; None before the first decision.
        relayed: Replicas that the HPA sees; None before Prometheus has scraped a decision.

    """

    history: list[_Scrape] = field(default_factory=list)
    desired: int | None = None
    relayed: int | None = None


class Reference(ScalingPolicy):
    """The workload-variant-autoscaler's rule of October 2025, with the delay of its metric."""

    name = "reference"
    title = "success rate as load"
    notes = (
        (
            "Load is rate(success[1m]) at 15 s scrapes, sized for means each 60 s; the HPA sees a"
            " decision when Prometheus (30 s) has scraped it."
        ),
    )

    SCRAPE, WINDOW, INTERVAL, RELAY = 15.0, 60.0, 60.0, 30.0

    def __init__(self, cluster: ReplayCluster) -> None:
        super().__init__(cluster)
        self._inputs = inputs_of(self.scenario, percentile=None, profile=known_or_true)
        self._records = {name: _Record() for name in cluster.variants}

    def timers(self) -> Sequence[Timer]:
        return [
            Timer(self.SCRAPE, 3.0, self._scrape),
            Timer(self.INTERVAL, 4.0 + self.SCRAPE, self._decide),
            Timer(self.RELAY, 11.0, self._relay),
        ]

    def _scrape(self) -> None:
        for name, record in self._records.items():
            counts = {
                item.replica: (
                    float(item.finished),
                    float(item.prompt_tokens[0]),
                    float(item.generation_tokens[0]),
                )
                for item in self.cluster.fleet.counters(name)
            }
            record.history.append((self.cluster.now, counts))
            del record.history[: -int(self.WINDOW / self.SCRAPE)]

    def _decide(self) -> None:
        variants = []
        for source in self._inputs.variants:
            finished, prompt, generated, span = _rates(self._records[source.name].history)
            replicas = self.cluster.fleet.replicas(source.name)
            variants.append(
                fleet.Variant(
                    name=source.key,
                    model=source.model,
                    service_class=source.service_class,
                    profiles=source.profiles,
                    load=fleet.Load(
                        arrival_rate_rps=finished / span if span > 0 else 0.0,
                        input_tokens=prompt / finished if finished else 0.0,
                        output_tokens=max(generated / finished, 1.0) if finished else 1.0,
                    ),
                    current=fleet.CurrentAllocation(
                        accelerator=source.accelerator, replicas=replicas
                    ),
                    max_replicas=source.max_replicas,
                    keep_accelerator=True,
                )
            )
        plan = planning.plan(
            fleet.Fleet(
                accelerators=self._inputs.accelerators,
                service_classes=self._inputs.service_classes,
                variants=tuple(variants),
                # The rule ignores how many GPUs there are.
                capacity=None,
                settings=fleet.Settings(stability_margin=0.0),
            )
        )
        for key, decision in plan.decisions.items():
            self._records[key.partition("/")[2]].desired = decision.candidate.replicas

    def _relay(self) -> None:
        for record in self._records.values():
            record.relayed = record.desired

    def hpa(self) -> Hpa:
        """Settings of the reference's samples: no stabilization window, and the default tolerance."""
        return self.scenario.hpa.model_copy(update={"scale_down_stabilization": 0.0})

    def items(self, variant: str) -> list[str]:
        relayed = self._records[variant].relayed
        return [] if relayed is None else [str(relayed)]

    def desired(self, variant: str) -> float:
        desired = self._records[variant].desired
        return math.nan if desired is None else float(desired)


class Wva(Reference):
    """The rule with the targets that it is told: its users' knob."""

    def __init__(self, cluster: ReplayCluster, *, factor: float = 1.0) -> None:
        super().__init__(cluster)
        self.name = "wva" if factor == 1 else f"wva@{factor:g}"
        self.title = "WVA of October 2025" + ("" if factor == 1 else f", {factor:g} of the targets")
        self._inputs = inputs_of(
            with_targets(self.scenario, factor), percentile=None, profile=known_or_true
        )


def with_targets(scenario: Scenario, factor: float) -> Scenario:
    """The scenario with both targets of every model multiplied."""
    models = tuple(
        model.model_copy(
            update={
                "slo": model.slo.model_copy(
                    update={"ttft": factor * model.slo.ttft, "itl": factor * model.slo.itl}
                )
            }
        )
        for model in scenario.models
    )
    return scenario.model_copy(update={"models": models})


def _rates(history: list[_Scrape]) -> tuple[float, float, float, float]:
    """Increase of finished requests, prompt and generated tokens, and its seconds; per series, as rate()."""
    increase = [0.0, 0.0, 0.0]
    for (_, before), (_, after) in itertools.pairwise(history):
        for replica in before.keys() & after.keys():
            for index in range(3):
                increase[index] += after[replica][index] - before[replica][index]
    span = history[-1][0] - history[0][0] if history else 0.0
    return increase[0], increase[1], increase[2], span
