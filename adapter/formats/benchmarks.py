"""Benchmark results as rows for `analyzer.fit`: CSV, guidellm's JSON, vLLM's `benchmark_serving` JSON.

A row is one run at one load. What a CSV calls its columns is told apart by name; of guidellm and vLLM the
means of successful requests are taken. Where a result has no concurrency it follows from Little's law:
requests per second times the time of one request.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter.errors import InputError
from adapter.formats import files

COLUMNS = {
    "batch": ("batch", "batch_size", "concurrency", "max_concurrency"),
    "input_tokens": ("input_tokens", "in_tokens", "prompt_tokens", "input_len"),
    "output_tokens": ("output_tokens", "out_tokens", "generated_tokens", "output_len"),
    "itl_ms": ("itl_ms", "itl", "mean_itl_ms", "tpot_ms", "tpot", "mean_tpot_ms"),
    "ttft_ms": ("ttft_ms", "ttft", "mean_ttft_ms"),
}
"""What a column may be called; letters' case, spaces and dashes do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        place: where it stands, such as `runs.csv:3`.
        batch: mean number of requests in service.
        input_tokens: mean per request; NaN where it is not known.
        itl_ms: mean inter-token latency; NaN where it is not known.
        ttft_ms: mean time to first token; NaN where it is not known.

    """

    place: str
    batch: float
    input_tokens: float
    itl_ms: float
    ttft_ms: float


def read(path: Path) -> list[Row]:
    """Rows of one file.

    Raises:
        InputError: names the file, and the line or the field.

    """
    text = files.read_text(path)
    rows = list(_json(path, text) if text.lstrip()[:1] in {"{", "["} else _csv(path, text))
    if not rows:
        raise InputError(f"{path}: no rows")
    return rows


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(text.splitlines())
    header = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in next(reader, [])]
    places = {
        name: next((header.index(alias) for alias in aliases if alias in header), None)
        for name, aliases in COLUMNS.items()
    }
    for name in ("batch", "itl_ms"):
        if places[name] is None:
            raise InputError(f"{path}: no column {name}; may be called {', '.join(COLUMNS[name])}")
    if places["ttft_ms"] is not None and places["input_tokens"] is None:
        raise InputError(f"{path}: a column ttft_ms needs a column input_tokens beside it")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        place = f"{path}:{reader.line_num}"
        values = {}
        for name, column in places.items():
            cell = cells[column].strip() if column is not None and column < len(cells) else ""
            values[name] = _cell(cell, f"{place}: {name}") if cell else math.nan
        if math.isnan(values["batch"]):
            raise InputError(f"{place}: batch: is missing")
        yield Row(
            place=place,
            batch=values["batch"],
            input_tokens=values["input_tokens"],
            itl_ms=values["itl_ms"],
            ttft_ms=values["ttft_ms"],
        )


def _cell(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{place}: must be a number >= 0, not {text!r}")
    return value


def _json(path: Path, text: str) -> Iterator[Row]:
    try:
        documents = [json.loads(text)]
    except ValueError:
        # vLLM appends one object a line to the same file.
        try:
            documents = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from error
    if len(documents) == 1 and isinstance(documents[0], list):
        documents = documents[0]
    for number, document in enumerate(documents):
        place = f"{path}[{number}]" if len(documents) > 1 else str(path)
        if not isinstance(document, dict):
            raise InputError(f"{place}: must be a JSON object")
        if "benchmarks" in document:
            runs = document["benchmarks"]
            if not isinstance(runs, list):
                raise InputError(f"{place}: benchmarks: must be a list")
            for run_number, run in enumerate(runs):
                yield _guidellm(run, f"{place}: benchmarks[{run_number}]")
        elif "mean_ttft_ms" in document:
            yield _vllm(document, place)
        else:
            raise InputError(
                f"{place}: neither guidellm (benchmarks) nor vLLM benchmark_serving (mean_ttft_ms)"
            )


def _guidellm(run: Any, place: str) -> Row:
    def mean(name: str) -> float:
        return _number(run, ("metrics", name, "successful", "mean"), place)

    metrics = run.get("metrics") if isinstance(run, dict) else None
    if isinstance(metrics, dict) and "request_concurrency" not in metrics:
        batch = mean("requests_per_second") * mean("request_latency")  # requests/s, s
    else:
        batch = mean("request_concurrency")
    return Row(
        place=place,
        batch=batch,
        input_tokens=mean("prompt_token_count"),
        itl_ms=mean("inter_token_latency_ms") or math.nan,
        ttft_ms=mean("time_to_first_token_ms") or math.nan,
    )


def _vllm(document: Mapping[str, Any], place: str) -> Row:
    def value(name: str) -> float:
        return _number(document, (name,), place)

    completed = value("completed")
    if completed == 0:
        raise InputError(f"{place}: completed: is 0, so there is nothing to learn")
    output = value("total_output_tokens") / completed
    itl, ttft = value("mean_tpot_ms"), value("mean_ttft_ms")
    seconds = (ttft + max(output - 1.0, 0.0) * itl) / 1000.0
    return Row(
        place=place,
        batch=value("request_throughput") * seconds,
        input_tokens=value("total_input_tokens") / completed,
        itl_ms=itl or math.nan,
        ttft_ms=ttft or math.nan,
    )


def _number(document: Any, path: Sequence[str], place: str) -> float:
    found = document
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise InputError(f"{place}: {'.'.join(path)}: must be a number")
    if not (math.isfinite(found) and found >= 0):
        raise InputError(f"{place}: {'.'.join(path)}: must be a number >= 0, not {found}")
    return float(found)
