"""Functions of numbers beside the elementary ones, and the lengths of answers in nodes.

Lengths of answers, as the tails of the ITL need them: short ones by their shares, the others log-normal.

Whoever gets a handful of tokens while a prompt is computed has a mean ITL far above the others', so a few
such answers among a hundred make the 99th percentile, and a log-normal distribution of the same mean and
coefficient of variation may have none. Servers count answers of up to 1, 2, 5, 10, ... tokens; four of these
bounds do. With the shares w_i, lengths l_i, that bins up to `SHORT_BOUNDS` have beyond that distribution, the
others stay log-normal by what is left of both moments, so lengths that are log-normal remain so:

    mean = (E[out] - sum w_i l_i) / rest;   square = (E[out**2] - sum w_i l_i**2) / rest;   rest = 1 - sum w_i

An answer of one token has no ITL and so is never late. Without shares all answers are log-normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from analyzer.errors import InvalidParameterError
from analyzer.replicas import FloatArray
from analyzer.step_times import SHORT_BOUNDS

_Of = TypeVar("_Of")

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
NODES = NODES[:, None]
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()

_BOUNDS = np.array(SHORT_BOUNDS, dtype=np.float64)[:, None]
BIN_TOKENS = np.sqrt((np.vstack(([[0.0]], _BOUNDS[:-1])) + 1.0) * _BOUNDS)
"""Length that stands for each bin: the geometric middle of its whole numbers."""

BIN_ENDS = _BOUNDS + 0.5
"""Ends of the bins: lengths are whole numbers."""

SHORT_DECODES = BIN_TOKENS[1:] - 1.0
"""Decode steps of those that have some."""

_LEAST_REST = 1e-9
_DENSITY = (2.0 * math.pi) ** -0.5


def normal(score: FloatArray) -> FloatArray:
    """Share of a normal distribution below the score."""
    from scipy import special  # noqa: PLC0415 - takes long to load, and means do without

    return np.asarray(special.ndtr(score))


def score(share: FloatArray) -> FloatArray:
    """Standard score of a share > 0 and < 1: the inverse of `normal`."""
    from scipy import special  # noqa: PLC0415 - as above

    return np.asarray(special.ndtri(share))


def log_gamma(value: FloatArray) -> FloatArray:
    """Logarithm of the gamma function."""
    from scipy import special  # noqa: PLC0415 - as above

    return np.asarray(special.gammaln(value))


def at_nodes(function: Callable[[FloatArray], _Of], nodes: FloatArray) -> _Of:
    """Values of a function at nodes, which lie along the first axis."""
    return function(nodes)


def weighted(function: Callable[[_Of], FloatArray], weights: FloatArray, nodes: _Of) -> FloatArray:
    """Sum of a function's values at K nodes, which have shape (K, M), times their weights; shape (M,)."""
    return np.asarray(weights @ function(nodes))


def largest(function: Callable[[_Of], FloatArray], nodes: _Of) -> FloatArray:
    """Largest of a function's values at K nodes, which have shape (K, M); shape (M,)."""
    return np.asarray(function(nodes).max(axis=0))


def mixed(function: Callable[[_Of], FloatArray], weights: FloatArray, nodes: _Of) -> FloatArray:
    """The same with weights of their own for each of M, shape (K, M)."""
    return np.asarray((weights * function(nodes)).sum(axis=0))


def below(score: FloatArray) -> FloatArray:
    """Share of a normal distribution below the score, within 1e-7 (Abramowitz and Stegun, 26.2.17).

    SciPy's takes long to load, and means do without it.
    """
    size = np.abs(score)
    t = 1.0 / (1.0 + 0.2316419 * size)
    # In place where they are arrays: sizing asks for ten thousands, and new arrays cost more than numbers.
    series = t * 1.330274429
    series += -1.821255978
    series *= t
    series += 1.781477937
    series *= t
    series += -0.356563782
    series *= t
    series += 0.319381530
    series *= t
    size = np.minimum(size, 38.0)
    size *= size
    size *= -0.5
    beyond = np.exp(size)
    beyond *= series
    beyond *= _DENSITY
    return np.asarray(np.where(score > 0.0, 1.0 - beyond, beyond))


class Answers(NamedTuple):
    """Distribution of the decode steps of answers.

    Attributes:
        nodes: shape (5, M), steps of the others at the nodes of `NODE_WEIGHTS`.
        rest: shape (M,), share of those; 1 without shares of short ones.
        short: shape (3, M), shares of those of `SHORT_DECODES` steps; (0, M) where none is given.

    """

    nodes: FloatArray
    rest: FloatArray
    short: FloatArray


class NodeTimes(NamedTuple):
    """Mean ITL of requests with answers of one length each: of shape (5, M).

    Attributes:
        slow_ms: standard deviation over requests of what other requests add.
        quiet: share of answers during which no prompt is computed.
        added_ms: mean of what prompts add.
        start_ms: part that lies below the sum that is distributed, of the other answers.
        room_ms: most of that sum.
        odds: mean of the odds of its share of that.
        cv: coefficient of variation of the odds.
        stall_ms: mean of what preemption adds.

    """

    slow_ms: FloatArray
    quiet: FloatArray
    added_ms: FloatArray
    start_ms: FloatArray
    room_ms: FloatArray
    odds: FloatArray
    cv: FloatArray
    stall_ms: FloatArray


def answers(output: FloatArray, cv: FloatArray, bins: FloatArray) -> Answers:
    """By mean and coefficient of variation of the tokens, shape (M,), and shares of the bins, if any."""
    if not len(bins):
        return Answers(nodes=_length_nodes(output, cv), rest=np.ones_like(output), short=bins)
    bins = _beyond_log_normal(output, cv, bins)
    rest = 1.0 - mixed(_one, bins, BIN_TOKENS)
    left = np.maximum(rest, _LEAST_REST)
    # Shares may be of other requests than the mean; no long answers are shorter than all.
    mean = np.maximum((output - mixed(_same, bins, BIN_TOKENS)) / left, output)
    square = (output * output * (1.0 + cv * cv) - mixed(_squared, bins, BIN_TOKENS)) / left
    own_cv = np.sqrt(np.maximum(square / (mean * mean) - 1.0, 0.0))
    some = rest < 1.0
    nodes = _length_nodes(np.where(some, mean, output), np.where(some, own_cv, cv))
    return Answers(nodes=nodes, rest=np.maximum(rest, 0.0), short=bins[1:])


def bins_of(shares: ArrayLike | None, rows: int) -> FloatArray:
    """Shares of the bins, shape (4, M), by those of answers up to each of `SHORT_BOUNDS`; (0, M) of None.

    Raises:
        InvalidParameterError: They are no shares, or fall.

    """
    if shares is None:
        return np.empty((0, rows))
    given = np.asarray(shares, dtype=np.float64)
    if given.ndim == 1:
        given = given[:, None]
    size = len(SHORT_BOUNDS)
    if given.ndim != 2 or given.shape[0] != size or given.shape[1] not in (1, rows):
        problem = f"must be {size} shares of each replica, not of shape {given.shape}"
        raise InvalidParameterError("short_answers", problem)
    bins = np.diff(given, axis=0, prepend=0.0)
    good = (bins >= 0.0).all(axis=0) & (given <= 1.0).all(axis=0)
    if not good.all():
        row = int(np.argmin(good))
        shown = ", ".join(f"{share:g}" for share in given[:, row])
        problem = f"must be shares from 0 to 1 that do not fall, not {shown}"
        raise InvalidParameterError("short_answers", problem, index=row)
    return np.broadcast_to(bins, (size, rows))


def columns_of_shares(shares: Sequence[Sequence[float]]) -> FloatArray | None:
    """Shares of M replicas, each of its own or none, as `bins_of` takes them; None where none has any."""
    if not any(shares):
        return None
    return np.array([one or (0.0,) * len(SHORT_BOUNDS) for one in shares], dtype=np.float64).T


def bins_of_one(shares: Sequence[float]) -> tuple[float, ...] | None:
    """The same of one replica; None where `bins_of` may have a problem."""
    if not shares:
        return ()
    bins = tuple(after - before for before, after in zip((0.0, *shares), shares, strict=False))
    good = len(bins) == len(SHORT_BOUNDS) and min(bins) >= 0.0 and shares[-1] <= 1.0
    return bins if good else None


def _beyond_log_normal(output: FloatArray, cv: FloatArray, bins: FloatArray) -> FloatArray:
    """What bins have beyond the log-normal distribution of that mean and coefficient of variation."""
    spread = np.maximum(np.sqrt(np.log1p(cv * cv)), 1e-3)
    middle = np.log(output) - spread * spread / 2.0

    def shares(bounds: FloatArray) -> FloatArray:
        return below((np.log(bounds) - middle) / spread)

    own = at_nodes(shares, BIN_ENDS)
    return differences(bins, own)


def differences(bins: FloatArray, own: FloatArray) -> FloatArray:
    """What bins have beyond those between the cumulative shares `own`, at least 0."""
    return np.maximum(bins - np.diff(own, axis=0, prepend=0.0), 0.0)


def _one(tokens: FloatArray) -> FloatArray:
    return tokens / tokens


def _same(tokens: FloatArray) -> FloatArray:
    return tokens


def _squared(tokens: FloatArray) -> FloatArray:
    return tokens * tokens


def _length_nodes(output: FloatArray, output_cv: FloatArray) -> FloatArray:
    """Decode steps of answers at the Gauss-Hermite nodes of a log-normal distribution, shape (5, M)."""
    mean = np.maximum(output - 1.0, 1e-3)
    cv = output_cv * output / mean
    spread = np.log1p(cv * cv)

    def length(node: FloatArray) -> FloatArray:
        lengths = mean * np.exp(np.sqrt(spread) * node - spread / 2.0)
        return np.asarray(np.maximum(lengths, 1.0))

    return at_nodes(length, NODES)


def gamma_beyond(root: FloatArray, cv: FloatArray) -> FloatArray:
    """Share of a gamma distribution beyond the cube of `root` means (Wilson and Hilferty)."""
    return normal((1.0 - cv * cv / 9.0 - root) * 3.0 / cv)


def sum_beyond(ratio: FloatArray, cv: FloatArray) -> FloatArray:
    """Share beyond `ratio` means: gamma, log-normal where it varies more."""
    logs = np.log(ratio)
    square = cv * cv
    spread = np.log1p(square)
    plain = normal(-(logs + spread / 2.0) / np.sqrt(spread))
    # CALIBRATED: half of each at a coefficient of variation of 1.
    weight = 1.0 / (1.0 + square * square)
    return np.asarray(plain + weight * (gamma_beyond(np.exp(logs / 3.0), cv) - plain))


def at_a_limit(
    full: FloatArray, gap: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """How a limit bends the distribution of numbers that are there for a share of the time; shape (M,).

    For the rest of it they are below the limit, by some mean and variance. The share of the skewness without
    a limit that this takes away, and what a mixture of the two has of its own:

        full gap (gap**2 - behind**2 - 3 rest) / deviation**3,   behind = gap full / (1 - full)

    Args:
        full: share of the time at the limit.
        gap: the limit less the mean.
        variance: of the numbers, those at the limit included; `rest` is that of the others.

    """
    full = np.minimum(full, 0.999)
    square = np.maximum(variance, 1e-9)
    # Where requests wait for other reasons than numbers: the widest that these let the two lie apart.
    gap = np.minimum(gap, np.sqrt(square * (1.0 - full) / np.maximum(full, 1e-9)))
    behind = gap * full / (1.0 - full)
    rest = np.maximum(square - behind * gap, 0.0) / (1.0 - full)
    own = full * gap * (gap * gap - behind * behind - 3.0 * rest) / (square * np.sqrt(square))
    kept = np.minimum(rest / square, 1.0)
    return 1.0 - (1.0 - full) * kept * np.sqrt(kept), np.asarray(own)
