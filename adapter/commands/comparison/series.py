"""What was recorded of every variant, from the adapter's own series in Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from adapter import errors
from adapter.collector.lookups.prometheus_api import PrometheusApi
from adapter.collector.prometheus import PrometheusError, PrometheusOptions
from adapter.controller.history import telemetry, timeline

STEP_SECONDS = 60
MOST_POINTS = 10_000
"""Points of one series that Prometheus gives."""

DESIRED = f"inferno_desired_replicas or {telemetry.ADVISED}"

QUERIES: Mapping[str, str] = {
    "present": telemetry.PRESENT,
    "ours": f"max by (namespace, exported_namespace, variant_name) ({DESIRED})",
    "present_cost": telemetry.PRESENT_COST,
    "our_cost": "variant_adapter_target_cost_cents_per_hour",
    "advised": telemetry.ADVISED,
    "observed_ttft": "variant_adapter_observed_ttft_milliseconds",
    "observed_itl": "variant_adapter_observed_itl_milliseconds",
    "predicted_ttft": f'{telemetry.PREDICTED}{{metric="ttft"}}',
    "predicted_itl": f'{telemetry.PREDICTED}{{metric="itl"}}',
    "target_ttft": f'{telemetry.TARGET}{{metric="ttft"}}',
    "target_itl": f'{telemetry.TARGET}{{metric="itl"}}',
}
"""Expressions by what they give, one series per variant."""


def compared(options: PrometheusOptions, *, since: float, now: float) -> dict[str, Any]:
    """Comparison of every variant over the last `since` seconds, as the leader gives it.

    Raises:
        InputError: Prometheus gave no usable response.

    """
    step = max(STEP_SECONDS, -(-int(since) // MOST_POINTS))
    end = int(now) // step * step
    start = end - int(since) // step * step
    api = PrometheusApi(options, retries=0)
    try:
        moments: dict[str, dict[float, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for name, expression in QUERIES.items():
            for series in api.range(expression, start=start, end=end, step=step):
                labels = series.labels
                namespace = labels.get("exported_namespace") or labels.get("namespace", "")
                times = moments[f"{namespace}/{labels.get('variant_name', '')}"]
                for at, value in series.points:
                    times[at][name] = value
    except PrometheusError as error:
        raise errors.InputError(str(error)) from error
    finally:
        api.close()
    documents = {}
    for key, times in sorted(moments.items()):
        totals = timeline.Totals()
        for values in times.values():
            moment = moment_of(values)
            if moment is not None:
                totals.add(moment, float(step))
        if totals.seconds > 0:
            last = times[max(times)]
            documents[key] = {"advisory": "advised" in last, **timeline.document(totals)}
    return documents


def moment_of(values: Mapping[str, float]) -> timeline.Moment | None:
    """One time of a variant; None where what it had or what was decided is not known."""
    if not values.keys() >= {"present", "ours", "present_cost", "our_cost"}:
        return None
    bounds = (values.get("target_ttft", 0.0), values.get("target_itl", 0.0))
    return timeline.Moment(
        present=round(values["present"]),
        ours=round(values["ours"]),
        present_cost=values["present_cost"],
        our_cost=values["our_cost"],
        present_within=timeline.within(
            (values.get("observed_ttft"), values.get("observed_itl")), bounds
        ),
        ours_within=timeline.within(
            (values.get("predicted_ttft"), values.get("predicted_itl")), bounds
        ),
    )
