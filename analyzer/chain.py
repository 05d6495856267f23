"""State probabilities of the birth-death chains of many replicas at once; used by this package only.

State n holds n requests. With load = arrival_rate / mu(N) the weights are

    log w(n) = n * log(load) + sum over i <= n of log(mu(N) / mu(i)),    n = 0..N,  N = max batch

(Kleinrock, Queueing Systems I, 3.1), in log space, so no rate and no batch overflows. Above N the chain is
geometric with ratio load and summed in closed form: work grows with N, not with the queue.

Everything is about what accepted arrivals see, a(n) = p(n) / (1 - p(K)), n < K = N + Q (PASTA): sums of
positive terms only, so nothing cancels.

A row's numbers do not depend on the other rows: rows are padded to a width that follows from their own max
batch alone, and every sum runs over one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from analyzer.replicas import FloatArray, Replicas

_ELEMENTS = 2**18
"""Elements of one table: larger ones leave the processor's cache."""

_SMALLEST = 1e-300
"""Stands for 0 where a logarithm or a quotient needs more than 0."""

_LOG_OF_NOTHING = -38.0
"""Logarithm of a share that 1 less it does not show in floats."""

_BERNOULLI = (
    1 / 12,
    -1 / 720,
    1 / 30240,
    -1 / 1209600,
    1 / 47900160,
    -691 / 1307674368000,
    1 / 74724249600,
)
"""B(2k) / (2k)!, k = 1.. (DLMF 24.2.1 and 4.19)."""


def parts(replicas: Replicas) -> Iterator[NDArray[np.intp]]:
    """Rows that are worked on together: of one width, and few enough for the cache."""
    widths = _widths(replicas.max_batch)
    for width in sorted(set(widths.tolist())):
        rows = np.flatnonzero(widths == width)
        step = max(int(_ELEMENTS // width), 1)
        for start in range(0, rows.size, step):
            yield rows[start : start + step]


@dataclass(frozen=True, slots=True)
class Seen:
    """What accepted arrivals see at one load, each of shape (M,).

    Attributes:
        body: shape (M, width), a(n) for n < max batch, times `total`.
        tail: sum of a(n) for n >= max batch, times `total`: the arrivals that wait.
        total: what `body` and `tail` sum up to.
        batch: mean batch they join, themselves included.
        queue: mean number of departures they wait for.
        accepted: 1 - p(K), the share of all arrivals that is accepted.
        blocked: p(K).

    """

    body: FloatArray
    tail: FloatArray
    total: FloatArray
    batch: FloatArray
    queue: FloatArray
    accepted: FloatArray
    blocked: FloatArray

    def take(self, rows: NDArray[np.intp]) -> Seen:
        """Some of the rows."""
        return Seen(*(getattr(self, item.name)[rows] for item in fields(self)))


class Chain:
    """Tables of M replicas whose rows came from one of `parts`."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        width = int(_widths(replicas.max_batch[:1])[0])
        self._states = np.arange(width, dtype=np.float64)
        batch = self._states + 1.0
        most = replicas.max_batch[:, None]
        with np.errstate(divide="ignore"):
            steps = np.log(
                (most / batch)
                * (replicas.base_ms[:, None] + replicas.slope_ms[:, None] * batch)
                / (replicas.base_ms[:, None] + replicas.slope_ms[:, None] * most)
            )
        gains = np.zeros((len(replicas), width + 1))
        np.cumsum(steps, axis=1, out=gains[:, 1:])
        self._top = gains[np.arange(len(replicas)), replicas.max_batch.astype(np.intp)]
        self._gains = np.where(self._states < most, gains[:, :-1], -np.inf)

    def take(self, rows: NDArray[np.intp]) -> Chain:
        """The tables of some of the rows."""
        if rows.size == len(self.replicas):  # the usual case in a search: rows drop out late
            return self
        part = Chain.__new__(Chain)
        part.replicas = self.replicas.take(rows)
        part._states, part._top, part._gains = self._states, self._top[rows], self._gains[rows]  # noqa: SLF001
        return part

    def seen(self, load: FloatArray) -> Seen:
        """What accepted arrivals see at load = arrival_rate / mu(N), shape (M,)."""
        most, queue = self.replicas.max_batch, self.replicas.max_queue
        log_load = np.log(np.clip(load, _SMALLEST, 1.0 / _SMALLEST))
        body = log_load[:, None] * self._states
        body += self._gains
        # The heaviest accepted state of the tail is its first below load 1 and its last above.
        edge = self._top + most * log_load
        heaviest = edge + np.maximum(log_load, 0.0) * (queue - 1)
        largest = body.max(axis=1)
        np.copyto(largest, np.maximum(largest, heaviest), where=queue > 0)
        body -= largest[:, None]
        np.exp(body, out=body)
        scale = np.exp(np.where(queue > 0, heaviest - largest, -np.inf))
        decay = np.maximum(np.abs(log_load), _SMALLEST)
        tail = scale * (np.expm1(-queue * decay) / np.expm1(-decay))
        position = _mean_position(decay, queue)
        departures = np.where(log_load > 0, queue - position, 1.0 + position)
        inside = body.sum(axis=1)
        total = inside + tail
        joined = (body * (self._states + 1.0)).sum(axis=1)
        log_odds = edge + queue * log_load - largest - np.log(total)
        return Seen(
            body=body,
            tail=tail,
            total=total,
            batch=(joined + most * tail) / total,
            queue=tail * departures / total,
            accepted=_logistic(-log_odds),
            blocked=_logistic(log_odds),
        )

    def batch_exceeds(self, seen: Seen, largest: FloatArray) -> FloatArray:
        """Share of accepted arrivals that join a batch above `largest`, shape (M,)."""
        above = (seen.body * (self._states + 1.0 > largest[:, None])).sum(axis=1)
        waiting: FloatArray = np.where(self.replicas.max_batch > largest, seen.tail, 0.0)
        return np.asarray((above + waiting) / seen.total)

    def batch_quantile(self, seen: Seen, share: FloatArray) -> FloatArray:
        """Smallest batch that at least this share of accepted arrivals does not exceed, shape (M,)."""
        below = np.cumsum(seen.body, axis=1) < (share * seen.total)[:, None]
        return np.asarray(np.minimum(below.sum(axis=1) + 1.0, self.replicas.max_batch))

    def waits_longer(self, seen: Seen, load: FloatArray, departures: FloatArray) -> FloatArray:
        """Share of accepted arrivals that wait longer than `departures` / mu(N), shape (M,).

        Who meets state N + j - 1 waits for j departures: an Erlang(j) time. Their survival functions,
        weighted with load**(j - 1), j = 1..Q, sum up to

            (exp(-x (1 - load)) G(Q, load x) - load**Q G(Q, x)) / (1 - load),   x = departures,

        with the regularized upper incomplete gamma function G (exchange the sums of the Erlang and of
        the geometric series).
        """
        queue = self.replicas.max_queue
        longer = np.zeros_like(load)
        waiting = (queue > 0) & (seen.tail > 0)
        # Near load 1 the difference cancels and above it the factors overflow: sum term by term.
        closed = waiting & (load < 1.0) & (queue * (1.0 - load) > 1e-4)
        x, r, q = departures[closed], load[closed], queue[closed]
        shares = np.exp(-x * (1 - r)) * _gammaincc(q, r * x) - r**q * _gammaincc(q, x)
        # tail is the sum of load**(j - 1), j = 1..Q, in the units of total
        longer[closed] = (
            seen.tail[closed] * shares / -np.expm1(q * np.log(np.maximum(r, _SMALLEST)))
        )
        for row in np.flatnonzero(waiting & ~closed):
            longer[row] = seen.tail[row] * _summed(load[row], queue[row], departures[row])
        return np.clip(longer / seen.total, 0.0, 1.0)


def _widths(max_batch: FloatArray) -> NDArray[np.int64]:
    """Smallest of 1, 2, 3, 4, 6, 8, 12, 16, ... that holds the batch, shape (M,)."""
    power = np.exp2(np.ceil(np.log2(max_batch)))
    return np.where(0.75 * power >= max_batch, np.ceil(0.75 * power), power).astype(np.int64)


def _mean_position(decay: FloatArray, count: FloatArray) -> FloatArray:
    """Mean of i under weights exp(-decay * i), i = 0..count-1; 0 where the count is 0.

    1 / (e**h - 1) - Q / (e**(Q h) - 1), of which both terms grow beyond bounds when h falls to 0; there
    in terms of 1 / (e**x - 1) - 1 / x + 1 / 2 = sum of B(2k) x**(2k - 1) / (2k)!.
    """
    steep = count * decay > 0.5
    h = np.where(steep, decay, 1.0)
    with np.errstate(over="ignore"):
        direct = 1.0 / np.expm1(h) - count / np.expm1(np.maximum(count, 1.0) * h)
    h = np.where(steep, 0.0, decay)
    smooth = (count - 1.0) / 2.0 + _series(h) - count * _series(count * h)
    return np.where(steep, np.maximum(direct, 0.0), np.where(count > 0, smooth, 0.0))


def _series(x: FloatArray) -> FloatArray:
    total = np.zeros_like(x)
    for coefficient in reversed(_BERNOULLI):
        total = total * (x * x) + coefficient
    return total * x


def _logistic(log_odds: FloatArray) -> FloatArray:
    """Probability with these log odds; here, because scipy.special takes twice as long to load as numpy."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-log_odds))


def _gammaincc(stages: FloatArray, departures: FloatArray | float) -> FloatArray:
    """The regularized upper incomplete gamma function: Erlang(stages) is longer than that.

    A target lies seldom near the wait for a full queue. By Chernoff's bound, exp(a - x) (x / a)**a for x < a,
    rows say by themselves that the answer is 1 in floats, and most plans do without scipy.
    """
    x = np.broadcast_to(np.asarray(departures, dtype=np.float64), stages.shape)
    ratio = np.clip(x / stages, _SMALLEST, 1.0)
    longer = np.ones(stages.shape)
    near = np.flatnonzero(stages * (np.log(ratio) + 1.0 - ratio) > _LOG_OF_NOTHING)
    if near.size:
        from scipy import special  # noqa: PLC0415 - see `_logistic`

        longer[near] = special.gammaincc(stages[near], x[near])
    return longer


def _summed(load: float, queue: float, departures: float) -> float:
    """Survival of the mixture of `Chain.waits_longer` near or above load 1, per unit of the tail."""
    rise = np.log(load)
    # Stages whose weight is below e**-40 of the last stage's do not count; many are told by a sample.
    first = np.floor(queue - 40.0 / rise) if rise * queue > 40.0 else 0.0
    number = int(min(queue - first, 2**16))
    stages = np.ceil(np.linspace(first, queue, number + 1)[1:])
    weights = np.exp((stages - queue) * rise)
    return float((weights * _gammaincc(stages, departures)).sum() / weights.sum())
