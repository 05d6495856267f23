"""Benchmark results as rows for `analyzer`: CSV, and the files of benchmark tools.

A row is one run at one load. Columns of a CSV are recognized by name; `itl_s` or `itl (s)` are seconds. An
unusable run (nothing finished, not streamed, a number that is none) is a row with its reason; a file without
any usable row is refused.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapter.errors import InputError
from adapter.formats import files
from adapter.formats.benchmark_tools import (
    genai_perf,
    guidellm,
    inference_perf,
    plain,
    unsupported,
    vllm,
)
from adapter.formats.benchmark_tools.plain import ABSENT, COLUMNS
from adapter.formats.benchmark_tools.rows import NO_TTFT, Row, alike
from adapter.resources.texts.documents import DocumentError, parse_file

__all__ = ["COLUMNS", "Row", "alike", "read", "read_all"]

_LARGEST = 1e9
"""Larger numbers are none that a server was measured at, whatever their unit."""
_MOST = {"batch": 1e6, "input_tokens": 1e8, "output_tokens": 1e8}
"""Largest concurrency and lengths that a run may have; one that is mistyped bends the whole fit."""
_MOST_REASONS = 20
"""Most reasons that an error names, where a file has no usable row."""
_NAMES = frozenset(name for names in COLUMNS.values() for name in names)
_YAML = frozenset({".yaml", ".yml"})
_EXPECTED = "a benchmark tool's JSON, or a CSV with a header and a row for each run, is needed"
_LONGEST_VALUE = 200
"""Characters of a file up to which it may be such a value; longer ones are not read twice."""
_TEXT = 0.9
"""Share of lines that are no JSON, above which a file is some text, and no list of runs."""
_LEAST_STEPS = 1 / 3
"""Share of its own ITL below which a TTFT is none: a prompt takes about one step or more."""


def read(path: Path) -> list[Row]:
    """Rows of one file, of which at least one is usable.

    Raises:
        InputError: names the file, and the line or the field.

    """
    rows = _parsed(path)
    _refuse_unusable(rows)
    return rows


def read_all(paths: Sequence[Path]) -> list[Row]:
    """Rows of all files, of which at least one is usable.

    vLLM writes a file for each run, so a file that has no usable run, or is cut off, costs itself only: its
    rows have their reasons.

    Raises:
        InputError: a file cannot be opened, or none has a usable row; names the file.

    """
    rows = []
    for path in paths:
        try:
            rows.extend(_parsed(path))
        except InputError as error:
            if len(paths) == 1 or not path.is_file():
                raise
            problem = str(error).removeprefix(f"{path}: ")
            rows.append(Row(place=str(path), problem=problem))
    _refuse_unusable(rows)
    return rows


def _parsed(path: Path) -> list[Row]:
    """Rows of one file, usable or not; at least one."""
    text = files.read_text(path)
    if not text.strip("\0 \t\r\n"):
        raise InputError(f"{path}: is empty; {_EXPECTED}")
    _refuse_plain_value(path, text)
    lines = text.lstrip().splitlines()
    objects = any(line.lstrip().startswith("{") for line in lines)
    printed = unsupported.printed(text)
    if printed and not objects:
        raise InputError(f"{path}: {printed}")
    document = _yaml(path, text) if _is_yaml(path, text) else ""
    # A name that says YAML may hold a CSV, which YAML reads as one text.
    if not isinstance(document, str):
        raw_rows = _runs(str(path), document)
    else:
        raw_rows = _json(path, text) if objects or text.lstrip()[:1] == "[" else _csv(path, text)
    rows = [_checked(row) for row in raw_rows]
    if not rows:
        raise InputError(f"{path}: no rows; {_EXPECTED}")
    return rows


def _is_yaml(path: Path, text: str) -> bool:
    """Whether the text is YAML: guidellm and inference-perf write reports in it too."""
    if text.lstrip()[:1] in {"{", "["}:
        return False
    first = next((line for line in text.splitlines() if line.strip() and line[0] != "#"), "")
    return (
        path.suffix.lower() in _YAML or re.fullmatch(r"---|\w+:(?: [^,;\t]*)?", first) is not None
    )


def _yaml(path: Path, text: str) -> Any:
    try:
        return parse_file(text)
    except DocumentError as error:
        raise InputError(f"{path}: {error}; {_EXPECTED}") from error


def _refuse_plain_value(path: Path, text: str) -> None:
    """Refuse a file that is JSON, but holds no run: `null`, `3` or an empty list."""
    if len(text) > _LONGEST_VALUE:
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    if value == []:
        raise InputError(f"{path}: is an empty list, so it has no rows; {_EXPECTED}")
    if not isinstance(value, (dict, list)):
        raise InputError(f"{path}: must be a JSON object or a list of them, not {text.strip():.40}")


def _refuse_unusable(rows: Sequence[Row]) -> None:
    if not all(row.problem for row in rows):
        return
    reasons = alike((row.place, row.problem) for row in rows)
    if len(reasons) > _MOST_REASONS:
        reasons[_MOST_REASONS:] = [f"and {len(reasons) - _MOST_REASONS} more reasons"]
    if len(rows) > 1:
        reasons.insert(0, f"none of {len(rows)} rows is usable:")
    raise InputError("\n  ".join(reasons))


def _checked(row: Row) -> Row:
    """The row, with a problem where a number cannot be that of a run."""
    if row.problem:
        return row
    for name in ("batch", "itl_ms"):
        value = getattr(row, name)
        if value <= 0:
            return replace(row, problem=f"{name}: must be a number > 0, not {value:g}")
    for name in ("batch", "itl_ms", "ttft_ms", "input_tokens", "output_tokens"):
        value = getattr(row, name)
        if value > _LARGEST or 0 < value < 1 / _LARGEST:
            return replace(row, problem=f"{name}: {value:g} is beyond all measure")
        if value > _MOST.get(name, _LARGEST):
            text = f"{name}: must be a number <= {_MOST[name]:g}, not {value:g}"
            return replace(row, problem=text)
    if row.output_tokens < 1:
        text = f"output_tokens: must be a number >= 1, not {row.output_tokens:g}"
        return replace(row, problem=text)
    return _halved(row)


def _halved(row: Row) -> Row:
    """The row, with a note where it has one of the two latencies only, or a problem where it has none."""
    if math.isnan(row.itl_ms):
        if not row.ttft_ms > 0:
            return replace(row, problem="itl_ms: is missing")
        return replace(row, note=row.note or "itl_ms: is missing; only TTFT is used")
    if row.ttft_ms <= 0:
        return replace(row, ttft_ms=math.nan, note=NO_TTFT)
    if row.ttft_ms < _LEAST_STEPS * row.itl_ms:
        note = (
            f"ttft_ms: {row.ttft_ms:g} is below the time of a step (itl_ms {row.itl_ms:g}), so it is not"
            " used; both must be in ms, or the column of one in seconds be named ttft_s"
        )
        return replace(row, ttft_ms=math.nan, note=note)
    return row


def _csv(path: Path, text: str) -> Iterator[Row]:
    whole = text.replace("\0", "").splitlines()
    start = next((at for at, line in enumerate(whole) if line.strip() and line[0] != "#"), 0)
    delimiter = max(",;\t", key=whole[start].count)
    lines = list(csv.reader(whole[start:], delimiter=delimiter))
    known = guidellm.guidellm_csv(lines, str(path))
    if known is not None:
        return known
    other = unsupported.kind_of_table(lines[0] if lines else ())
    if other:
        raise InputError(f"{path}: {other}")
    if lines and len(lines[0]) == 1 and lines[0][0].strip().lower() not in _NAMES:
        raise InputError(f"{path}: is neither JSON nor YAML nor CSV; {_EXPECTED}")
    if lines and vllm.is_vllm(dict.fromkeys(lines[0])) and "completed" in lines[0]:
        return _vllm_sweep(path, lines, start)
    return plain.plain(path, lines, start)


def _vllm_sweep(path: Path, lines: list[list[str]], start: int) -> Iterator[Row]:
    plain.refuse_repeated(path, lines[0], lines[0], start)
    for number, cells in enumerate(lines[1:], start=start + 2):
        if not any(cell.strip() for cell in cells):
            continue
        document = {
            name: cell.strip()
            for name, cell in zip(lines[0], cells, strict=False)
            if cell.strip() and cell.strip().lower() not in ABSENT
        }
        yield vllm.vllm(document, f"{path}:{number}")


def _json(path: Path, text: str) -> Iterator[Row]:
    for place, document in _documents(path, text):
        yield from [document] if isinstance(document, Row) else _runs(place, document)


_COLLECTIONS = ("benchmarks", "results", "runs", "data")


def _runs(place: str, document: Any) -> Iterator[Row]:
    """Runs of a document, which may be a run, a list of documents or a report that holds one."""
    if isinstance(document, list):
        if not document:
            yield Row(place=place, problem="must be a JSON object, not an empty list")
        for number, inner in enumerate(document):
            yield from _runs(f"{place}[{number}]", inner)
    elif not isinstance(document, dict):
        yield Row(place=place, problem="must be a JSON object")
    elif vllm.is_vllm(document):
        yield vllm.vllm(document, place)
    elif genai_perf.is_genai_perf(document):
        yield genai_perf.genai_perf(document, place)
    elif inference_perf.is_inference_perf(document):
        yield inference_perf.inference_perf(document, place)
    elif other := unsupported.kind(document):
        yield Row(place=place, problem=other)
    elif "metrics" in document:
        yield guidellm.guidellm(document, place)
    else:
        yield from _report(place, document)


def _report(place: str, document: dict[str, Any]) -> Iterator[Row]:
    """Runs in the list of a report."""
    name = next((name for name in _COLLECTIONS if name in document), None)
    if name is None:
        known = (
            "neither guidellm (benchmarks) nor vLLM or SGLang (mean_ttft_ms) nor GenAI-Perf nor"
            " inference-perf; give the result file of one of them, or a CSV with columns batch, itl_ms,"
            " input_tokens, output_tokens and ttft_ms"
        )
        yield Row(place=place, problem=known)
        return
    runs = document[name]
    if not isinstance(runs, list):
        yield Row(place=place, problem=f"{name}: must be a list")
    elif not runs:
        yield Row(place=place, problem=f"{name}: is empty")
    else:
        for number, inner in enumerate(runs):
            inside = f"{place}: {name}[{number}]"
            tool = isinstance(inner, dict) and "metrics" not in inner and vllm.is_vllm(inner)
            if name == "benchmarks" and not tool and not isinstance(inner, list):
                yield guidellm.guidellm(inner, inside)
            else:
                yield from _runs(inside, inner)


def _documents(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Place and object of each run; a Row for a line that is cut off."""
    try:
        whole = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{path}: {files.not_json(error)}") from error
    except ValueError as error:
        whole_error = files.not_json(error)
        # vLLM and SGLang append one object a line to the same file.
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise InputError(f"{path}: {whole_error}") from error
        pretty = _concatenated(text)
        if pretty:
            yield from ((f"{path}[{number}]", document) for number, document in enumerate(pretty))
            return
    else:
        documents = whole if isinstance(whole, list) else [whole]
        for number, document in enumerate(documents):
            yield (f"{path}[{number}]" if len(documents) > 1 else str(path)), document
        return
    parsed = [_line(line, f"{path}[{number}]") for number, line in enumerate(lines)]
    if sum(isinstance(document, Row) for document in parsed) > _TEXT * len(parsed):
        # No list of runs: what is wrong is said once, and not for each line.
        other = unsupported.printed(text) or f"{whole_error}; {_EXPECTED}"
        raise InputError(f"{path}: {other}")
    yield from ((f"{path}[{number}]", document) for number, document in enumerate(parsed))


def _line(line: str, place: str) -> Any:
    """What a line holds; a Row with the reason where it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row(place=place, problem=files.not_json(error))


def _concatenated(text: str) -> list[Any]:
    """Objects that follow each other, each over any number of lines; empty where something else does."""
    decoder, documents, start = json.JSONDecoder(), [], 0
    while start < len(text):
        rest = re.match(r"[\s,]*", text[start:])
        start += rest.end() if rest else 0
        if start >= len(text):
            break
        try:
            document, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return []
        documents.append(document)
    return documents
