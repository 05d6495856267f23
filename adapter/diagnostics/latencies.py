"""Measured latencies of one variant beside its SLO targets, from its servers' histograms."""

from __future__ import annotations

from typing import Any

from adapter.collector.traffic import Traffic
from adapter.collector.windows.latencies import Distribution
from adapter.planning import fleet


def document(traffic: Traffic, targets: fleet.Targets, origin: str) -> dict[str, Any]:
    """Percentiles and attainment over the collection window as JSON; null where they are not known.

    Args:
        traffic: Traffic of the variant.
        targets: Its SLO targets.
        origin: Where its metrics come from: direct, prometheus, or both.

    """
    return {
        "ttft": _latency(traffic.ttft, targets.ttft_ms, origin),
        "itl": _latency(traffic.itl, targets.itl_ms, origin),
    }


def _latency(measured: Distribution, target_ms: float, origin: str) -> dict[str, Any]:
    covered = measured.covered
    return {
        "p50Milliseconds": _rounded(measured.quantile_ms(0.5), 3),
        "p95Milliseconds": _rounded(measured.quantile_ms(0.95), 3),
        "withinTarget": _rounded(measured.within(target_ms), 4),
        "count": round(measured.counted),
        "covered": round(covered, 3),
        "problem": _problem(measured, covered, origin),
    }


def _problem(measured: Distribution, covered: float, origin: str) -> str | None:
    """Why percentiles are missing, or not of all; None where they are of all."""
    if measured.counted <= 0:
        return "nothing was measured within the window"
    where = "pods that are read through Prometheus, which gave no buckets of them" * (
        "prometheus" in origin
    )
    if measured.histogram is None:
        return f"no buckets: of {where}" if where else "the pods show no buckets of it"
    if covered < 0.99:
        return f"of {covered:.0%} of them; the rest is of {where or 'pods without buckets'}"
    return None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
