"""Runs of GenAI-Perf and AIPerf: one JSON object a run, `METRIC: {unit, avg, p50, p99}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adapter.formats.benchmark_tools.rows import (
    NO_TTFT,
    NOTHING_FINISHED,
    Row,
    UnusableError,
    check_failed,
    inside,
    optional,
)


def is_genai_perf(document: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a run of GenAI-Perf or its successor AIPerf."""
    return any(
        isinstance(document.get(name), Mapping) and "avg" in document[name]
        for name in ("inter_token_latency", "time_to_first_token", "request_throughput")
    )


_MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1000.0, "sec": 1000.0, "seconds": 1000.0}


def genai_perf(document: Mapping[str, Any], place: str) -> Row:
    """A run of GenAI-Perf or AIPerf: `METRIC: {unit, avg, p50, p99}`."""

    def value(name: str, statistic: str) -> float:
        metric = inside(document, (name,))
        scale = 1.0
        if isinstance(metric, Mapping) and name in {
            "request_latency",
            "time_to_first_token",
            "inter_token_latency",
        }:
            scale = _MILLISECONDS.get(str(metric.get("unit", "ms")).lower(), math.nan)
        return optional(inside(metric, (statistic,))) * scale

    if document.get("was_cancelled") is True:
        return Row(place=place, problem="was_cancelled: the run was ended before its time")
    count = optional(inside(document, ("request_count", "avg")))
    failed = optional(inside(document, ("error_request_count", "avg")))
    try:
        check_failed(count, failed, "request_count")
    except UnusableError as error:
        return Row(place=place, problem=str(error))
    itl, rate = value("inter_token_latency", "avg"), value("request_throughput", "avg")
    latency, ttft = value("request_latency", "avg"), value("time_to_first_token", "avg")
    output, prompt = value("output_sequence_length", "avg"), value("input_sequence_length", "avg")
    if math.isnan(rate) or count == 0:
        return Row(place=place, problem=f"request_throughput: is absent: {NOTHING_FINISHED}")
    if math.isnan(itl):
        text = "inter_token_latency: is absent: responses were not streamed"
        return Row(place=place, problem=text)
    if math.isnan(latency):
        latency = ttft + (output - 1.0) * itl
    if math.isnan(latency):
        return Row(place=place, problem="request_latency: must be a number > 0")
    return Row(
        place=place, batch=rate * latency / 1000.0, input_tokens=prompt, output_tokens=output,
        itl_ms=itl, ttft_ms=ttft, throughput_rps=rate,
        ttft_p50_ms=value("time_to_first_token", "p50"),
        ttft_p99_ms=value("time_to_first_token", "p99"),
        itl_p50_ms=value("inter_token_latency", "p50"),
        itl_p99_ms=value("inter_token_latency", "p99"), note="" if ttft > 0 else NO_TTFT,
    )  # fmt: skip
