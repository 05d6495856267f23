"""The adapter's own `/metrics`: generated from the variants' states at every scrape, so nothing is stale.

A variant that was removed, or whose target was withdrawn, leaves no series behind, and a change of
accelerator never leaves two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapter.collector.collector import Collector as LoadCollector
from adapter.controller import tuning
from adapter.controller.history.telemetry import Comparisons
from adapter.controller.state import VariantState, labels_of
from adapter.controller.tuning import Estimate

_HELP = {
    "inferno_desired_replicas": "Desired replicas of the variant.",
    "inferno_current_replicas": "Current replicas of the variant.",
    "inferno_desired_ratio": "Desired replicas divided by current replicas; desired replicas at zero.",
}


class VariantCollector(Collector):
    """Gauges of all variants that have a valid target."""

    def __init__(
        self,
        states: Callable[[], Mapping[str, VariantState]],
        tuners: Callable[[], Mapping[tuple[str, str], Estimate]] = dict,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`states` and `tuners`: by variant key, read at every scrape; `now`: Unix time, for ages."""
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
            "1 while the last target is held because no new one could be decided, otherwise 0.",
            labels=["namespace", "variant_name"],
        )
        cost = GaugeMetricFamily(
            "variant_adapter_target_cost_cents_per_hour",
            "Cost of the desired replicas in cents per hour.",
            labels=["namespace", "variant_name"],
        )
        rate = GaugeMetricFamily(
            "variant_adapter_arrival_rate_per_minute",
            "Arrival rate that the variant's target was sized for, requests per minute.",
            labels=["namespace", "variant_name"],
        )
        profiles = GaugeMetricFamily(
            "variant_adapter_profile_source",
            "1 for the source of the numbers that the variant's last decision was made with: given, estimated"
            " (catalog), learned, saturation.",
            labels=["namespace", "variant_name", "source"],
        )
        loads, comparisons = _Loads(), Comparisons()
        for state in self._states().values():
            source = state.source
            variant = [source.namespace, source.name]
            if state.profile_source:
                profiles.add_metric([*variant, state.profile_source], 1.0)
            held.add_metric(variant, 1.0 if state.problem else 0.0)
            loads.add(variant, state, now=self._now())
            comparisons.add(state)
            if state.decision is not None:
                cost.add_metric(variant, state.cost)
                rate.add_metric(variant, 60.0 * state.decision.arrival_rate_rps)
            if state.desired is None or source.advisory:
                continue
            labels = list(labels_of(source, state.accelerator).values())
            current = source.replicas
            values = (state.desired, current, state.desired / current if current else state.desired)
            for gauge, value in zip(gauges.values(), values, strict=True):
                gauge.add_metric(labels, float(value))
        families = (held, cost, rate, profiles, self._scaling(names))
        return [
            *gauges.values(),
            *families,
            *loads.families(),
            *comparisons.families(),
            *self._tuning(),
        ]

    def _scaling(self, names: list[str]) -> CounterMetricFamily:
        scaled = CounterMetricFamily(
            "inferno_replica_scaling",
            "Decisions that changed the desired replicas, by direction.",
            labels=[*names, "direction", "reason"],
        )
        for state in self._states().values():
            # Advice has names of its own: what is here may be an autoscaler's input.
            if not state.source.advisory:
                labels = list(labels_of(state.source, state.accelerator).values())
                for direction, count in (("up", state.scaled_up), ("down", state.scaled_down)):
                    scaled.add_metric([*labels, direction, "optimization"], count)
        return scaled

    def _tuning(self) -> Iterable[GaugeMetricFamily]:
        names = ["namespace", "variant_name", "accelerator_type"]
        confidence = GaugeMetricFamily(
            "variant_adapter_tuner_confidence",
            "Confidence in the tuned profile, from 0 to 1; absent before the first observation.",
            labels=names,
        )
        parameters = GaugeMetricFamily(
            "variant_adapter_tuner_parameter_milliseconds",
            "Tuned parameters of the profile in milliseconds.",
            labels=[*names, "parameter"],
        )
        errors = GaugeMetricFamily(
            "variant_adapter_prediction_error_ratio",
            "Mean of recent windows of the observed latency over the predicted one, less 1.",
            labels=[*names, "metric"],
        )
        for (key, accelerator), state in self._tuners().items():
            labels = [*key.split("/", 1), accelerator]
            confidence.add_metric(labels, state.confidence)
            for name, value in tuning.parameters(state).items():
                parameters.add_metric([*labels, name], value)
            errors.add_metric([*labels, "itl"], state.itl_error)
            errors.add_metric([*labels, "ttft"], state.ttft_error)
        return confidence, parameters, errors


class _Loads:
    """The variants' load, and the state of its metrics."""

    def __init__(self) -> None:
        names = ["namespace", "variant_name"]

        def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"variant_adapter_{name}", text, labels=[*names, *more])

        self._state = gauge(
            "metrics_state",
            "1 for the state of the variant's metrics and their source.",
            "state",
            "source",
        )
        self._age = gauge(
            "metrics_age_seconds", "Age of the variant's oldest pod metrics in seconds."
        )
        self._observed = gauge(
            "observed_arrival_rate_per_minute",
            "Arrival rate at the variant's pods, requests per minute.",
        )
        self._running = gauge(
            "observed_running_requests", "Requests that the variant's pods are serving."
        )
        self._waiting = gauge(
            "observed_waiting_requests", "Requests that wait in the pods' queues."
        )
        self._cache = gauge(
            "observed_kv_cache_usage_ratio",
            "Share of the KV cache in use, of the fullest pod, from 0 to 1.",
        )
        self._cache_tokens = gauge(
            "observed_kv_cache_tokens",
            "Tokens that the KV cache of the smallest pod holds.",
        )
        self._preemptions = gauge(
            "observed_preemptions_per_minute",
            "Requests preempted per minute because the KV cache was full, over all pods.",
        )
        self._ttft = gauge(
            "observed_ttft_milliseconds", "Mean time to first token in milliseconds."
        )
        self._itl = gauge("observed_itl_milliseconds", "Mean inter-token latency in milliseconds.")

    def add(self, variant: list[str], state: VariantState, *, now: float) -> None:
        """Add one variant; what is not known makes no series."""
        observation = state.observation
        if observation is None:
            return
        self._state.add_metric([*variant, observation.metrics, observation.origin], 1.0)
        traffic = observation.traffic
        if traffic is None:
            return
        self._age.add_metric(variant, max(now - state.observed_at, 0.0))
        self._observed.add_metric(variant, 60.0 * traffic.arrival_rate_rps)
        self._running.add_metric(variant, traffic.running)
        self._waiting.add_metric(variant, traffic.waiting)
        for family, value in (
            (self._cache, traffic.kv_cache),
            (self._cache_tokens, traffic.kv_tokens),
            (self._preemptions, _per_minute(traffic.preemptions_rps)),
            (self._ttft, traffic.ttft_ms),
            (self._itl, traffic.itl_ms),
        ):
            if value is not None:
                family.add_metric(variant, value)

    def families(self) -> tuple[GaugeMetricFamily, ...]:
        """All of them."""
        return (
            self._state,
            self._age,
            self._observed,
            self._running,
            self._waiting,
            self._cache,
            self._cache_tokens,
            self._preemptions,
            self._ttft,
            self._itl,
        )


def _per_minute(rate_rps: float | None) -> float | None:
    return None if rate_rps is None else 60.0 * rate_rps


class CollectionCollector(Collector):
    """Counters of the collection of load itself."""

    def __init__(self, collector: LoadCollector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        """Numbers of scrapes and queries, of failed ones, and the duration of the last scrape cycle."""
        counts = self._collector.counts
        for name, text in (
            ("scrapes", "Scrapes of pods that gave metrics."),
            ("scrape_failures", "Scrapes of pods that failed."),
            ("queries", "Queries to Prometheus."),
            ("query_failures", "Queries to Prometheus that failed."),
        ):
            yield CounterMetricFamily(
                f"variant_adapter_collection_{name}", text, value=float(counts[name])
            )
        yield GaugeMetricFamily(
            "variant_adapter_scrape_cycle_seconds",
            "Duration of the last scrape cycle in seconds.",
            value=self._collector.cycle_seconds,
        )


class ReplicaCollector(Collector):
    """Gauges of this replica of the adapter itself."""

    def __init__(
        self,
        leading: Callable[[], bool],
        refused: Callable[[], int],
        *,
        failures: Callable[[], int] = lambda: 0,
        failing: Callable[[], bool] = lambda: False,
        cycles: Callable[[], int] = lambda: 0,
        expires_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Make a collector.

        Args:
            leading: whether this replica leads.
            refused: number of invalid variants.
            failures: number of cycles that failed as a whole.
            failing: whether the last one did.
            cycles: number of reconcile cycles that ended.
            expires_at: end of the serving certificate, Unix seconds; None where not known.

        """
        self._cycles = cycles
        self._expires_at = expires_at
        self._leading = leading
        self._refused = refused
        self._failures = failures
        self._failing = failing

    def collect(self) -> Iterable[Metric]:
        """Whether it leads, and the number of invalid variants."""
        yield GaugeMetricFamily(
            "variant_adapter_leading",
            "1 while this replica is the leader, which decides and writes; 0 while it only serves.",
            value=float(self._leading()),
        )
        yield GaugeMetricFamily(
            "variant_adapter_refused_variants",
            "Invalid VariantAutoscalings, which are ignored; their conditions say why.",
            value=float(self._refused()),
        )
        yield GaugeMetricFamily(
            "variant_adapter_cycle_failing",
            "1 while the last scrape or reconcile cycle failed as a whole, else 0; /readyz says why.",
            value=float(self._failing()),
        )
        expiry = GaugeMetricFamily(
            "variant_adapter_serving_certificate_expiry_timestamp_seconds",
            "End of the validity of the serving certificate, Unix time.",
        )
        end = self._expires_at()
        if end is not None:
            expiry.add_metric([], end)
        yield expiry
        yield CounterMetricFamily(
            "variant_adapter_cycles",
            "Reconcile cycles of this replica that ended with published targets.",
            value=float(self._cycles()),
        )
        yield CounterMetricFamily(
            "variant_adapter_cycle_failures",
            "Scrape and reconcile cycles that failed as a whole.",
            value=float(self._failures()),
        )
