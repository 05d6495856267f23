"""Runs of vLLM's `bench serve` and SGLang's `bench_serving`.

vLLM writes one JSON object a run (`mean_ttft_ms`, `mean_tpot_ms`, `request_throughput`; up to 0.4
`request_inthroughput`) or appends them a line each; its sweep collects the same keys in `summary.csv`;
SGLang appends lines with the same keys. A sweep writes a file on each run that failed, too, and one on its
warm-up. The concurrency follows from Little's law, requests per second times
the time of one request.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from adapter.formats.benchmark_tools.rows import (
    NO_TTFT,
    NOTHING_FINISHED,
    Row,
    UnusableError,
    as_float,
    check_failed,
    check_streamed,
    number,
    optional,
)

_VLLM_NAMES = (
    "request_throughput", "request_inthroughput", "total_output_tokens", "mean_tpot_ms", "median_ttft_ms",
    "p99_ttft_ms",
)  # fmt: skip

_WARM_UP = -1.0
"""Number of the run with which a sweep warms a server up."""
_AT_ONCE = 0.5
"""Least share of all requests that were inside at one time where all were sent at once."""
_LIMITED = 0.9
"""Share of the largest concurrency from which on that, and not the rate, decides when a request is sent."""
_LEAST_KEPT, _MOST_KEPT = 0.5, 1.2
"""Bounds of the concurrency by Little's law over the largest one, where a tool kept to that one."""
_UNITLESS = re.compile(r"(?:mean|median|p\d+)_(?:ttft|tpot|itl|e2el)")
"""Names of times without a unit."""
_MOST_SHOWN = 200
"""Most characters of a run's error that its reason shows."""


def is_vllm(document: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a run of vLLM's or SGLang's benchmark."""
    if "mean_ttft_ms" in document or _failed(document):
        return True
    return "completed" in document and any(name in document for name in _VLLM_NAMES)


def _failed(document: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a sweep's file on a run that ended with an error."""
    return "error_type" in document and "serve_overrides" in document


def vllm(document: Mapping[str, Any], place: str) -> Row:
    """A run of vLLM's or SGLang's benchmark."""
    try:
        return _vllm(document, place)
    except UnusableError as error:
        return Row(place=place, problem=str(error))


def _vllm(document: Mapping[str, Any], place: str) -> Row:
    document, unitless = _in_ms(document)
    if _failed(document):
        raise UnusableError(f"error: the run failed: {str(document.get('error'))[:_MOST_SHOWN]}")
    if as_float(document.get("run_number")) == _WARM_UP:
        raise UnusableError("run_number: is -1: a warm-up of the sweep")
    if document.get("ramp_up_strategy"):
        raise UnusableError(
            "ramp_up_strategy: the rate rose during the run, so it is no load of its own"
        )
    completed, failed = _finished(document)
    throughput = _throughput(document, completed)
    tokens = number(document.get("total_output_tokens"), "total_output_tokens")
    output = tokens / completed
    if output <= 1.0:
        raise UnusableError(
            f"total_output_tokens: {output:.3g} per request; ITL needs more than one"
        )
    ttft, ttft_note = _NO_CENTER
    if not math.isnan(optional(_center(document, "ttft", strict=False)[0])):
        ttft, ttft_note = _center(document, "ttft")
    whole = optional(document.get("mean_e2el_ms", document.get("mean_e2e_latency_ms")))
    itl, itl_note = _itl(document, whole - ttft, output)
    latency, missing = ttft + (output - 1.0) * itl, ""
    if math.isnan(latency):
        latency = whole
    if math.isnan(latency):
        # The first token takes at least the step that it came with.
        latency, missing = output * itl, "concurrency counts requests that decode"
    check_streamed(ttft, itl, output, whole)
    batch = throughput * latency / 1000.0
    if batch <= 0:
        raise UnusableError(f"request_throughput: is 0: {NOTHING_FINISHED}")
    limit = _limit(document)
    _check_seconds(unitless, batch, limit)
    _units(batch, limit, completed)
    rated, unlimited = _arrivals(document, limit, completed)
    notes = [] if ttft > 0 else [NO_TTFT]
    seconds = f"{unitless}: its seconds were made ms" if unitless else ""
    notes += [note for note in (missing, itl_note, ttft_note, seconds) if note]
    if failed > 0.1 * completed:
        notes.append(f"{failed:g} requests failed")
    return Row(
        place=place,
        batch=batch,
        input_tokens=number(document.get("total_input_tokens"), "total_input_tokens") / completed,
        itl_ms=itl,
        ttft_ms=ttft,
        output_tokens=output,
        throughput_rps=throughput,
        open_loop=rated and not (limit > 0 and batch > _LIMITED * limit),
        unlimited=unlimited,
        ttft_p50_ms=optional(document.get("median_ttft_ms")),
        ttft_p99_ms=optional(document.get("p99_ttft_ms")),
        itl_p50_ms=optional(document.get("median_tpot_ms")),
        itl_p99_ms=optional(document.get("p99_tpot_ms")),
        model=str(document.get("model_id") or ""),
        note="; ".join(notes),
    )


def _limit(document: Mapping[str, Any]) -> float:
    """Most requests that the tool kept inside; NaN where it had no limit."""
    value = document.get("max_concurrency")
    if (as_float(value) or 0.0) < 0:
        raise UnusableError(
            f"max_concurrency: must be a number > 0, or null without a limit, not {value}"
        )
    return optional(value)


def _arrivals(document: Mapping[str, Any], limit: float, completed: float) -> tuple[bool, bool]:
    """Whether a rate or a trace says when requests are sent, and whether all are sent at once."""
    rate = document.get("request_rate")
    endless = isinstance(rate, (int, float, str)) and str(rate).lower() in {"inf", "infinity"}
    if not endless:
        return not math.isnan(optional(rate)), False
    # A trace with times of its own has an endless rate too, and never all of its requests inside.
    timed = optional(document.get("max_concurrent_requests")) < _AT_ONCE * completed
    return timed, math.isnan(limit) and not timed


def _itl(document: Mapping[str, Any], decode_ms: float, output: float) -> tuple[float, str]:
    """Time per token and a note; not per message, as a speculating engine sends several tokens in one."""
    name = "tpot" if any(f"{kind}_tpot_ms" in document for kind in _CENTERS) else "itl"
    if name == "itl" and decode_ms > 0:
        return decode_ms / (output - 1.0), ""
    itl, note = _center(document, name)
    if itl == 0:
        raise UnusableError(f"mean_{name}_ms: is 0: responses were not streamed")
    return itl, note


def _finished(document: Mapping[str, Any]) -> tuple[float, float]:
    """Requests that completed, and those that failed."""
    completed = number(document.get("completed"), "completed")
    if completed == 0:
        raise UnusableError(f"completed: is 0: {NOTHING_FINISHED}")
    failed, sent = optional(document.get("failed")), optional(document.get("num_prompts"))
    missing = [0.0, *(count for count in (failed, sent - completed) if not math.isnan(count))]
    check_failed(completed, max(missing), "completed")
    return completed, max(missing)


def _throughput(document: Mapping[str, Any], completed: float) -> float:
    """Requests per second."""
    rate = document.get("request_throughput", document.get("request_inthroughput"))
    if rate is None and "duration" in document:
        seconds = number(document["duration"], "duration")
        if seconds <= 0:
            raise UnusableError("duration: must be a number > 0, and there is no throughput")
        rate = completed / seconds
    return number(rate, "request_throughput")


_CENTERS = ("mean", "median", "p50")
_NO_CENTER = (math.nan, "")


def _center(document: Mapping[str, Any], name: str, *, strict: bool = True) -> tuple[float, str]:
    """Mean of `ttft`, `tpot` or `itl` in ms; the median and a note where no mean was written."""
    if f"mean_{name}_ms" not in document:
        for kind in _CENTERS[1:]:
            field = f"{kind}_{name}_ms"
            if field in document:
                value = number(document[field], field) if strict else optional(document[field])
                return value, f"no mean_{name}_ms: its median is used"
    field = f"mean_{name}_ms"
    if not strict:
        return optional(document.get(field)), ""
    return number(document.get(field), field), ""


def _in_ms(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The document with times in ms, and the name of one that it has without a unit; empty without any.

    InferenceX writes `median_ttft` in seconds for vLLM's `median_ttft_ms`. That they are seconds has to show
    (`_check_seconds`).
    """
    times = {
        name: value
        for name, value in document.items()
        if _UNITLESS.fullmatch(name) and f"{name}_ms" not in document
    }
    if not any(name.endswith("_ttft") for name in times):
        return document, ""
    converted = {
        f"{name}_ms": value if (number := as_float(value)) is None else 1000.0 * number
        for name, value in times.items()
    }
    return {**document, **converted}, next(name for name in times if name.endswith("_ttft"))


def _check_seconds(name: str, batch: float, limit: float) -> None:
    """Refuse times without a unit, unless seconds give the largest concurrency that the tool kept to."""
    if name and not _LEAST_KEPT * limit < batch < _MOST_KEPT * limit:
        raise UnusableError(
            f"{name}: has no unit, and max_concurrency does not show one; write {name}_ms in milliseconds"
        )


def _units(batch: float, limit: float, completed: float) -> None:
    """Refuse times that cannot be milliseconds."""
    law = f"requests per second times latency give {batch:.3g} requests inside"
    if batch > 20.0 * limit:
        raise UnusableError(
            f"{law}, above max_concurrency {limit:g}: are the times in milliseconds?"
        )
    if batch < 0.01 * min(limit, completed) and batch < 0.5:
        raise UnusableError(f"{law} of max_concurrency {limit:g}: are the times in seconds?")
