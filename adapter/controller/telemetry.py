"""The adapter's own `/metrics`: read from the variants' states when scraped, so nothing goes stale.

A variant that is gone, or whose target was withdrawn, leaves no series behind, and a change of
accelerator never leaves two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapter.collector.collector import Collector as LoadCollector
from adapter.controller.state import VariantState, labels_of
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
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now`: Unix time, for ages."""
        self._now = now
        self._states = states
        self._tuners = tuners

    def collect(self) -> Iterable[Metric]:
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
        cost = GaugeMetricFamily(
            "variant_adapter_target_cost_cents_per_hour",
            "Cost of the wanted replicas.",
            labels=["namespace", "variant_name"],
        )
        rate = GaugeMetricFamily(
            "variant_adapter_arrival_rate_per_minute",
            "Requests per minute that the variant's target was decided for.",
            labels=["namespace", "variant_name"],
        )
        loads = _Loads()
        scaled = CounterMetricFamily(
            "inferno_replica_scaling",
            "Decisions that changed the wanted replicas, by direction.",
            labels=[*names, "direction", "reason"],
        )
        for state in self._states().values():
            source = state.source
            whose = [source.namespace, source.name]
            held.add_metric(whose, 1.0 if state.problem else 0.0)
            loads.add(whose, state, now=self._now())
            for direction, count in (("up", state.scaled_up), ("down", state.scaled_down)):
                labels = list(labels_of(source, state.accelerator).values())
                scaled.add_metric([*labels, direction, "optimization"], count)
            if state.decision is not None:
                cost.add_metric(whose, state.cost)
                rate.add_metric(whose, 60.0 * state.decision.arrival_rate_rps)
            if state.desired is None:
                continue
            labels = list(labels_of(source, state.accelerator).values())
            current = source.replicas
            values = (state.desired, current, state.desired / current if current else state.desired)
            for gauge, value in zip(gauges.values(), values, strict=True):
                gauge.add_metric(labels, float(value))
        return [*gauges.values(), held, cost, rate, scaled, *loads.families(), *self._tuning()]

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


class _Loads:
    """What was seen of the variants' load, and what it is worth."""

    def __init__(self) -> None:
        names = ["namespace", "variant_name"]

        def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"variant_adapter_{name}", text, labels=[*names, *more])

        self._state = gauge(
            "metrics_state", "1 for what became of the variant's metrics.", "state", "source"
        )
        self._age = gauge("metrics_age_seconds", "Age of the oldest pod's metrics.")
        self._observed = gauge(
            "observed_arrival_rate_per_minute", "Requests offered to the variant's pods."
        )
        self._running = gauge("observed_running_requests", "Requests in service.")
        self._waiting = gauge("observed_waiting_requests", "Requests in the pods' queues.")
        self._cache = gauge("observed_kv_cache_usage_ratio", "KV cache in use, of the fullest pod.")
        self._ttft = gauge("observed_ttft_milliseconds", "Mean time to first token.")
        self._itl = gauge("observed_itl_milliseconds", "Mean inter-token latency.")

    def add(self, whose: list[str], state: VariantState, *, now: float) -> None:
        """One variant; what is not known leaves no series."""
        seen = state.observation
        if seen is None:
            return
        self._state.add_metric([*whose, seen.metrics, seen.origin], 1.0)
        traffic = seen.traffic
        if traffic is None:
            return
        self._age.add_metric(whose, max(now - state.observed_at, 0.0))
        self._observed.add_metric(whose, 60.0 * traffic.arrival_rate_rps)
        self._running.add_metric(whose, traffic.running)
        self._waiting.add_metric(whose, traffic.waiting)
        for family, value in (
            (self._cache, traffic.kv_cache),
            (self._ttft, traffic.ttft_ms),
            (self._itl, traffic.itl_ms),
        ):
            if value is not None:
                family.add_metric(whose, value)

    def families(self) -> tuple[GaugeMetricFamily, ...]:
        """All of them."""
        return (
            self._state,
            self._age,
            self._observed,
            self._running,
            self._waiting,
            self._cache,
            self._ttft,
            self._itl,
        )


class CollectionCollector(Collector):
    """How the collection of load itself goes."""

    def __init__(self, collector: LoadCollector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        """Requests that were made, those that failed, and how long the last round took."""
        counts = self._collector.counts
        for name, text in (
            ("scrapes", "Metrics pages of pods that were read."),
            ("scrape_failures", "Pods that gave no usable page."),
            ("queries", "Queries to Prometheus."),
            ("query_failures", "Queries that Prometheus did not answer."),
        ):
            yield CounterMetricFamily(
                f"variant_adapter_collection_{name}", text, value=float(counts[name])
            )
        yield GaugeMetricFamily(
            "variant_adapter_collection_round_seconds",
            "Time that the last round of collection took.",
            value=self._collector.round_seconds,
        )


class ReplicaCollector(Collector):
    """Gauges of this replica of the adapter itself."""

    def __init__(self, leading: Callable[[], bool], refused: Callable[[], int]) -> None:
        self._leading = leading
        self._refused = refused

    def collect(self) -> Iterable[Metric]:
        """Whether it leads, and how many variants it had to leave out."""
        yield GaugeMetricFamily(
            "variant_adapter_leading",
            "1 while this replica decides and writes, 0 while it only serves.",
            value=float(self._leading()),
        )
        yield GaugeMetricFamily(
            "variant_adapter_refused_variants",
            "VariantAutoscalings that are left out; their conditions say why.",
            value=float(self._refused()),
        )
