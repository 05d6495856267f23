"""Gauges of each variant to compare and to alert by: what there is, what is advised, what limits it."""

from __future__ import annotations

from prometheus_client.core import GaugeMetricFamily

from adapter.controller.history.timeline import moment_of
from adapter.controller.state import VariantState

PRESENT = "variant_adapter_present_replicas"
ADVISED = "variant_adapter_advised_replicas"
PRESENT_COST = "variant_adapter_present_cost_cents_per_hour"
PREDICTED = "variant_adapter_predicted_latency_milliseconds"
QUANTILES = "variant_adapter_observed_latency_milliseconds"
ATTAINMENT = "variant_adapter_observed_slo_attainment_ratio"
TARGET = "variant_adapter_slo_target_milliseconds"
FEEDBACK = "variant_adapter_slo_feedback_factor"


class Comparisons:
    """The variants beside what is decided for them."""

    def __init__(self) -> None:
        def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, text, labels=["namespace", "variant_name", *more])

        self._present = gauge(PRESENT, "Replicas that the scale target's spec asks for.")
        self._advised = gauge(
            ADVISED,
            "Desired replicas of a variant in advisory mode, which are published under no other name.",
            "accelerator_type",
        )
        self._cost = gauge(
            PRESENT_COST,
            "Cost of the replicas that the scale target's spec asks for, in cents per hour.",
        )
        self._predicted = gauge(
            PREDICTED, "Mean latency predicted for the desired replicas in milliseconds.", "metric"
        )
        self._quantiles = gauge(
            QUANTILES,
            "Quantile of the latency measured over the collection window in milliseconds, by the pods'"
            " histograms; no series where they show none.",
            "metric",
            "quantile",
        )
        self._attainment = gauge(
            ATTAINMENT,
            "Share of requests within the TTFT target and of tokens within the ITL target over the collection"
            " window, from 0 to 1, by the pods' histograms.",
            "metric",
        )
        self._target = gauge(TARGET, "SLO target of the variant in milliseconds.", "metric")
        self._feedback = gauge(
            FEEDBACK,
            "Factor on the load that the variant is sized for, from 1 to 1.5, raised where its requests miss"
            " a target more often than was planned; no series where the targets bound means.",
        )
        self._outcome = gauge(
            "variant_adapter_optimization_state",
            "1 for the reason of the variant's condition OptimizationReady.",
            "state",
        )
        self._bound = gauge(
            "variant_adapter_replicas_bound",
            "1 for what the desired replicas follow from, such as an SLO target, the minimum or the maximum.",
            "bound",
        )

    def add(self, state: VariantState) -> None:
        """Add one variant; what is not known makes no series."""
        source, decision = state.source, state.decision
        variant = [source.namespace, source.name]
        self._present.add_metric(variant, source.spec_replicas)
        self._outcome.add_metric([*variant, state.outcome], 1.0)
        for metric, bound in (("ttft", source.targets.ttft_ms), ("itl", source.targets.itl_ms)):
            if bound:
                self._target.add_metric([*variant, metric], bound)
        if source.advisory and state.desired is not None:
            self._advised.add_metric([*variant, state.accelerator], state.desired)
        self._add_measured(variant, state)
        if source.targets.percentile is not None:
            self._feedback.add_metric(variant, state.feedback.factor)
        moment = moment_of(state)
        if decision is None or moment is None:
            return
        self._cost.add_metric(variant, moment.present_cost)
        candidate = decision.candidate
        for metric, latency in (("ttft", candidate.ttft_ms), ("itl", candidate.itl_ms)):
            if latency:
                self._predicted.add_metric([*variant, metric], latency)
        if decision.explanation.binding:
            self._bound.add_metric([*variant, decision.explanation.binding], 1.0)

    def _add_measured(self, variant: list[str], state: VariantState) -> None:
        traffic, targets = state.traffic, state.source.targets
        if traffic is None:
            return
        for metric, measured, bound in (
            ("ttft", traffic.ttft, targets.ttft_ms),
            ("itl", traffic.itl, targets.itl_ms),
        ):
            for quantile in (0.5, 0.95):
                value = measured.quantile_ms(quantile)
                if value is not None:
                    self._quantiles.add_metric([*variant, metric, str(quantile)], value)
            attained = measured.within(bound)
            if attained is not None:
                self._attainment.add_metric([*variant, metric], attained)

    def families(self) -> tuple[GaugeMetricFamily, ...]:
        """All of them."""
        return (
            self._present,
            self._advised,
            self._cost,
            self._predicted,
            self._quantiles,
            self._attainment,
            self._target,
            self._feedback,
            self._outcome,
            self._bound,
        )
