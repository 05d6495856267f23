"""Runs of inference-perf: one report a stage (`stage_N_lifecycle_metrics.json`), times in seconds.

A report has `load_summary` and `successes` with `latency.NAME.{mean, median, p99}`, `throughput` and token
counts (`prompt_tokens` and `output_tokens`; older ones `prompt_len` and `output_len`). Its summary puts all
stages together, so it is no load of its own. The concurrency follows from Little's law, requests per second
times the time of one request.
"""

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
    check_streamed,
    inside,
    number,
    optional,
)

_PROMPTS = ("prompt_tokens", "prompt_len")
_OUTPUTS = ("output_tokens", "output_len")
_CACHED = 0.1
"""Share of prompt tokens from the prefix cache from which on a note says so."""


def is_inference_perf(document: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a report of one stage, or of the summary of all."""
    return "load_summary" in document and isinstance(document.get("successes"), Mapping)


def inference_perf(document: Mapping[str, Any], place: str) -> Row:
    """One stage of inference-perf."""
    try:
        return _stage(document, place)
    except UnusableError as error:
        return Row(place=place, problem=str(error))


def _stage(document: Mapping[str, Any], place: str) -> Row:
    done = document["successes"]
    finished = number(done.get("count"), "successes.count")
    failed = optional(inside(document, ("failures", "count")))
    if finished == 0:
        raise UnusableError(f"successes.count: is 0: {NOTHING_FINISHED}")
    check_failed(finished, failed, "successes.count")
    load = document["load_summary"]
    if inside(load, ("requested_rate",)) is None:
        raise UnusableError(
            "load_summary.requested_rate: is absent: a summary of all stages is no load of its own; give"
            " stage_N_lifecycle_metrics.json"
        )

    def ms(name: str, statistic: str) -> float:
        return 1000.0 * optional(inside(done, ("latency", name, statistic)))

    # Per generated token: a message of a speculating engine holds several.
    kind = "time_per_output_token"
    if math.isnan(ms(kind, "mean")):
        kind = "inter_token_latency"
    itl, ttft = ms(kind, "mean"), ms("time_to_first_token", "mean")
    if math.isnan(itl):
        text = "latency.time_per_output_token: is absent: responses were not streamed"
        raise UnusableError(text)
    output, whole = _tokens(done, _OUTPUTS), ms("request_latency", "mean")
    check_streamed(ttft, itl, output, whole)
    latency = whole if whole > 0 else ttft + (output - 1.0) * itl
    if math.isnan(latency):
        raise UnusableError("latency.request_latency.mean: must be a number > 0")
    name = "throughput.requests_per_sec"
    rate = number(inside(done, tuple(name.split("."))), name)
    notes = [] if ttft > 0 else [NO_TTFT]
    if failed > 0.1 * finished:
        notes.append(f"{failed:g} requests failed")
    cached = optional(inside(done, ("prompt_tokens", "cached")))
    cached /= optional(inside(done, ("prompt_tokens", "total")))
    if cached > _CACHED:
        notes.append(f"the prefix cache served {cached:.0%} of the prompt tokens")
    return Row(
        place=place,
        batch=rate * latency / 1000.0,
        input_tokens=_tokens(done, _PROMPTS),
        output_tokens=output,
        itl_ms=itl,
        ttft_ms=ttft,
        throughput_rps=rate,
        open_loop=math.isnan(optional(inside(load, ("concurrency",)))),
        ttft_p50_ms=ms("time_to_first_token", "median"),
        ttft_p99_ms=ms("time_to_first_token", "p99"),
        itl_p50_ms=ms(kind, "median"),
        itl_p99_ms=ms(kind, "p99"),
        note="; ".join(notes),
    )


def _tokens(done: Mapping[str, Any], names: tuple[str, ...]) -> float:
    """Mean tokens per request under the first name that has them; NaN without."""
    values = (optional(inside(done, (name, "mean"))) for name in names)
    return next((value for value in values if value > 0), math.nan)
