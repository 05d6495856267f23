"""Traffic from the clients of ServeGen (github.com/alibaba/ServeGen): what each one sent, window by window.

A client is a pair of files. `chunk-N-trace.csv` has a row per window of time, without a header:

    start in seconds, requests per second, coefficient of variation, Gamma or Weibull, shape, scale

and a window without requests has `0,0,,0,0` after its start. `chunk-N-dataset.json` has by the second from
which they hold the distributions of tokens, each as the text of a mapping from a number to its probability;
`{}` where nothing was sent. `output_tokens` are all tokens of an answer, those of reasoning too. A prompt is
`input_tokens`, or `text_tokens` and for each image, audio and video (as many as `image_count` says)
`image_tokens`.

Requests are drawn as the project does: as many gaps from the window's distribution as it has requests, scaled
to fill the window. Two things differ. The project begins every client's gaps with its window, so that all
clients send at once every ten minutes: here each begins at a random place of its gaps. And it draws all
tokens of a request from one random number, so that the longest prompt has the longest answer: here they are
independent. Equal files give equal traces, and the requests of a window do not depend on which other windows
are read.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.trace_lines import not_json, whole
from emulator.trace_selection import Selection
from emulator.traces import MAX_REQUESTS, MAX_TOKENS, Trace, TraceError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Pdf = tuple[IntArray, FloatArray]
"""Numbers, ascending or not, and the probability of each; empty where nothing was sent."""

_CLIENT = re.compile(r"chunk-(\d+)-trace\.csv")
_ATTACHED = ("image", "audio", "video")
_SEED = 2026
_LAST_WIDTH = 600.0
"""Duration in seconds of a client's only window."""
_NAMED_CLIENTS = 5


@dataclass(frozen=True, slots=True)
class _Window:
    """A client's arrivals in one window of time.

    Attributes:
        start: Start in seconds of the files' clock.
        end: End in seconds, the start of the next one.
        rate: Requests per second.
        kind: Distribution of the gaps, Gamma or Weibull; empty without requests.
        shape: Its shape.

    """

    start: float
    end: float
    rate: float
    kind: str
    shape: float

    @property
    def requests(self) -> float:
        """Number of requests, a whole one up to rounding."""
        return round(self.rate * (self.end - self.start), 6)


@dataclass(frozen=True, slots=True)
class _Client:
    """Windows of a client that have requests."""

    path: Path
    number: int
    windows: Sequence[_Window]

    @property
    def dataset(self) -> Path:
        return self.path.with_name(self.path.name.replace("-trace.csv", "-dataset.json"))

    @property
    def requests(self) -> float:
        return sum(window.requests for window in self.windows)


def is_client(path: Path) -> bool:
    """Whether the file has the name of a client's windows."""
    return _CLIENT.fullmatch(path.name) is not None


def has_clients(folder: Path) -> bool:
    """Whether the folder has clients in it."""
    return folder.is_dir() and any(is_client(path) for path in folder.iterdir())


def read(path: Path, selection: Selection = Selection()) -> Trace:  # noqa: B008 - immutable
    """Requests of one client (`chunk-N-trace.csv`), or of all clients of a folder.

    Only the selected time is drawn, and of a scale below 1 only what it keeps. The trace begins with the
    first window that has requests. In a folder, clients without a dataset are left out and named in
    `Trace.left_out`.

    Raises:
        TraceError: A file is missing or wrong, or the selection has no request or too many; the message
            names it, the field and the fix.

    """
    clients = list(_clients(path))
    sending = [client for client in clients if client.windows]
    if not sending:
        raise TraceError(f"{path}: no request in it: all rates are 0")
    left_out: list[str] = []
    if path.is_dir():
        sending, left_out = _complete(path, sending)
    begin = min(client.windows[0].start for client in sending)
    end = max(client.windows[-1].end for client in sending)
    chosen = Selection(
        scale=selection.scale, start=begin + selection.start, end=begin + selection.end
    )
    _check_number(path, sending, chosen)
    kept = min(selection.scale, 1.0)
    parts = [_requests(client, chosen, kept) for client in sending]
    arrivals, inputs, outputs = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(arrivals):
        _raise_empty(path, selection, sum(client.requests for client in sending), end - begin)
    order = np.argsort(arrivals, kind="stable")
    trace = Trace(
        arrival_seconds=arrivals[order] - begin,
        input_tokens=inputs[order],
        output_tokens=outputs[order],
        duration_seconds=end - begin,
        name=path.name,
        left_out=tuple(left_out),
    )
    rest = Selection(scale=selection.scale / kept, start=selection.start, end=selection.end)
    return rest.of(trace)


def _clients(path: Path) -> Iterator[_Client]:
    files = sorted(filter(is_client, path.iterdir()), key=_number) if path.is_dir() else [path]
    if not files:
        raise TraceError(
            f"{path}: cannot be read: a folder without chunk-N-trace.csv; name a trace file,"
            " or a folder of ServeGen's clients"
        )
    for file in files:
        yield _Client(file, _number(file), _windows(file))


def _number(path: Path) -> int:
    matched = _CLIENT.fullmatch(path.name)
    return int(matched[1]) if matched else 0


def _complete(folder: Path, clients: Sequence[_Client]) -> tuple[list[_Client], list[str]]:
    """The clients with a dataset, and what is left out; TraceError where none has one."""
    complete = [client for client in clients if client.dataset.is_file()]
    missing = [client for client in clients if not client.dataset.is_file()]
    missing.sort(key=lambda client: -client.requests)
    if not complete:
        raise TraceError(
            f"{missing[0].dataset}: no such file, as for every client of {folder}; a client is two files"
        )
    total = sum(client.requests for client in clients)
    left_out = [
        f"{client.dataset}: no such file; its client has {client.requests / total:.2%} of the requests"
        for client in missing[:_NAMED_CLIENTS]
    ]
    if rest := missing[_NAMED_CLIENTS:]:
        share = sum(client.requests for client in rest) / total
        left_out.append(f"{folder}: {len(rest)} more clients without a dataset, {share:.2%}")
    return complete, left_out


def _check_number(path: Path, clients: Sequence[_Client], chosen: Selection) -> None:
    """Raise TraceError where the selection has more requests than a trace may have."""
    expected = chosen.scale * sum(
        window.rate * max(min(window.end, chosen.end) - max(window.start, chosen.start), 0.0)
        for client in clients
        for window in client.windows
    )
    if expected > MAX_REQUESTS:
        raise TraceError(
            f"{path}: {expected:,.0f} requests, more than {MAX_REQUESTS:,}; choose a part of the time"
            " (--from, --to), or a share of the requests (--scale)"
        )


def _raise_empty(path: Path, selection: Selection, number: float, seconds: float) -> None:
    until = "the end" if selection.end == math.inf else f"{selection.end:g} s"
    share = f" at {selection.scale:g} of its rate" if selection.scale < 1 else ""
    raise TraceError(
        f"{path.name}: has no request from {selection.start:g} s to {until}{share}; it has {number:.0f} in"
        f" {seconds:g} s"
    )


def _requests(
    client: _Client, chosen: Selection, kept: float
) -> tuple[FloatArray, IntArray, IntArray]:
    """Arrivals, prompt and generated tokens of one client, window after window."""
    arrivals = [np.empty(0)]
    inputs, outputs = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    lengths: _Lengths | None = None
    for window in client.windows:
        if window.end <= chosen.start or window.start >= chosen.end:
            continue
        rng = np.random.default_rng([_SEED, client.number, int(window.start)])
        at = _arrivals(rng, window)
        inside = (at >= chosen.start) & (at < chosen.end)
        if kept < 1:
            inside &= rng.random(len(at)) < kept
        at = at[inside]
        if not len(at):
            continue
        lengths = lengths or _Lengths(client.dataset)
        prompt, answer = lengths.drawn(rng, window.start, len(at))
        arrivals.append(at)
        inputs.append(prompt)
        outputs.append(answer)
    return np.concatenate(arrivals), np.concatenate(inputs), np.concatenate(outputs)


def _arrivals(rng: np.random.Generator, window: _Window) -> FloatArray:
    """Arrivals of one window, as many as it has requests, from a random place of their cycle of gaps."""
    count = math.floor(window.requests + rng.random())
    if not count:
        return np.empty(0)
    draw = (
        rng.gamma(window.shape, 1.0, count)
        if window.kind == "Gamma"
        else rng.weibull(window.shape, count)
    )
    reached = np.cumsum(np.maximum(draw, 1e-12))
    places = np.sort((reached / reached[-1] + rng.random()) % 1.0)
    return window.start + (window.end - window.start) * np.asarray(places, dtype=np.float64)


def _windows(path: Path) -> list[_Window]:
    """The windows of a file that have requests."""
    starts: list[float] = []
    rows: list[tuple[float, str, float]] = []
    try:
        lines = list(csv.reader(whole(path).splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    for number, row in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            start_text, rate_text, _, kind, shape_text, _ = row
            start, rate, shape = float(start_text), float(rate_text), float(shape_text)
        except ValueError as error:
            raise TraceError(
                f"{where}: must be start, rate, cv, pattern, shape and scale, not {','.join(row)[:80]!r}"
            ) from error
        if not (0 <= start < math.inf and 0 <= rate < math.inf):
            raise TraceError(f"{where}: start and rate: must be >= 0 and finite; correct the line")
        if rate > 0 and not (kind in {"Gamma", "Weibull"} and 0 < shape < math.inf):
            raise TraceError(
                f"{where}: pattern: must be Gamma or Weibull with a shape > 0, not {kind!r}"
            )
        if starts and start <= starts[-1]:
            raise TraceError(f"{where}: start: must ascend; sort the lines")
        starts.append(start)
        rows.append((rate, kind, shape))
    if not rows:
        raise TraceError(f"{path}: is empty; a client has one window a line")
    width = starts[-1] - starts[-2] if len(starts) > 1 else _LAST_WIDTH
    ends = [*starts[1:], starts[-1] + width]
    return [
        _Window(start, end, *row)
        for start, end, row in zip(starts, ends, rows, strict=True)
        if row[0] > 0
    ]


class _Lengths:
    """Tokens of prompts and answers of a client, by the second from which their distributions hold.

    Args:
        path: The client's dataset. Distributions are parsed when they are drawn from: files have
            megabytes of them, and a window of an hour needs one or two.

    """

    def __init__(self, path: Path) -> None:
        try:
            text = whole(path)
        except (OSError, ValueError) as error:
            raise TraceError(f"{path}: cannot be read: {error}") from error
        try:
            document: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}: {not_json(error)}") from error
        if not isinstance(document, dict):
            raise TraceError(f"{path}: must be a JSON object of distributions by their second")
        self._path = path
        # A window without requests has no distributions.
        fields = {
            _second(path, start): (start, of)
            for start, of in document.items()
            if isinstance(of, dict) and _sent(of)
        }
        if not fields:
            raise TraceError(f"{path}: has no input_tokens (or text_tokens) and output_tokens")
        self._starts = sorted(fields)
        self._fields = fields
        self._parsed: dict[tuple[float, str], Pdf] = {}

    def drawn(self, rng: np.random.Generator, at: float, count: int) -> tuple[IntArray, IntArray]:
        """Prompt and generated tokens of this many requests of a window that starts at this second."""
        start = self._starts[max(bisect_right(self._starts, at) - 1, 0)]
        _, fields = self._fields[start]
        answers = self._numbers(rng, start, "output_tokens", count)
        if "input_tokens" in fields:
            prompts = self._numbers(rng, start, "input_tokens", count)
        else:
            prompts = self._numbers(rng, start, "text_tokens", count)
            for kind in _ATTACHED:
                prompts = prompts + self._attached(rng, start, kind, count)
        if len(prompts) and prompts.max() > MAX_TOKENS:
            raise TraceError(f"{self._path}: {start:g}: a prompt of {prompts.max()} tokens")
        return prompts, np.maximum(answers, 1)

    def _attached(self, rng: np.random.Generator, start: float, kind: str, count: int) -> IntArray:
        """Tokens of each request's images, say; 0 where it has none."""
        name = f"{kind}_count"
        if name not in self._fields[start][1]:
            return np.zeros(count, dtype=np.int64)
        numbers = self._numbers(rng, start, name, count)
        tokens = self._numbers(rng, start, f"{kind}_tokens", int(numbers.sum()))
        of = np.repeat(np.arange(count), numbers)
        return np.bincount(of, weights=tokens, minlength=count).astype(np.int64)

    def _numbers(self, rng: np.random.Generator, start: float, name: str, count: int) -> IntArray:
        if not count:
            return np.zeros(0, dtype=np.int64)
        values, chances = self._pdf(start, name)
        return rng.choice(values, count, p=chances)

    def _pdf(self, start: float, name: str) -> Pdf:
        key = (start, name)
        if key not in self._parsed:
            text, fields = self._fields[start]
            self._parsed[key] = _pdf(f"{self._path}: {text}.{name}", fields.get(name))
        return self._parsed[key]


def _sent(fields: Mapping[str, Any]) -> bool:
    """Whether the distributions of a time are those of requests."""
    prompt = fields.get("input_tokens", fields.get("text_tokens"))
    return not (_is_empty(prompt) or _is_empty(fields.get("output_tokens")))


def _is_empty(distribution: Any) -> bool:
    return not distribution or (isinstance(distribution, str) and not distribution.strip("{} \t\n"))


def _second(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise TraceError(f"{path}: {text[:40]!r}: must be a number of seconds") from error


def _pdf(where: str, distribution: Any) -> Pdf:
    """Numbers and probabilities of a mapping, or of its text as Python writes one."""
    if _is_empty(distribution):
        raise TraceError(f"{where}: is empty, though requests have it")
    flat: Iterator[Any]
    try:
        if isinstance(distribution, dict):
            flat = itertools.chain.from_iterable(distribution.items())
        else:
            flat = iter(str(distribution).strip("{} \t\n").replace(":", ",").split(","))
        pairs = np.array([float(item) for item in flat]).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise TraceError(
            f"{where}: must be {{number: probability, ...}}: {str(error)[:80]}"
        ) from error
    numbers, chances = pairs[:, 0], pairs[:, 1]
    if not ((numbers >= 0).all() and (numbers <= MAX_TOKENS).all() and (numbers % 1 == 0).all()):
        raise TraceError(f"{where}: numbers must be whole, from 0 to {MAX_TOKENS}")
    if not ((chances >= 0).all() and 0 < chances.sum() < math.inf):
        raise TraceError(f"{where}: must have probabilities >= 0 and some > 0")
    return numbers.astype(np.int64), chances / chances.sum()
