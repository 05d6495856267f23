"""Traffic from the clients of ServeGen (github.com/alibaba/ServeGen): what each one sent, window by window.

A client is a pair of files. `chunk-N-trace.csv` has a row per window of time:

    start in seconds, requests per second, coefficient of variation, Gamma or Weibull, shape, scale

and `chunk-N-dataset.json` has the distributions of `input_tokens` and `output_tokens` by the second from
which they hold, each as the text of a mapping from a number of tokens to its probability. Requests are drawn
as the project does: as many gaps from the window's distribution as it has requests, scaled to fill the
window; prompt and answer are drawn independently. Equal files give equal traces.
"""

from __future__ import annotations

import csv
import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.traces import MAX_TOKENS, Trace, TraceError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CLIENT = re.compile(r"chunk-(\d+)-trace\.csv")
_PAIR = re.compile(r"(\d+)\s*:\s*([0-9.eE+-]+)")
_FIELDS = ("input_tokens", "output_tokens")
_SEED = 2026


@dataclass(frozen=True, slots=True)
class _Window:
    """A client's arrivals in one window: start in seconds, rate per second, and the gaps' distribution."""

    start: float
    rate: float
    kind: str
    shape: float


def is_client(path: Path) -> bool:
    """Whether the file has the name of a client's windows."""
    return _CLIENT.fullmatch(path.name) is not None


def has_clients(folder: Path) -> bool:
    """Whether the folder has clients in it."""
    return folder.is_dir() and any(is_client(path) for path in folder.iterdir())


def read(path: Path) -> Trace:
    """Requests of one client (`chunk-N-trace.csv`), or of all clients of a folder.

    Raises:
        TraceError: A file is missing or wrong; the message names it, the field and the fix.

    """
    if path.is_dir():
        clients = sorted(filter(is_client, path.iterdir()), key=_number)
        if not clients:
            raise TraceError(
                f"{path}: cannot be read: a folder without chunk-N-trace.csv; name a trace file,"
                " or a folder of ServeGen's clients"
            )
    else:
        clients = [path]
    parts = [_requests(client) for client in clients]
    arrivals, inputs, outputs = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(arrivals):
        raise TraceError(f"{path}: no request in it: all rates are 0")
    order = np.argsort(arrivals, kind="stable")
    seconds = arrivals[order] - arrivals[order[0]]
    return Trace(
        arrival_seconds=seconds,
        input_tokens=inputs[order],
        output_tokens=outputs[order],
        duration_seconds=float(seconds[-1]),
        name=path.name,
    )


def _number(path: Path) -> int:
    matched = _CLIENT.fullmatch(path.name)
    return int(matched[1]) if matched else 0


def _requests(path: Path) -> tuple[FloatArray, IntArray, IntArray]:
    """Arrivals, prompt and generated tokens of one client, window after window."""
    windows = _windows(path)
    dataset = path.with_name(path.name.replace("-trace.csv", "-dataset.json"))
    lengths = _lengths(dataset) if any(item.rate > 0 for item in windows) else {}
    starts = sorted(lengths)
    rng = np.random.default_rng([_SEED, _number(path)])
    width = windows[1].start - windows[0].start if len(windows) > 1 else 600.0
    arrivals, tokens = [np.empty(0)], [np.empty((2, 0), dtype=np.int64)]
    for window in windows:
        count = math.ceil(window.rate * width) if window.rate > 0 else 0
        if not count:
            continue
        gaps = _gaps(rng, window, count)
        ends = np.cumsum(gaps)
        arrivals.append(window.start + ends * (width / ends[-1]) - gaps[0] * (width / ends[-1]))
        since = starts[max(bisect_right(starts, window.start) - 1, 0)]
        tokens.append(np.stack([rng.choice(of, count, p=chance) for of, chance in lengths[since]]))
    columns = np.concatenate(tokens, axis=1)
    return np.concatenate(arrivals), columns[0], np.maximum(columns[1], 1)


def _gaps(rng: np.random.Generator, window: _Window, count: int) -> FloatArray:
    gaps = (
        rng.gamma(window.shape, 1.0, count)
        if window.kind == "Gamma"
        else rng.weibull(window.shape, count)
    )
    return np.maximum(gaps, 1e-12)


def _windows(path: Path) -> list[_Window]:
    windows: list[_Window] = []
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        where = f"{path}:{number}"
        try:
            start, rate, _, kind, shape, _ = row
            window = _Window(float(start), float(rate), kind, float(shape))
        except ValueError as error:
            raise TraceError(
                f"{where}: must be start, rate, cv, pattern, shape and scale, not {','.join(row)[:80]!r}"
            ) from error
        if not (0 <= window.start < math.inf and 0 <= window.rate < math.inf):
            raise TraceError(f"{where}: start and rate: must be >= 0 and finite; correct the line")
        if window.rate > 0 and not (kind in {"Gamma", "Weibull"} and 0 < window.shape < math.inf):
            raise TraceError(
                f"{where}: pattern: must be Gamma or Weibull with a shape > 0, not {kind!r}"
            )
        if windows and window.start <= windows[-1].start:
            raise TraceError(f"{where}: start: must ascend; sort the lines")
        windows.append(window)
    if not windows:
        raise TraceError(f"{path}: is empty; a client has one window a line")
    return windows


def _lengths(path: Path) -> Mapping[float, list[tuple[IntArray, FloatArray]]]:
    """Tokens and their probabilities of prompts and answers, by the second from which they hold."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise TraceError(f"{path}: must be a JSON object of distributions by their second")
    # A window without requests has no distributions.
    distributions = {
        _second(path, start): [_pdf(path, start, fields, name) for name in _FIELDS]
        for start, fields in document.items()
        if isinstance(fields, dict) and all(fields.get(name) for name in _FIELDS)
    }
    distributions = {
        start: pdfs for start, pdfs in distributions.items() if all(len(t) for t, _ in pdfs)
    }
    if not distributions:
        raise TraceError(f"{path}: has no {' and '.join(_FIELDS)}")
    return distributions


def _second(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise TraceError(f"{path}: {text[:40]!r}: must be a number of seconds") from error


def _pdf(
    path: Path, start: str, fields: Mapping[str, Any], name: str
) -> tuple[IntArray, FloatArray]:
    pairs = _PAIR.findall(str(fields[name]))
    try:
        tokens = np.array([int(number) for number, _ in pairs], dtype=np.int64)
        chances = np.array([float(chance) for _, chance in pairs])
    except (ValueError, OverflowError) as error:
        raise TraceError(f"{path}: {start}.{name}: {error}") from error
    if len(pairs) and not (
        (chances >= 0).all() and chances.sum() > 0 and tokens.max() <= MAX_TOKENS
    ):
        raise TraceError(f"{path}: {start}.{name}: must have probabilities >= 0 and some > 0")
    return tokens, chances / chances.sum() if len(pairs) else chances
