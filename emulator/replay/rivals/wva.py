"""The workload-variant-autoscaler of October 2025, told a multiple of the SLO targets: its users' knob."""

from __future__ import annotations

from emulator.replay.adapter_policy import Reference, inputs_of
from emulator.replay.cluster import ReplayCluster
from emulator.replay.replicas.planner import known_or_true
from emulator.replay.scenario import Scenario


class Wva(Reference):
    """The rule with the targets that it is told."""

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
