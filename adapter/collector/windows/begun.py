"""Lengths of the requests that begin, from those that finish: short ones finish first, and long ones late.

While load rises, those that finish are shorter than those that begin, and after a backlog they are longer. Of
the requests of one length that finish within a window, each began its length earlier; they are so divided by
the requests that began in the window moved back by that length. That is free of bias whatever load did
(weighting by the inverse of the chance to be seen: Horvitz and Thompson, 1952).

What began when is counted on a clock that runs in tokens: one for each that a request in service gets. Before
the window, requests began at the constant rate that explains those in service at its start (Little, 1961).
Lengths that could not finish yet are an exponential tail through the share that is known to be longer (Brown,
Hollander and Korwar, 1974).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import mul

import numpy as np

from adapter.collector.servers import moments as histograms
from adapter.collector.servers.totals import LENGTH_BOUNDS
from adapter.collector.windows.growth import (
    Growth,
    SteadyLengths,
    finished,
    longer,
    mean,
    mean_itl,
    most_longer,
    steady_lengths,
    tokens_per_gap,
)
from analyzer.replicas import FloatArray

_PARTS = 36
"""Parts of the window in which the counts of pods are added up."""

_WITHIN = 6
"""Lengths by which those between two bounds are known, uniform by their logarithm."""

_LEAST_BEGUN = 30.0
"""Requests that must have begun for the share of a length to be known."""

_LEAST_FINISHED = 10.0
"""Requests that must have finished for their lengths to be weighted."""

_ERRORS = 2.0
"""Standard errors up to which a share that is not seen is chance."""

_LARGE_SHARE = math.exp(-1.0)
"""Share of longer requests from which an exponential tail is as long as the longest known length: a larger
share says little of it."""

_ROUNDS = 6
"""Rounds in which the mean and the rate before the window find each other."""


def _lengths() -> FloatArray:
    bounds = np.array((1.0, *LENGTH_BOUNDS, 2.0 * LENGTH_BOUNDS[-1]))
    steps = (np.arange(_WITHIN) + 0.5) / _WITHIN
    lower, upper = bounds[:-1, None], bounds[1:, None]
    lengths: FloatArray = lower * (upper / lower) ** steps
    return lengths


_LENGTHS = _lengths()
_MEANS, _SQUARES = _LENGTHS.mean(axis=1), (_LENGTHS**2).mean(axis=1)
_EACH_MEAN, _EACH_SQUARE = _MEANS.tolist(), _SQUARES.tolist()
_LONGEST = _LENGTHS[:, -1].tolist()


@dataclass(frozen=True, slots=True)
class Weights:
    """Factors from the requests that finished to those that began.

    Attributes:
        mean: Factor on the mean output tokens.
        variation: Factor on their coefficient of variation.

    """

    mean: float
    variation: float


def lengths(
    growths: Collection[Growth],
    recent: list[Growth],
    in_service: tuple[float, float],
    starts: tuple[float, float],
) -> tuple[float | None, SteadyLengths | None, float | None]:
    """Mean output tokens of the short window, lengths of both, and the variation of output tokens.

    By what the requests that began, not those that finished first, will have been.

    Args:
        growths: What pods counted over the long window.
        recent: What they counted over the short one.
        in_service: Requests in service at the pods that are there, and at those that have left.
        starts: Starts of the two windows, monotonic seconds.

    """
    output_tokens = mean([item.generation_tokens for item in recent])
    output_cv = histograms.variation(item.output_moments for item in growths)
    steady = steady_lengths(recent, growths)
    factors = weights(growths, recent, sum(in_service), starts, output_cv)
    if factors is not None and output_tokens is not None and steady is not None:
        whole, late = factors
        output_tokens *= late.mean
        steady = replace(steady, output_tokens=whole.mean * steady.output_tokens)
        output_cv = None if output_cv is None else whole.variation * output_cv
    elif output_tokens is not None and finished(growths) < in_service[0]:
        output_tokens *= longer(recent, in_service[0], output_tokens, output_cv)
    return output_tokens, steady, output_cv


def weights(
    growths: Iterable[Growth],
    recent: Iterable[Growth],
    in_service: float,
    starts: tuple[float, float],
    output_cv: float | None,
) -> tuple[Weights, Weights] | None:
    """Factors for all that finished, and for those of `recent`; None for too few, or without histograms.

    Args:
        growths: What pods counted over the long window.
        recent: What they counted over the short one.
        in_service: Requests in service at the last samples.
        starts: Starts of the two windows, monotonic seconds.
        output_cv: Coefficient of variation of the finished ones' output tokens; None where it is not known.

    """
    items = list(growths)
    ended = _by_length(items)
    if ended.sum() < _LEAST_FINISHED:
        return None
    begun = _Begun.of(items, in_service, starts[0])
    whole = begun.weights(_of_all(ended, items), starts[0], output_cv)
    late = list(recent)
    ended = _by_length(late)
    few = ended.sum() < _LEAST_FINISHED
    return whole, whole if few else begun.weights(_of_all(ended, late), starts[1], output_cv)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Requests that came into service, on the clock in tokens.

    Attributes:
        at: Monotonic seconds of the steps of the clock.
        clock: Tokens that a request in service got until then.
        count: Requests that came into service until then, less those whose clients left.
        before: Requests in service at the first step.

    """

    at: FloatArray
    clock: FloatArray
    count: FloatArray
    before: float

    @classmethod
    def of(cls, growths: list[Growth], in_service: float, start: float) -> _Begun:
        """What pods counted since `start`, monotonic seconds; `in_service`: requests at the last samples."""
        rows = np.array(
            [
                (
                    item.since,
                    item.at,
                    item.arrivals - item.queued,
                    item.generation_tokens[1],
                    *item.itl,
                )
                for item in growths
            ]
        )
        since, until = rows[:, 0], rows[:, 1]
        # The first sample of a new pod is since it was started, which may be long before.
        at = np.linspace(max(float(since.min()), start), float(until.max()), _PARTS + 1)
        spans = np.maximum(until - since, 1e-9)
        done = np.clip((at[:, None] - since) / spans, 0.0, 1.0) @ rows[:, 2:]
        count, ended, seconds, gaps = (done - done[0]).T
        took = np.diff(seconds)
        paces = np.divide(np.diff(gaps), took, out=np.zeros(_PARTS), where=took > 0)
        paces *= tokens_per_gap(growths, mean_itl(growths))
        clock = np.concatenate([[0.0], np.cumsum(paces * np.diff(at))])
        return cls(at, clock, count, max(in_service - float(count[-1] - ended[-1]), 0.0))

    def weights(self, ended: FloatArray, since: float, output_cv: float | None) -> Weights:
        """Factors for the requests that finished after `since`, monotonic seconds, by their lengths.

        The less lengths vary, which is `output_cv`, the less the first ones mislead.
        """
        first = float(np.interp(since, self.at, self.clock))
        ends = np.array((float(self.clock[-1]), first))[:, None, None] - _LENGTHS
        # Of the window moved back by each length, what is known and what is before it, of the clock.
        counted = np.interp(ends, self.clock, self.count).mean(axis=-1)
        earlier = np.minimum(ends, 0.0).mean(axis=-1)
        known, before = (counted[0] - counted[1]).tolist(), (earlier[0] - earlier[1]).tolist()
        shares = ended.tolist()
        mean, square = (float(ended @ values) / float(ended.sum()) for values in (_MEANS, _SQUARES))
        one, two = mean, square
        for _ in range(_ROUNDS):
            rate = self.before / one
            # A dozen lengths: floats take less time than arrays.
            begun = [now + rate * then for now, then in zip(known, before, strict=True)]
            one, two = _moments(shares, begun) or (mean, square)
        seen, all_of_them = square / (mean * mean) - 1.0, max(two / (one * one) - 1.0, 0.0)
        most = most_longer(output_cv)
        return Weights(
            mean=min(max(one / mean, 1.0 / most), most),
            variation=math.sqrt(all_of_them / seen) if seen > 0 else 1.0,
        )


def _moments(ended: Sequence[float], begun: Sequence[float]) -> tuple[float, float] | None:
    """Mean and mean square of the lengths, by those that ended and those that began; None if not known."""
    known = next((i for i, number in enumerate(begun) if not number >= _LEAST_BEGUN), len(begun))
    if known == 0:
        return None
    shares = [part / whole for part, whole in zip(ended, begun[:known], strict=False)]
    seen = sum(shares)
    error = math.sqrt(sum(share / whole for share, whole in zip(shares, begun, strict=False)))
    certain = known < len(begun) and 1.0 - seen > _ERRORS * error
    beyond = 1.0 - seen if certain else 0.0
    if seen + beyond <= 0:
        return None
    longest = _LONGEST[known - 1]
    share = min(beyond / (seen + beyond), _LARGE_SHARE)
    rest = -longest / math.log(share) if share > 0 else 0.0
    one = sum(map(mul, shares, _EACH_MEAN)) + beyond * (longest + rest)
    two = sum(map(mul, shares, _EACH_SQUARE)) + beyond * ((longest + rest) ** 2 + rest * rest)
    return one / (seen + beyond), two / (seen + beyond)


def _by_length(growths: Iterable[Growth]) -> FloatArray:
    """Requests that finished, between each two of `LENGTH_BOUNDS`, the first ones and those beyond."""
    counted = [item.output_moments for item in growths if item.output_moments.by_length]
    if not counted:
        return np.zeros(len(LENGTH_BOUNDS) + 1)
    up_to = map(sum, zip(*(item.by_length for item in counted), strict=True))
    sums = np.array((0.0, *up_to, sum(item.count for item in counted)))
    ended: FloatArray = np.maximum(np.diff(sums), 0.0)
    return ended


def _of_all(ended: FloatArray, growths: Iterable[Growth]) -> FloatArray:
    """Those that finished by length, for all of them: some pods or samples show no lengths.

    Those that began are of all, so that unseen lengths would pass for requests that are still in service.
    """
    return ended * max(finished(growths) / float(ended.sum()), 1.0)
