"""Runs of guidellm 0.2 to 0.8: JSON reports and CSV.

Reports have `benchmarks[].metrics.NAME.successful.mean`; a CSV has one header line (0.2, 0.3) or three (0.4
and later). The concurrency follows from Little's law, requests per second times the time of one request,
where it is not measured. Requests that failed or that the end of a run cut off are in the measured one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adapter.formats.benchmark_tools.rows import (
    NO_TTFT,
    NOTHING_FINISHED,
    Row,
    UnusableError,
    as_float,
    check_failed,
    check_streamed,
    inside,
    number,
    optional,
)

_Value = Callable[[str, str], Any]
"""A statistic (mean, median, p99) of a metric; None where the file has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Requests of a run by their outcome; NaN, or None of `finished`, where the file has none.

    Attributes:
        finished: requests that finished.
        failed: requests that ended with an error.
        cut_off: requests that the end of the run cut off.
        inside: mean number of requests inside, whatever became of them.

    """

    finished: float | None
    failed: float
    cut_off: float
    inside: float


def guidellm(run: Any, place: str) -> Row:
    """One of `benchmarks` of a guidellm report."""
    metrics = run.get("metrics") if isinstance(run, dict) else None
    if not isinstance(metrics, dict):
        return Row(place=place, problem="metrics: must be an object")

    def value(name: str, statistic: str) -> Any:
        path = ("percentiles", "p99") if statistic == "p99" else (statistic,)
        return inside(metrics, (name, "successful", *path))

    finished = inside(metrics, ("request_totals", "successful"))
    if finished is None:
        finished = inside(run, ("request_totals", "successful"))
    if finished is None:
        finished = inside(metrics, ("requests_per_second", "successful", "count"))
    strategy = next(
        (
            name
            for part in ("config", "args", "scheduler")
            if isinstance(name := inside(run, (part, "strategy", "type_")), str)
        ),
        "",
    )
    if (
        finished is None
        and "requests_per_second" in metrics
        and (value("requests_per_second", "mean") is None)
    ):
        finished = 0
    totals = inside(metrics, ("request_totals",)) or inside(run, ("request_totals",))
    counts = _Counts(
        finished=as_float(finished),
        failed=optional(inside(totals, ("errored",))),
        cut_off=optional(inside(totals, ("incomplete",))),
        inside=optional(inside(metrics, ("request_concurrency", "total", "mean"))),
    )
    return _guidellm(value, counts, strategy, place)


def guidellm_csv(lines: Sequence[Sequence[str]], path: str) -> Iterator[Row] | None:
    """Runs of a guidellm CSV whose cells are `lines`; None where it is no such CSV."""
    if not lines:
        return None
    if "Successful Inter token latency ms mean" in lines[0]:
        return _one_header(lines, path)
    if len(lines) >= 3 and "Benchmark" in lines[0] and "Inter Token Latency" in lines[0]:
        return _three_headers(lines, path)
    return None


def _guidellm(value: _Value, counts: _Counts, strategy: str, place: str) -> Row:
    """A row from `value(metric, statistic)`, such as value("request_latency", "mean")."""
    try:
        return _guidellm_run(value, counts, strategy, place)
    except UnusableError as error:
        return Row(place=place, problem=str(error))


def _guidellm_run(value: _Value, counts: _Counts, strategy: str, place: str) -> Row:
    def mean(name: str) -> float:
        return number(value(name, "mean"), f"metrics.{name}.successful.mean")

    _check_counts(counts)
    concurrency = value("request_concurrency", "mean")
    if counts.failed > 0 or counts.cut_off > 0:
        # What failed or was cut off had its part of the server beside those that finished.
        concurrency = concurrency if math.isnan(counts.inside) else counts.inside
    if concurrency is None:
        concurrency = mean("requests_per_second") * mean("request_latency")  # requests/s, s
    batch = number(concurrency, "metrics.request_concurrency.successful.mean")
    if batch == 0:
        raise UnusableError(f"mean concurrency is 0: {NOTHING_FINISHED}")
    itl = optional(value("inter_token_latency_ms", "mean"))
    if math.isnan(itl):
        raise UnusableError("inter_token_latency_ms: is absent: responses were not streamed")
    ttft = optional(value("time_to_first_token_ms", "mean"))
    output = optional(value("output_token_count", "mean"))
    whole = 1000.0 * optional(value("request_latency", "mean"))
    check_streamed(ttft, itl, output, whole)
    return Row(
        place=place,
        batch=batch,
        input_tokens=mean("prompt_token_count"),
        itl_ms=itl,
        ttft_ms=ttft,
        output_tokens=output,
        throughput_rps=optional(value("requests_per_second", "mean")),
        open_loop=strategy in {"constant", "poisson", "async"},
        unlimited=strategy == "throughput",
        ttft_p50_ms=optional(value("time_to_first_token_ms", "median")),
        ttft_p99_ms=optional(value("time_to_first_token_ms", "p99")),
        itl_p50_ms=optional(value("inter_token_latency_ms", "median")),
        itl_p99_ms=optional(value("inter_token_latency_ms", "p99")),
        note="" if ttft > 0 else NO_TTFT,
    )


def _check_counts(counts: _Counts) -> None:
    """Refuse a run of which most failed, or that ended before most of its requests did.

    Raises:
        UnusableError: names how many finished.

    """
    finished = counts.finished
    if finished is None:
        return
    if finished == 0:
        raise UnusableError(NOTHING_FINISHED)
    check_failed(finished, counts.failed, "request_totals.successful")
    if counts.cut_off > finished:
        raise UnusableError(
            f"request_totals.successful: only {finished:g}, {counts.cut_off:g} requests were cut off by the"
            " end of the run; let it run longer"
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
    for line, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        by_name = dict(zip(lines[0], cells, strict=False))

        def value(name: str, statistic: str, by_name: dict[str, str] = by_name) -> float | None:
            title = f"Successful {name.replace('_', ' ').capitalize()}"
            if statistic == "p99":
                return _percentile(by_name.get(f"{title} {_LIST}"))
            return _cell(by_name.get(f"{title} {statistic}"))

        strategy = by_name.get("Name", "").partition("@")[0]
        counts = _Counts(
            finished=_cell(by_name.get("Successful Requests")),
            failed=optional(by_name.get("Errored Requests")),
            cut_off=optional(by_name.get("Incomplete Requests")),
            inside=_whole(
                by_name.get(f"{status} Request concurrency mean") for status in _STATUSES
            ),
        )
        yield _guidellm(value, counts, strategy, f"{path}:{line}")


_LIST = "[min, 0.1, 1, 5, 10, 25, 75, 90, 95, 99, max]"


def _three_headers(lines: Sequence[Sequence[str]], path: str) -> Iterator[Row]:
    header = list(zip(*lines[:3], strict=False))
    for line, cells in enumerate(lines[3:], start=4):
        if not any(cells):
            continue
        place = f"{path}:{line}"
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

        counts = _Counts(
            finished=finished,
            failed=optional(by_name.get(("Request Counts", "Errored", ""))),
            cut_off=optional(by_name.get(("Request Counts", "Incomplete", ""))),
            inside=_whole(
                by_name.get(("Server Throughput", f"{status} Concurrency", "Mean"))
                for status in _STATUSES
            ),
        )
        yield _guidellm(value, counts, by_name.get(("Benchmark", "Strategy", ""), ""), place)


_STATUSES = ("Successful", "Incomplete", "Errored")
"""What became of requests, as the headers name it."""


def _whole(cells: Iterable[str | None]) -> float:
    """The sum over what became of requests; NaN where no cell has a number."""
    values = [value for value in map(_cell, cells) if value is not None]
    return optional(sum(values))


def _percentile(cell: str | None) -> float | None:
    """The 99th of guidellm's list of percentiles."""
    values = (cell or "").strip("[] ").split(",")
    return _cell(values[-2]) if len(values) == 11 else None


def _cell(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None
