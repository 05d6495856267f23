"""Quantities of one pod: which of them may be missing, and which values are no measurement.

What is absent is no zero, unless the server is one that shows it from its first request on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analyzer.step_times import SHORT_BOUNDS

LARGEST = 1e15
"""Largest plausible value; beyond it a number is no measurement."""

STOCKS = ("running", "waiting")
"""Quantities that every model server reports."""

_LATEST_START = 1e11
"""Largest Unix seconds of a start: more is another unit, such as milliseconds."""

_COUNTED = frozenset({"finished", "ttft_count"})
"""Counters of requests, of which a server has one."""

_ENGINE_ONLY = frozenset({"throughput", "preemptions", "generated"})
"""What an engine shows before its first request, and no router or simulator of gauges does."""

_PRESENCE_ONLY = frozenset({"throughput"})
"""Quantities whose values are not used, whatever they are."""

_TIMES_STOCK, _UNFINISHED = 4.0, 30.0
"""First tokens that are more than this many times the requests in service, and as many more, cannot all be of
requests that have not finished yet."""


_TIMES_GENERATED, _MORE_TOKENS = 1.25, 1000.0
"""Output tokens of requests that ended that are more than this many times those generated, and as many more,
are not theirs: the two are counted at different moments, and no more than that."""

_MOST_REQUESTS = 1e5
"""Largest plausible number of requests in service or waiting at one page's servers."""

NO_SHORT = (0.0,) * len(SHORT_BOUNDS)

LENGTH_BOUNDS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
"""Tokens up to which requests are counted by length: bounds that servers' histograms have."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What the buckets of a histogram of lengths say of all requests together.

    Attributes:
        total: Sum of the tokens, estimated.
        squares: Sum of their squares, estimated.
        count: Requests.
        short: Requests of at most `SHORT_BOUNDS` tokens each; zeros where the buckets do not tell.
        by_length: Requests of at most `LENGTH_BOUNDS` tokens each; empty where the buckets do not tell.

    """

    total: float
    squares: float
    count: float
    short: tuple[float, ...] = NO_SHORT
    by_length: tuple[float, ...] = ()


class ImplausibleError(ValueError):
    """A number that cannot be a measurement."""


def start(seconds: float | None) -> float | None:
    """The start of a process, Unix seconds; None where it is not known, or cannot be one."""
    # 0 is what libraries show that could not read it.
    known = seconds is not None and seconds != 0 and abs(seconds) <= _LATEST_START
    return seconds if known else None


def completed(totals: Mapping[str, float]) -> Mapping[str, float]:
    """The quantities of one pod with those that its server shows only from its first request on.

    Data-parallel servers of vLLM have no gauges before it, SGLang and old vLLM no counters.

    Raises:
        ImplausibleError: what is missing is not missing for that reason, or a value is no measurement.

    """
    missing = [name for name in STOCKS if name not in totals]
    fresh = not any(totals.get(name) for name in (*_COUNTED, "generated"))
    if missing and not (fresh and "finished" in totals):
        raise ImplausibleError(f"the number of {missing[0]} requests is missing")
    if not totals.keys() & _COUNTED and not (fresh and totals.keys() & _ENGINE_ONLY):
        raise ImplausibleError(
            "no counter of finished requests in it, so its load is not known (a router or a simulator has"
            " none: scrape the servers themselves)"
        )
    whole = {**dict.fromkeys(missing, 0.0), **totals}
    _check(whole)
    if "finished" not in whole and whole.get("ttft_count", 0.0) > _unfinished(whole):
        raise ImplausibleError(
            "no counter of finished requests in it, though requests had first tokens: keep request_success"
            " (of SGLang num_requests) among what is shown"
        )
    return whole


def _unfinished(totals: Mapping[str, float]) -> float:
    """First tokens that requests in service may have had."""
    return _TIMES_STOCK * sum(totals[name] for name in STOCKS) + _UNFINISHED


def _check(totals: Mapping[str, float]) -> None:
    for name, value in totals.items():
        if name in _PRESENCE_ONLY:
            continue
        if not (math.isfinite(value) and 0 <= value <= LARGEST):
            # The kind of fault, not the number: messages are read by others than the pod's owner.
            kind = f"{abs(value):g}" if not math.isfinite(value) else "negative"
            raise ImplausibleError(
                f"{name} is {'too large' if LARGEST < value < math.inf else kind}"
            )
        if name in STOCKS and value > _MOST_REQUESTS:
            raise ImplausibleError(f"{name} is more requests than a server can have")
    if "generated" in totals and "generation_tokens_sum" in totals:
        most = _TIMES_GENERATED * totals["generated"] + _MORE_TOKENS
        if totals["generation_tokens_sum"] > most:
            raise ImplausibleError(
                "its requests that ended had more output tokens than were generated: one of the two is wrong"
            )


def bounds_of(written: Iterable[str]) -> list[float] | None:
    """Upper bounds `le` of a histogram; None where one is no number. Those beyond LARGEST are infinite."""
    try:
        bounds = [float(text) for text in written]
    except ValueError:
        return None
    if any(map(math.isnan, bounds)):
        return None
    return [bound if bound <= LARGEST else math.inf for bound in bounds]
