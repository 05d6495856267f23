"""Runs of vLLM's `bench serve`, SGLang's `bench_serving` and guidellm as rows.

vLLM writes one JSON object a run (`mean_ttft_ms`, `mean_tpot_ms`, `request_throughput`; up to 0.4
`request_inthroughput`) or appends them a line each; its sweep collects the same keys in `summary.csv`;
SGLang appends lines with the same keys. guidellm 0.2 to 0.8 writes
`benchmarks[].metrics.NAME.successful.mean`, and a CSV with one header line (0.2, 0.3) or three (0.4 and
later). The concurrency follows from Little's law, requests per second times the time of one request, where
it is not measured.

An unusable run becomes a row with its reason, so that the other runs of its file are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING_FINISHED = "nothing finished"
NO_TTFT = "no TTFT: used for ITL only"

_Value = Callable[[str, str], Any]
"""A statistic (mean, median, p99) of a metric; None where the file has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        place: file and line or index, such as `runs.csv:3`.
        batch: mean number of requests running and waiting; NaN where it is not known.
        input_tokens: mean per request; NaN where it is not known.
        itl_ms: mean inter-token latency per generated token; NaN where it is not known.
        ttft_ms: mean time to first token; NaN where it is not known.
        output_tokens: mean per request; NaN where it is not known.
        throughput_rps: finished requests per second; NaN where it is not known.
        open_loop: arrivals did not wait for responses.
        unlimited: all requests were sent at once.
        ttft_p50_ms: median of TTFT; NaN where it is not known.
        ttft_p99_ms: 99th percentile of TTFT; likewise.
        itl_p50_ms: median of ITL; likewise.
        itl_p99_ms: 99th percentile of ITL; likewise.
        problem: reason why the run is unusable; empty otherwise.
        note: reason why a part of it is unusable; empty otherwise.

    """

    place: str
    batch: float = math.nan
    input_tokens: float = math.nan
    itl_ms: float = math.nan
    ttft_ms: float = math.nan
    output_tokens: float = math.nan
    throughput_rps: float = math.nan
    open_loop: bool = False
    unlimited: bool = False
    ttft_p50_ms: float = math.nan
    ttft_p99_ms: float = math.nan
    itl_p50_ms: float = math.nan
    itl_p99_ms: float = math.nan
    problem: str = ""
    note: str = ""


class _UnusableError(ValueError):
    """A run is unusable; the message is the row's reason."""


def is_vllm(document: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a run of vLLM's or SGLang's benchmark."""
    return "mean_ttft_ms" in document or (
        "completed" in document
        and any(name in document for name in ("request_throughput", "request_inthroughput"))
    )


def vllm(document: Mapping[str, Any], place: str) -> Row:
    """A run of vLLM's or SGLang's benchmark."""
    try:
        return _vllm(document, place)
    except _UnusableError as error:
        return Row(place=place, problem=str(error))


def guidellm(run: Any, place: str) -> Row:
    """One of `benchmarks` of a guidellm report."""
    metrics = run.get("metrics") if isinstance(run, dict) else None
    if not isinstance(metrics, dict):
        return Row(place=place, problem="metrics: must be an object")

    def value(name: str, statistic: str) -> Any:
        path = ("percentiles", "p99") if statistic == "p99" else (statistic,)
        return _inside(metrics, (name, "successful", *path))

    finished = _inside(metrics, ("request_totals", "successful"))
    if finished is None:
        finished = _inside(run, ("request_totals", "successful"))
    if finished is None:
        finished = _inside(metrics, ("requests_per_second", "successful", "count"))
    strategy = next(
        (
            name
            for part in ("config", "args", "scheduler")
            if isinstance(name := _inside(run, (part, "strategy", "type_")), str)
        ),
        "",
    )
    if (
        finished is None
        and "requests_per_second" in metrics
        and (value("requests_per_second", "mean") is None)
    ):
        finished = 0
    return _guidellm(value, finished, strategy, place)


def guidellm_csv(lines: Sequence[Sequence[str]], path: str) -> Iterator[Row] | None:
    """Runs of a guidellm CSV whose cells are `lines`; None where it is no such CSV."""
    if not lines:
        return None
    if "Successful Inter token latency ms mean" in lines[0]:
        return _one_header(lines, path)
    if len(lines) >= 3 and "Benchmark" in lines[0] and "Inter Token Latency" in lines[0]:
        return _three_headers(lines, path)
    return None


def _vllm(document: Mapping[str, Any], place: str) -> Row:
    completed = _number(document.get("completed"), "completed")
    if completed == 0:
        raise _UnusableError(f"completed: is 0: {NOTHING_FINISHED}")
    rate = document.get("request_throughput", document.get("request_inthroughput"))
    if rate is None and "duration" in document:
        rate = completed / max(_number(document["duration"], "duration"), 1e-9)
    throughput = _number(rate, "request_throughput")
    tokens = _number(document.get("total_output_tokens"), "total_output_tokens")
    output = tokens / completed
    if output <= 1.0:
        raise _UnusableError(
            f"total_output_tokens: {output:.3g} per request; ITL needs more than one"
        )
    # Per token, not per message: a speculating engine sends several tokens in one.
    name = "mean_tpot_ms" if "mean_tpot_ms" in document else "mean_itl_ms"
    itl = _number(document.get(name), name)
    if itl == 0:
        raise _UnusableError(f"{name}: is 0: responses were not streamed")
    ttft = _optional(document.get("mean_ttft_ms"))
    latency = ttft + (output - 1.0) * itl
    if math.isnan(latency):
        latency = _optional(document.get("mean_e2el_ms", document.get("mean_e2e_latency_ms")))
    if math.isnan(latency):
        raise _UnusableError(
            "mean_ttft_ms: must be a number > 0; the concurrency cannot be computed without it"
        )
    batch = throughput * latency / 1000.0
    if batch <= 0:
        raise _UnusableError(f"request_throughput: is 0: {NOTHING_FINISHED}")
    limit = _optional(document.get("max_concurrency"))
    request_rate = document.get("request_rate")
    endless = isinstance(request_rate, (int, float, str)) and str(request_rate).lower() in {
        "inf",
        "infinity",
    }
    return Row(
        place=place,
        batch=batch,
        input_tokens=_number(document.get("total_input_tokens"), "total_input_tokens") / completed,
        itl_ms=itl,
        ttft_ms=ttft,
        output_tokens=output,
        throughput_rps=throughput,
        open_loop=not endless
        and not math.isnan(_optional(request_rate))
        and not (limit > 0 and batch > 0.9 * limit),
        unlimited=endless and math.isnan(limit),
        ttft_p50_ms=_optional(document.get("median_ttft_ms")),
        ttft_p99_ms=_optional(document.get("p99_ttft_ms")),
        itl_p50_ms=_optional(document.get("median_tpot_ms")),
        itl_p99_ms=_optional(document.get("p99_tpot_ms")),
        note="" if ttft > 0 else NO_TTFT,
    )


def _guidellm(value: _Value, finished: Any, strategy: str, place: str) -> Row:
    """A row from `value(metric, statistic)`, such as value("request_latency", "mean")."""
    try:
        return _guidellm_run(value, finished, strategy, place)
    except _UnusableError as error:
        return Row(place=place, problem=str(error))


def _guidellm_run(value: _Value, finished: Any, strategy: str, place: str) -> Row:
    def mean(name: str) -> float:
        return _number(value(name, "mean"), f"metrics.{name}.successful.mean")

    if finished == 0:
        raise _UnusableError(NOTHING_FINISHED)
    concurrency = value("request_concurrency", "mean")
    if concurrency is None:
        concurrency = mean("requests_per_second") * mean("request_latency")  # requests/s, s
    batch = _number(concurrency, "metrics.request_concurrency.successful.mean")
    if batch == 0:
        raise _UnusableError(f"mean concurrency is 0: {NOTHING_FINISHED}")
    itl = _optional(value("inter_token_latency_ms", "mean"))
    if math.isnan(itl):
        raise _UnusableError("inter_token_latency_ms: is absent: responses were not streamed")
    ttft = _optional(value("time_to_first_token_ms", "mean"))
    return Row(
        place=place,
        batch=batch,
        input_tokens=mean("prompt_token_count"),
        itl_ms=itl,
        ttft_ms=ttft,
        output_tokens=_optional(value("output_token_count", "mean")),
        throughput_rps=_optional(value("requests_per_second", "mean")),
        open_loop=strategy in {"constant", "poisson", "async"},
        unlimited=strategy == "throughput",
        ttft_p50_ms=_optional(value("time_to_first_token_ms", "median")),
        ttft_p99_ms=_optional(value("time_to_first_token_ms", "p99")),
        itl_p50_ms=_optional(value("inter_token_latency_ms", "median")),
        itl_p99_ms=_optional(value("inter_token_latency_ms", "p99")),
        note="" if ttft > 0 else NO_TTFT,
    )


_METRICS = {
    "requests_per_second": ("Server Throughput", "Successful Requests/Sec"),
    "request_concurrency": ("Server Throughput", "Successful Concurrency"),
    "request_latency": ("Request Latency", "Successful Sec"),
    "prompt_token_count": ("Token Metrics", "Successful Input Tokens"),
    "output_token_count": ("Token Metrics", "Successful Output Tokens"),
    "time_to_first_token_ms": ("Time to First Token", "Successful ms"),
    "inter_token_latency_ms": ("Inter Token Latency", "Successful ms"),
}
"""Group and name of a metric in the header of guidellm 0.4 and later."""


def _one_header(lines: Sequence[Sequence[str]], path: str) -> Iterator[Row]:
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        by_name = dict(zip(lines[0], cells, strict=False))

        def value(name: str, statistic: str, by_name: dict[str, str] = by_name) -> float | None:
            title = f"Successful {name.replace('_', ' ').capitalize()}"
            if statistic == "p99":
                return _percentile(by_name.get(f"{title} {_LIST}"))
            return _cell(by_name.get(f"{title} {statistic}"))

        strategy = by_name.get("Name", "").partition("@")[0]
        finished = _cell(by_name.get("Successful Requests"))
        yield _guidellm(value, finished, strategy, f"{path}:{number}")


_LIST = "[min, 0.1, 1, 5, 10, 25, 75, 90, 95, 99, max]"


def _three_headers(lines: Sequence[Sequence[str]], path: str) -> Iterator[Row]:
    header = list(zip(*lines[:3], strict=False))
    for number, cells in enumerate(lines[3:], start=4):
        if not any(cells):
            continue
        place = f"{path}:{number}"
        by_name = dict(zip(header, cells, strict=False))
        finished = _cell(by_name.get(("Request Counts", "Successful", "")))
        # Metrics without a value are left out of a line, whose cells then stand under other columns' names.
        shifted = len(cells) != len(header) or any(
            name[2] == "Percentiles" and cell and not cell.startswith("[")
            for name, cell in by_name.items()
        )
        if shifted and finished != 0:
            problem = "its cells do not stand under their header; give guidellm's JSON instead"
            yield Row(place=place, problem=problem)
            continue

        def value(
            name: str, statistic: str, by_name: dict[tuple[str, ...], str] = by_name
        ) -> float | None:
            if statistic == "p99":
                return _percentile(by_name.get((*_METRICS[name], "Percentiles")))
            return _cell(by_name.get((*_METRICS[name], statistic.capitalize())))

        yield _guidellm(value, finished, by_name.get(("Benchmark", "Strategy", ""), ""), place)


def _percentile(cell: str | None) -> float | None:
    """The 99th of guidellm's list of percentiles."""
    values = (cell or "").strip("[] ").split(",")
    return _cell(values[-2]) if len(values) == 11 else None


def _cell(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None


def _inside(document: Any, path: Sequence[str]) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _UnusableError(f"{name}: must be a number")
    if not (math.isfinite(value) and value >= 0):
        raise _UnusableError(f"{name}: must be a number >= 0, not {value}")
    return float(value)


def _optional(value: Any) -> float:
    """A number > 0, or NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if math.isfinite(value) and value > 0 else math.nan
