"""Readers for public traces of LLM traffic, plain or gzipped.

| format | row of a request | origin on github.com |
| --- | --- | --- |
| azure | CSV `TIMESTAMP,ContextTokens,GeneratedTokens`; date and time | Azure/AzurePublicDataset |
| burstgpt | CSV `Timestamp,...,Request tokens,Response tokens,...`; seconds | HPMLL/BurstGPT |
| mooncake | JSON `timestamp`, `input_length`, `output_length`, `hash_ids`; ms | kvcache-ai/Mooncake |
| bailian | the same with `chat_id`; seconds | alibaba-edu/qwen-bailian-usagetraces-anon |
| servegen | files of clients, see `emulator.servegen` | alibaba/ServeGen |

The two kinds of JSON lines are told apart by their fields, never by the size of a number: a file that has
neither `chat_id` nor `hash_ids` does not say its unit, and is refused unless the format is given.

Columns are found by name: releases of BurstGPT differ in theirs. A request without a generated token is a
failure (as documented for BurstGPT): it is left out and counted in `Trace.skipped`. Wrong lines are left out
too and named in `Trace.left_out`, up to one in a hundred and at least one; more are an error.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import math
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from emulator import servegen
from emulator.trace_lines import Lines, LongLineError, also, bounded, not_json, shown
from emulator.trace_selection import Selection
from emulator.traces import Trace, TraceError

Format = Literal["azure", "burstgpt", "mooncake", "bailian"]
Row = tuple[int, Mapping[str, Any] | TraceError]
"""Line number of one row, and its fields by name or what is wrong with it."""
_NAMED_LINES = 5
_LINES_PER_WRONG_LINE = 100


@dataclass(frozen=True, slots=True)
class _Form:
    """Fields of a format.

    Attributes:
        time: Name of the field with the arrival.
        input: Name of the field with the prompt tokens.
        output: Name of the field with the generated tokens.
        seconds: Converts the arrival to seconds, or raises TypeError or ValueError.
        time_is: Description of a valid arrival, for errors.

    """

    time: str
    input: str
    output: str
    seconds: Callable[[Any], float]
    time_is: str


def _date(text: Any) -> float:
    """Seconds of `2023-11-16 18:15:46.6805900`, to the microsecond; without a zone it is UTC."""
    when = datetime.fromisoformat(text)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    since = when - datetime(2020, 1, 1, tzinfo=UTC)
    return since.days * 86400.0 + since.seconds + since.microseconds / 1e6


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


_FORMS: Mapping[str, _Form] = {
    "azure": _Form(
        "TIMESTAMP", "ContextTokens", "GeneratedTokens", _date, "a time like 2023-11-16 18:15:46.68"
    ),
    "burstgpt": _Form(
        "Timestamp", "Request tokens", "Response tokens", _number, "a number of seconds"
    ),
    "mooncake": _Form(
        "timestamp", "input_length", "output_length", lambda v: _number(v) / 1000, "a number of ms"
    ),
    "bailian": _Form("timestamp", "input_length", "output_length", _number, "a number of seconds"),
}
_JSON_FORMS = frozenset({"mooncake", "bailian"})
_BAILIAN_FIELD, _MOONCAKE_FIELD = "chat_id", "hash_ids"


def read(
    path: Path | str,
    *,
    format: Format | None = None,  # noqa: A002 - the common name of the argument
    selection: Selection = Selection(),  # noqa: B008 - immutable
) -> Trace:
    """Read the requests of a trace file in order of arrival; the first, or the selected time, begins at 0.

    Args:
        path: Trace file, plain or gzipped (detected by its first bytes).
        format: Format of the file; None to detect it by the header.
        selection: Part of the trace to return, and factor on its rate.

    Raises:
        TraceError: The file is wrong; the message names the file, the line, the field and the fix.

    """
    path = Path(path)
    if format is None and (path.is_dir() or servegen.is_client(path)):
        return servegen.read(path, selection)
    return selection.of(_read(path, format))


def _read(path: Path, format: Format | None) -> Trace:  # noqa: A002 - see `read`
    """All of a trace file."""
    try:
        with _text(path) as file:
            first, rest = _peek(bounded(file))
            kind = _detect(path, first) if format is None else _known(path, format)
            trace = _trace(path, _FORMS[kind], _rows(path, kind, rest))
            if format is None and (doubt := _doubt(trace, kind)):
                raise TraceError(f"{path}: {_FORMS[kind].time}: {doubt}")
            return trace
    except LongLineError as error:
        raise TraceError(f"{path}:{error.number}: {error}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: no text: it is not UTF-8; is it a trace file?") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


_FEW_REQUESTS = 50
_MOST_PER_SECOND, _LEAST_PER_SECOND = 100.0, 0.1 / 60.0
"""Mean rates beyond which a trace's times may be in another unit, unless the format is said."""

_SHORT_SECONDS = 600.0
"""Duration of a trace that may be a week of seconds, taken for milliseconds."""

_IN_MS = frozenset({"mooncake"})
_IN_SECONDS = frozenset({"bailian", "burstgpt"})
"""Formats whose times are numbers."""


def _doubt(trace: Trace, kind: str) -> str:
    """Why the unit of a detected format may not be that of the file; empty where nothing speaks against it.

    Converters keep the fields of a format and not its unit: 600 requests in 20 minutes become one second.
    """
    number, seconds = len(trace.arrival_seconds), trace.duration_seconds
    if number < _FEW_REQUESTS or seconds <= 0:
        return ""
    rate = number / seconds
    if kind in _IN_MS and rate > _MOST_PER_SECOND and seconds < _SHORT_SECONDS:
        other, said = "seconds", "mooncake (ms) or bailian (seconds)"
    elif kind in _IN_SECONDS and rate < _LEAST_PER_SECOND:
        other = "milliseconds"
        said = (
            "bailian (seconds) or mooncake (ms)"
            if kind in _JSON_FORMS
            else f"{kind} if these are seconds, or divide the column by 1000"
        )
    else:
        return ""
    return (
        f"{number} requests in {seconds:.4g} s, {60.0 * rate:.6g} a minute, if its unit is that of {kind};"
        f" is it in {other}? Say which with --trace-format {said}"
    )


def _text(path: Path) -> TextIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _peek(lines: Iterable[str]) -> tuple[str, Iterator[str]]:
    """The first line that is not blank, and an iterator over all lines."""
    iterator = iter(lines)
    read_lines = []
    for line in iterator:
        read_lines.append(line)
        if line.strip():
            break
    return (read_lines[-1].strip() if read_lines else ""), itertools.chain(read_lines, iterator)


def _known(path: Path, name: str) -> str:
    if name not in _FORMS:
        raise TraceError(f"{path}: format: must be one of {', '.join(_FORMS)}, not {name!r}")
    return name


def _detect(path: Path, first: str) -> str:
    header = {column.strip().strip('"') for column in first.split(",")}
    for name, form in _FORMS.items():
        if {form.time, form.input, form.output} <= header and name not in _JSON_FORMS:
            return name
    if first.startswith("{"):
        return _detect_json(path, first)
    if not first:
        raise TraceError(f"{path}: is empty; a trace has one request a line")
    raise TraceError(
        f"{path}:1: header: {first[:80]!r} is none of azure (TIMESTAMP,ContextTokens,GeneratedTokens),"
        " burstgpt (Timestamp,Model,Request tokens,Response tokens,...), mooncake and bailian (JSON lines);"
        " put the header line back or convert the file"
    )


def _detect_json(path: Path, first: str) -> str:
    """Format of JSON lines by the fields of the first one; TraceError where they do not say the unit."""
    try:
        row = json.loads(first)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}:1: {not_json(error)}; one object a line") from error
    names = set(row) if isinstance(row, dict) else set()
    if _BAILIAN_FIELD in names:
        return "bailian"
    if _MOONCAKE_FIELD in names:
        return "mooncake"
    raise TraceError(
        f"{path}:1: timestamp: its unit cannot be told: there is neither {_BAILIAN_FIELD} (bailian, seconds)"
        f" nor {_MOONCAKE_FIELD} (mooncake, ms) beside it; say which with --trace-format bailian or mooncake"
    )


def _rows(path: Path, kind: str, lines: Iterator[str]) -> Iterator[Row]:
    if kind in _JSON_FORMS:
        return _json_rows(path, lines)
    return _csv_rows(path, lines, _FORMS[kind])


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, TraceError(f"{path}:{number}: {not_json(error)}; one object a line")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problem = f"{path}:{number}: must be a JSON object, not {line.strip()[:80]!r}"
            yield number, TraceError(problem)


def _csv_rows(path: Path, lines: Iterator[str], form: _Form) -> Iterator[Row]:
    reader = csv.reader(lines)
    try:
        header = [column.strip() for column in next((row for row in reader if row), [])]
        for name in (form.time, form.input, form.output):
            if name not in header:
                raise TraceError(
                    f"{path}:1: {name}: no such column; the header has {shown(header)}"
                )
            if header.count(name) > 1:
                raise TraceError(f"{path}:1: {name}: the header has this column twice; delete one")
        for row in reader:
            if row:
                yield reader.line_num, dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise TraceError(f"{path}:{reader.line_num}: not CSV: {error}; correct the line") from error


def _trace(path: Path, form: _Form, rows: Iterator[Row]) -> Trace:
    # Arrays: a week of traffic has tens of millions of rows.
    times, inputs, generated, numbers = array("d"), array("l"), array("l"), array("l")
    skipped, wrong = 0, _WrongLines(path)
    for number, row in rows:
        try:
            request = _request(f"{path}:{number}", row, form)
        except TraceError as error:
            wrong.add(error)
            continue
        if request is None:
            skipped += 1
            continue
        times.append(request[0])
        inputs.append(request[1])
        generated.append(request[2])
        numbers.append(number)
    left_out = wrong.left_out(good=len(times) + skipped)
    if not times:
        if not skipped and not left_out:
            raise TraceError(f"{path}: has a header and no request; a trace has one request a line")
        raise TraceError(
            f"{path}: no request with generated tokens in it ({skipped} skipped){also(left_out)}"
        )
    seconds = np.array(times, dtype=np.float64)
    order = np.argsort(seconds, kind="stable")
    seconds = seconds[order] - seconds[order[0]]
    return Trace(
        arrival_seconds=seconds,
        input_tokens=np.array(inputs, dtype=np.int64)[order],
        output_tokens=np.array(generated, dtype=np.int64)[order],
        duration_seconds=float(seconds[-1]),
        name=path.name,
        skipped=skipped,
        lines=Lines(str(path), np.array(numbers, dtype=np.int64)[order]),
        left_out=left_out,
    )


class _WrongLines:
    """Lines that cannot be read: how many, and the first of them with their reasons."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._first: list[str] = []

    def add(self, error: TraceError) -> None:
        self._count += 1
        if self._count <= _NAMED_LINES:
            self._first.append(str(error))

    def left_out(self, *, good: int) -> tuple[str, ...]:
        """What is left out, the first lines by name; TraceError where these are too many."""
        more = self._count - len(self._first)
        if good and self._count <= max(1, (good + self._count) // _LINES_PER_WRONG_LINE):
            return (*self._first, *([f"{self._path}: {more} more lines"] if more else []))
        if self._count <= 1:
            if self._first:
                raise TraceError(self._first[0])
            return ()
        named = "; ".join([*self._first, *([f"and {more} more"] if more else [])])
        raise TraceError(
            f"{self._path}: {self._count} of {good + self._count} lines are wrong, more than 1 %: {named}"
        )


def _request(
    where: str, row: Mapping[str, Any] | TraceError, form: _Form
) -> tuple[float, int, int] | None:
    """Arrival, prompt and generated tokens of a row; None where nothing was generated."""
    if isinstance(row, TraceError):
        raise row
    outputs = _count(where, row, form.output)
    if outputs == 0:
        return None
    return _time(where, row, form), _count(where, row, form.input), outputs


def _value(where: str, row: Mapping[str, Any], name: str) -> Any:
    if (value := row.get(name)) is None:
        raise TraceError(f"{where}: {name}: missing; complete or delete the line")
    return value


def _count(where: str, row: Mapping[str, Any], name: str) -> int:
    value = _value(where, row, name)
    try:
        number = _number(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0 <= number < 2**31 or number != int(number):
        raise TraceError(
            f"{where}: {name}: must be a whole number >= 0, not {shown(value)}; correct or delete the line"
        )
    return int(number)


def _time(where: str, row: Mapping[str, Any], form: _Form) -> float:
    value = _value(where, row, form.time)
    try:
        return form.seconds(value)
    except (TypeError, ValueError, OverflowError):
        raise TraceError(
            f"{where}: {form.time}: must be {form.time_is}, not {shown(value)}; correct or delete the line"
        ) from None
