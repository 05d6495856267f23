"""Rate at which the search of one replica begins: near the largest one, without the work of a test.

A test of a rate takes as long as hundreds of numbers, so what says within some tenths where the root lies saves
one or two of them. Nothing else depends on it: the search holds its root between two tested rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from analyzer.engine import nodes, search

_EARLY = 0.8
_LEAST = 0.02
"""Bounds of the rate over the largest stable one, by means."""

_TAIL_OF_ITL = 0.85
_TAIL_OF_WAITS = 2.5
"""Means over percentiles, nearly enough to begin with."""

_HALVES = 7
_OF_ROUGH = 0.75
"""Root over the rate at which `_slow` is what may be: other requests make the ITL differ, too."""

_LEAST_FREE = 1e-3
_WEIGHTS = tuple(nodes.NODE_WEIGHTS.tolist())
_SHORT = tuple(nodes.SHORT_DECODES.ravel().tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Bounds on latencies, ms, infinite where there is none; percentile is None where they are means."""

    ttft_ms: float
    itl_ms: float
    percentile: float | None


def start(engine: Any, targets: Targets, bound: tuple[bool, bool], high_rps: float) -> float:
    """Rate near which the root is, requests per second, by the means of queues of one server.

    Args:
        engine: columns of one replica, as floats.
        targets: of which TTFT and ITL count where they are `bound`.
        bound: whether there is a target of the TTFT and of the ITL.
        high_rps: largest stable rate.

    """
    late, slow = bound
    tails = targets.percentile is not None
    work = engine.prefill_ms * engine.input_tokens
    point = _EARLY * high_rps
    if slow:
        spare = 1.0 - engine.base_ms / (targets.itl_ms * (_TAIL_OF_ITL if tails else 1.0))
        each = work + engine.decodes * engine.slope_ms
        point = min(point, 1000.0 * max(spare, 0.1) / max(each, 1e-9))
    if late:
        wait = max(targets.ttft_ms - 2.0 * engine.base_ms - work, 0.1 * work)
        wait = wait / _TAIL_OF_WAITS if tails else wait
        rest = 0.5 * (1.0 + engine.input_cv**2) * work
        point = min(point, 1000.0 * wait / ((wait + rest) * work))
    point = max(point, _LEAST * high_rps)
    if slow and targets.percentile is not None:
        point = min(point, _OF_ROUGH * _by_misses(engine, targets, 1.0 - targets.percentile, point))
    return float(point)


def _by_misses(engine: Any, targets: Targets, allowed: float, most_rps: float) -> float:
    """Rate up to the largest at which so many miss the ITL, by halves of its logarithm."""
    low, high = math.log(most_rps * search.IDLE), math.log(most_rps)
    for _ in range(_HALVES):
        middle = 0.5 * (low + high)
        more = _slow(engine, targets.itl_ms, math.exp(middle)) > allowed
        low, high = (low, middle) if more else (middle, high)
    return math.exp(high)


def _slow(engine: Any, target_ms: float, rate_rps: float) -> float:
    """Share of requests beyond an ITL.

    Prompts that arrive during an answer are Poisson; their sum is taken as gamma distributed (Wilson and
    Hilferty), but no more are late than meet one.
    """
    rate = rate_rps / 1000.0
    work = engine.prefill_ms * engine.input_tokens
    free = max(1.0 - rate * work, _LEAST_FREE)
    step = engine.base_ms / max(1.0 - rate * engine.decodes * engine.slope_ms / free, 0.05)
    each, square = work / free, 1.0 + engine.input_cv**2
    lengths = [
        (weight * engine.long, steps)
        for weight, steps in zip(_WEIGHTS, engine.decode_nodes, strict=True)
    ]
    if engine.short:
        lengths += zip(engine.short, _SHORT, strict=True)
    late = 0.0
    for share, steps in lengths:
        met = rate * (steps * step + work)
        spare = steps * (target_ms - step)
        if spare <= 0.0:
            late += share
            continue
        ninth = square / (9.0 * met)
        score = (1.0 - ninth - math.cbrt(spare / (met * each))) / math.sqrt(ninth)
        late += share * min(0.5 * math.erfc(-score * math.sqrt(0.5)), -math.expm1(-met))
    return late
