"""The adapter's own `/metrics`: read from the variants' states when scraped, so nothing goes stale.

A variant that is gone, or whose target was withdrawn, leaves no series behind, and a change of
accelerator never leaves two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from adapter.states import VariantState, labels_of
from analyzer import tuner

_HELP = {
    "inferno_desired_replicas": "Optimized replicas of the variant.",
    "inferno_current_replicas": "Replicas of the variant now.",
    "inferno_desired_ratio": "Optimized over current replicas.",
}


class VariantCollector(Collector):
    """Gauges of all variants that have a valid target."""

    def __init__(
        self,
        states: Callable[[], Mapping[str, VariantState]],
        tuners: Callable[[], Mapping[tuple[str, str], tuner.State]] = dict,
    ) -> None:
        self._states = states
        self._tuners = tuners

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Gauges under the workload-variant-autoscaler's names."""
        names = [
            "variant_name",
            "namespace",
            "exported_namespace",
            "accelerator_type",
            "model_name",
        ]
        gauges = {name: GaugeMetricFamily(name, text, labels=names) for name, text in _HELP.items()}
        held = GaugeMetricFamily(
            "variant_adapter_target_held",
            "1 while the variant's target could not be decided anew, 0 otherwise.",
            labels=["namespace", "variant_name"],
        )
        for state in self._states().values():
            source = state.source
            held.add_metric([source.namespace, source.name], 1.0 if state.problem else 0.0)
            if state.desired is None:
                continue
            labels = list(labels_of(source, state.accelerator).values())
            current = source.replicas
            values = (state.desired, current, state.desired / current if current else state.desired)
            for gauge, value in zip(gauges.values(), values, strict=True):
                gauge.add_metric(labels, float(value))
        return [*gauges.values(), held, *self._tuning()]

    def _tuning(self) -> Iterable[GaugeMetricFamily]:
        names = ["namespace", "variant_name", "accelerator_type"]
        confidence = GaugeMetricFamily(
            "variant_adapter_tuner_confidence",
            "From 0, nothing learned of the profile, to 1; absent where it is not tuned.",
            labels=names,
        )
        parameters = GaugeMetricFamily(
            "variant_adapter_tuner_parameter_milliseconds",
            "Estimates of the profile's parameters.",
            labels=[*names, "parameter"],
        )
        for (key, accelerator), state in self._tuners().items():
            labels = [*key.split("/", 1), accelerator]
            confidence.add_metric(labels, state.confidence)
            for name, value in zip(
                ("alpha", "beta", "gamma", "delta"), state.parameters, strict=True
            ):
                parameters.add_metric([*labels, name], value)
        return confidence, parameters
