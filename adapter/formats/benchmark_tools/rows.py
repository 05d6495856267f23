"""One run as a row, and how numbers of benchmark files are read.

An unusable run becomes a row with its reason, so that the other runs of its file are used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING_FINISHED = "nothing finished"

MOST_FAILED = 0.25
"""Most failed requests per finished one of a usable run: how many were in service is taken from those that
finished, and what failed late was in service too."""
NO_TTFT = "no TTFT: used for ITL only"


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
        model: name of the model; empty where it is not known.
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
    model: str = ""
    problem: str = ""
    note: str = ""


class UnusableError(ValueError):
    """A run is unusable; the message is the row's reason."""


def alike(texts: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each text of pairs (place, text) that is not empty: its first place, and how many more."""
    places: dict[str, list[str]] = {}
    for place, text in texts:
        if text:
            places.setdefault(text, []).append(place)
    return [
        f"{first}{f' and {len(more)} more' if more else ''}: {text}"
        for text, (first, *more) in places.items()
    ]


def inside(document: Any, path: Sequence[str]) -> Any:
    """The value at a path of names; None where a name is missing."""
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def number(value: Any, name: str) -> float:
    """A number >= 0.

    Raises:
        UnusableError: it is none; names the field.

    """
    number = as_float(value)
    if number is None:
        raise UnusableError(f"{name}: must be a number")
    if not (math.isfinite(number) and number >= 0):
        raise UnusableError(f"{name}: must be a number >= 0, not {value}")
    return number


def optional(value: Any) -> float:
    """A number > 0, or NaN."""
    number = as_float(value)
    return number if number is not None and math.isfinite(number) and number > 0 else math.nan


def as_float(value: Any) -> float | None:
    """A number, also where it was written as a text; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def check_failed(finished: float, failed: float, name: str) -> None:
    """Refuse a run of which too much failed; `failed` is NaN where it is not known, `name` the field.

    Raises:
        UnusableError: more than `MOST_FAILED` failed for each one that finished.

    """
    if failed > MOST_FAILED * finished:
        raise UnusableError(f"{name}: only {finished:g}, {failed:g} requests failed")


def check_streamed(ttft: float, itl: float, output: float, whole: float) -> None:
    """Refuse a run whose first token came with the last; `whole` is the latency in ms, NaN if unknown.

    Raises:
        UnusableError: responses were not streamed.

    """
    decode = (output - 1.0) * itl
    if whole > 0 and ttft >= 0.98 * whole and decode < 0.1 * ttft:
        raise UnusableError("TTFT is the whole latency: responses were not streamed")
    if itl < 0.5 and decode < 0.01 * ttft:
        raise UnusableError(
            f"ITL is {itl:.3g} ms beside a TTFT of {ttft:.4g} ms: responses were not streamed"
        )
