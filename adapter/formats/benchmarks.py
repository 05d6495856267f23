"""Benchmark results as rows for `analyzer`: CSV, and the files of vLLM, SGLang and guidellm.

A row is one run at one load. Columns of a CSV are recognized by name. An unusable run (nothing
finished, not streamed) is a row with its reason; a file without any usable row is
refused.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapter.errors import InputError
from adapter.formats import benchmark_files, files
from adapter.formats.benchmark_files import Row

__all__ = ["COLUMNS", "Row", "read"]

COLUMNS = {
    "batch": ("batch", "batch_size", "concurrency", "max_concurrency"),
    "input_tokens": ("input_tokens", "in_tokens", "prompt_tokens", "input_len"),
    "output_tokens": ("output_tokens", "out_tokens", "generated_tokens", "output_len"),
    "itl_ms": ("itl_ms", "itl", "mean_itl_ms", "tpot_ms", "tpot", "mean_tpot_ms"),
    "ttft_ms": ("ttft_ms", "ttft", "mean_ttft_ms"),
}
"""Accepted names of each column; case, spaces and dashes are ignored."""


def read(path: Path) -> list[Row]:
    """Rows of one file, of which at least one is usable.

    Raises:
        InputError: names the file, and the line or the field.

    """
    text = files.read_text(path)
    rows = list(_json(path, text) if text.lstrip()[:1] in {"{", "["} else _csv(path, text))
    if not rows:
        raise InputError(f"{path}: no rows")
    if all(row.problem for row in rows):
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise InputError(f"{rows[0].place}: {rows[0].problem}{more}")
    return rows


def _csv(path: Path, text: str) -> Iterator[Row]:
    lines = list(csv.reader(text.splitlines()))
    known = benchmark_files.guidellm_csv(lines, str(path))
    if known is not None:
        return known
    if lines and benchmark_files.is_vllm(dict.fromkeys(lines[0])) and "completed" in lines[0]:
        return _vllm_sweep(path, lines)
    return _plain(path, text)


def _vllm_sweep(path: Path, lines: list[list[str]]) -> Iterator[Row]:
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        document = {
            name: _value(cell) for name, cell in zip(lines[0], cells, strict=False) if cell.strip()
        }
        yield benchmark_files.vllm(document, f"{path}:{number}")


def _value(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _plain(path: Path, text: str) -> Iterator[Row]:
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
        values, problems = {}, []
        for name, column in places.items():
            cell = cells[column].strip() if column is not None and column < len(cells) else ""
            values[name] = _cell(cell, f"{place}: {name}") if cell else math.nan
            if cell and math.isnan(values[name]):
                problems.append(f"{name}: must be a number >= 0, not {cell!r}")
        if math.isnan(values["batch"]) and not problems:
            raise InputError(f"{place}: batch: is missing")
        yield Row(
            place=place,
            batch=values["batch"],
            input_tokens=values["input_tokens"],
            output_tokens=values["output_tokens"],
            itl_ms=values["itl_ms"],
            ttft_ms=values["ttft_ms"],
            problem="; ".join(problems),
        )


def _cell(text: str, place: str) -> float:
    """A number >= 0; NaN where the tool wrote `nan`, `inf` or a text."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if math.isnan(value) or value == math.inf:
        return math.nan
    if value < 0:
        raise InputError(f"{place}: must be a number >= 0, not {text!r}")
    return value


def _json(path: Path, text: str) -> Iterator[Row]:
    for place, document in _documents(path, text):
        if isinstance(document, Row):
            yield document
        elif not isinstance(document, dict):
            raise InputError(f"{place}: must be a JSON object")
        elif "benchmarks" in document:
            runs = document["benchmarks"]
            if not isinstance(runs, list):
                raise InputError(f"{place}: benchmarks: must be a list")
            for number, run in enumerate(runs):
                yield benchmark_files.guidellm(run, f"{place}: benchmarks[{number}]")
        elif benchmark_files.is_vllm(document):
            yield benchmark_files.vllm(document, place)
        else:
            raise InputError(
                f"{place}: neither guidellm (benchmarks) nor vLLM or SGLang (mean_ttft_ms)"
            )


def _documents(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Place and object of each run; a Row for a line that is cut off."""
    try:
        whole = json.loads(text)
    except ValueError as error:
        # vLLM and SGLang append one object a line to the same file.
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise InputError(f"{path}: not JSON: {error}") from error
    else:
        documents = whole if isinstance(whole, list) else [whole]
        for number, document in enumerate(documents):
            yield (f"{path}[{number}]" if len(documents) > 1 else str(path)), document
        return
    for number, line in enumerate(lines):
        place = f"{path}[{number}]"
        try:
            yield place, json.loads(line)
        except ValueError as error:
            yield place, Row(place=place, problem=f"not JSON: {error}")
