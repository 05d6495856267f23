"""What is kept free of the rate at which a percentile is just met.

Of a target's rate R, at which the share 1 - p of the requests misses it, `headroom` is kept free, but no more
than keeps `MISS_RESERVE` of the allowed misses free: near a cliff a little of the rate is all of the misses.
How misses rise with the rate is interpolated between two rates, in standard scores, which are nearly linear.
Each target has its own rate, and the smallest counts.

Where the KV cache binds, preemption makes the fall a cliff whose rate differs from run to run, so that more
is kept free of what lies beyond the rate S at which `FULL_WAITS` of the requests wait for it:

    largest of   (1 - more) R,   min((1 - headroom) S, usual),   rate whose misses are those of p99

None of the three falls when p does, and so neither does the rate: a laxer percentile never gets a smaller
rate than a stricter one. From p99 on, the rate is the one that p itself asks for.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from analyzer.engine.columns import Engines
from analyzer.engine.nodes import score
from analyzer.replicas import BoolArray, FloatArray

MISS_RESERVE = 0.2
"""CALIBRATED: share of the allowed misses of a percentile that is kept free, where that is the smaller
distance."""

FULL_WAITS = 0.02
"""Share of requests that wait for a place from which on a full KV cache is what binds."""

_FULL_SCORE, _STRICT_SCORE = map(NormalDist().inv_cdf, (FULL_WAITS, 0.01 * (1.0 - MISS_RESERVE)))

_FLAT = 1e-9
_OF_STABLE = 0.1
"""Part of the headroom that is kept free of the largest stable rate where no target is missed at that."""

_NEAR = 3e-3
_RARE = 1e-14


class Misses(NamedTuple):
    """Standard scores of shares of requests at a rate, each of shape (M,).

    Those beyond the targets, and those in the queue for a place.
    """

    ttft: FloatArray
    itl: FloatArray
    waits: FloatArray


class Ends(NamedTuple):
    """Two rates between which it lies, each field of shape (M,).

    Attributes:
        at: misses at the rate that is held.
        less: misses with `span` of it kept free.
        span: share of the rate, > 0.
        most: share of the rate that is kept free at most.
        limit: largest stable rate over the one that is held, less 1.

    """

    at: Misses
    less: Misses
    span: FloatArray
    most: FloatArray
    limit: FloatArray


def scored(share: FloatArray) -> FloatArray:
    """Standard score of a share."""
    return score(np.clip(share, _RARE, 1.0 - _RARE))


def most_kept(headroom: FloatArray, kv_tail: FloatArray) -> FloatArray:
    """Share of the rate of a percentile that is kept free at most, shape (M,)."""
    return np.where(headroom > 0.0, np.minimum(headroom + kv_tail, 0.999), 0.0)


def held(ends: Ends, allowed: FloatArray, headroom: FloatArray, kv_binds: BoolArray) -> FloatArray:
    """Rate of a percentile over the one at which the share `allowed` misses its target, shape (M,)."""
    goal, aim = scored(allowed), scored(allowed * (1.0 - MISS_RESERVE))
    free = 1.0 - headroom
    late = _Target.of(ends, ends.less.ttft, ends.at.ttft, goal)
    slow = _Target.of(ends, ends.less.itl, ends.at.itl, goal)
    first = late.usual(free, aim)
    if np.any(kv_binds):
        rise = _rise(ends.at.waits - ends.less.waits, ends.span)
        full = np.minimum((_FULL_SCORE - ends.less.waits) / rise - ends.span, ends.limit)
        strict = late.misses(np.minimum(aim, _STRICT_SCORE))
        root = np.minimum(late.root, ends.limit)
        kept = np.maximum((1.0 - ends.most) * (1.0 + root), strict)
        kept = np.maximum(kept, np.minimum(first, free * (1.0 + full)))
        first = np.where(kv_binds, np.minimum(kept, first), first)
    stable = (1.0 - headroom * _OF_STABLE) * (1.0 + ends.limit)
    return np.asarray(np.minimum(np.minimum(first, slow.usual(free, aim)), np.minimum(stable, 1.0)))


def looked_at_again(part: FloatArray, most: FloatArray, kv_binds: BoolArray) -> BoolArray:
    """Whether `held` gave a `part` of the rate that misses there tell better, shape (M,).

    Scores bend where waits for the KV cache join what else delays.
    """
    return kv_binds & (part > 1.0 - most + _NEAR) & (part < 1.0 - _NEAR)


def drained(engines: Engines, headroom: FloatArray) -> FloatArray:
    """Rates, shape (M,), at which a replica gets out of preemption again, with the headroom kept free.

    What it serves while the KV cache is full and requests are computed again (`full_rate`) is less than it
    holds before it is there, and no share of misses tells the two apart. Elsewhere infinite.
    """
    return np.where(engines.kv_binds, 1000.0 * engines.full_rate * (1.0 - headroom), math.inf)


class _Target(NamedTuple):
    """One target: its own rate over the one that is held, less 1, and how misses rise up to it.

    Their score is `begin` with `span` of the rate kept free, from where on it rises by `rise` each.
    """

    root: FloatArray
    begin: FloatArray
    rise: FloatArray
    span: FloatArray

    @classmethod
    def of(cls, ends: Ends, less: FloatArray, at: FloatArray, goal: FloatArray) -> _Target:
        """By scores at both ends."""
        rise = _rise(at - less, ends.span)
        return cls((goal - less) / rise - ends.span, less, rise, ends.span)

    def misses(self, goal: FloatArray) -> FloatArray:
        """Rate at which that score of misses is reached."""
        return 1.0 + (goal - self.begin) / self.rise - self.span

    def usual(self, free: FloatArray, aim: FloatArray) -> FloatArray:
        """Rate with the headroom kept free, or with the part of the allowed misses."""
        return np.maximum(free * (1.0 + self.root), self.misses(aim))


def _rise(score: FloatArray, rate: FloatArray) -> FloatArray:
    return np.maximum(score / np.maximum(rate, _FLAT), _FLAT)
