"""How much load replicas carry within their service level: the inverse of `queueing`.

TTFT and ITL, as means and as percentiles, never fall when the arrival rate rises (the states seen grow in
likelihood-ratio order), so each target has one largest rate. It is searched between 0.001 mu(1), below which
a replica is as good as idle, and 0.999 mu(max batch), above which its queue is always full: a target that
fails at the lower end is unreachable, one that holds at the upper end does not bind, and between them a
bracketing root finder cannot fail, however flat the function is.

`size_all` works on arrays, one row per replica; `size` answers for a single one, up to float noise the same.

Units: latencies in milliseconds, rates in requests per second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer import accepted, chain, errors
from analyzer.defaults import STABILITY_MARGIN
from analyzer.replicas import BoolArray, FloatArray, Replica, Replicas, checked
from analyzer.searches import ITL, LIMIT_SHARE, TTFT, Search
from analyzer.single import SingleReplica

REPLICA_ROUNDING = 1e-9
"""Relative excess of load over capacity that does not call for another replica: float noise."""

Target = Literal["ttft", "itl"]
Binding = Literal["ttft", "itl", "stability"]

TARGETS: tuple[Target, Target] = ("ttft", "itl")
BINDINGS: tuple[Binding, ...] = (*TARGETS, "stability")
_STABILITY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """A target that no arrival rate meets.

    Attributes:
        target: name of the unreachable target.
        target_ms: the target itself.
        best_ms: what a replica that is as good as idle gives.
        percentile: percentile of the latency that the target bounds; None is the mean.

    """

    target: Target
    target_ms: float
    best_ms: float
    percentile: float | None = None

    def __str__(self) -> str:
        """One sentence for logs and conditions."""
        name = self.target.upper()
        if self.percentile is not None:
            name += f" p{self.percentile * 100:g}"
        return (
            f"{name} target {self.target_ms:g} ms cannot be met: "
            f"a single request already takes {self.best_ms:.4g} ms"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one replica carries within its targets.

    Attributes:
        rate_rps: largest arrival rate that meets every target and keeps the stability margin.
        goodput_rps: what of it is accepted; replicas are counted by this.
        binding: what bounds it: a target, or stability (the replica's own speed).
        ttft_rate_rps: largest arrival rate for the TTFT target alone; None without one.
        itl_rate_rps: the same for the ITL target.
        tps_rate_rps: the same for a tokens-per-second target, which asks for stability only.

    """

    rate_rps: float
    goodput_rps: float
    binding: Binding
    ttft_rate_rps: float | None
    itl_rate_rps: float | None
    tps_rate_rps: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapacityArrays:
    """What M replicas carry, every field of shape (M,); see `Capacity` and `Unreachable`.

    Attributes:
        rate_rps: NaN where a target is unreachable; the same for goodput_rps.
        ttft_rate_rps: NaN where there is no such target or it is unreachable; the same for ITL and TPS.
        binding: index into `BINDINGS`.
        unreachable: index into `TARGETS`, -1 where every target can be met.
        target_ms: the unreachable target; NaN where there is none.
        best_ms: what an idle replica gives instead; NaN where there is none.
        percentile: percentile that the targets bound; NaN is the mean.

    """

    rate_rps: FloatArray
    goodput_rps: FloatArray
    ttft_rate_rps: FloatArray
    itl_rate_rps: FloatArray
    tps_rate_rps: FloatArray
    binding: NDArray[np.int8]
    unreachable: NDArray[np.int8]
    target_ms: FloatArray
    best_ms: FloatArray
    percentile: FloatArray

    def __getitem__(self, row: int) -> Capacity | Unreachable:
        """One row."""
        if self.unreachable[row] >= 0:
            return Unreachable(
                target=TARGETS[self.unreachable[row]],
                target_ms=float(self.target_ms[row]),
                best_ms=float(self.best_ms[row]),
                percentile=_given(self.percentile[row]),
            )
        return Capacity(
            rate_rps=float(self.rate_rps[row]),
            goodput_rps=float(self.goodput_rps[row]),
            binding=BINDINGS[self.binding[row]],
            ttft_rate_rps=_given(self.ttft_rate_rps[row]),
            itl_rate_rps=_given(self.itl_rate_rps[row]),
            tps_rate_rps=_given(self.tps_rate_rps[row]),
        )


def size(
    replica: Replica,
    *,
    ttft_ms: float | None = None,
    itl_ms: float | None = None,
    tps: float | None = None,
    percentile: float | None = None,
    stability_margin: float = STABILITY_MARGIN,
) -> Capacity | Unreachable:
    """Largest load of one replica within its targets; None: no such target, the mean. See `size_all`.

    Targets on means are searched without arrays, which is several times faster.
    """
    targets_good = all(
        number is None or 0.0 < number < math.inf for number in (ttft_ms, itl_ms, tps)
    )
    if percentile is None and targets_good and 0.0 <= stability_margin < 1.0:
        return _size_means(replica, ttft_ms, itl_ms, tps, stability_margin)
    with errors.alone():
        return size_all(
            Replicas.of([replica]),
            ttft_ms=math.nan if ttft_ms is None else ttft_ms,
            itl_ms=math.nan if itl_ms is None else itl_ms,
            tps=math.nan if tps is None else tps,
            percentile=math.nan if percentile is None else percentile,
            stability_margin=stability_margin,
        )[0]


def _size_means(
    replica: Replica,
    ttft_ms: float | None,
    itl_ms: float | None,
    tps: float | None,
    stability_margin: float,
) -> Capacity | Unreachable:
    one = SingleReplica(replica)
    loads: dict[Binding, float] = {}
    latencies: tuple[tuple[Target, float | None, Callable[[float], float]], ...] = (
        ("ttft", ttft_ms, one.ttft_ms),
        ("itl", itl_ms, one.itl_ms),
    )
    for target, target_ms, latency in latencies:
        if target_ms is None:
            continue
        load = one.largest_load(latency, target_ms)
        if load is None:
            return Unreachable(target=target, target_ms=target_ms, best_ms=latency(one.floor))
        loads[target] = load
    stable = (1.0 - stability_margin) * LIMIT_SHARE
    binding: Binding = "stability"
    lowest = stable
    for name, load in loads.items():
        if load < lowest:
            binding, lowest = name, load
    rate = lowest * one.max_rate_rps
    rates = {name: load * one.max_rate_rps for name, load in loads.items()}
    return Capacity(
        rate_rps=rate,
        goodput_rps=rate * one.seen(lowest)[2],
        binding=binding,
        ttft_rate_rps=rates.get("ttft"),
        itl_rate_rps=rates.get("itl"),
        tps_rate_rps=None if tps is None else stable * one.max_rate_rps,
    )


def size_all(
    replicas: Replicas,
    *,
    ttft_ms: ArrayLike = math.nan,
    itl_ms: ArrayLike = math.nan,
    tps: ArrayLike = math.nan,
    percentile: ArrayLike = math.nan,
    stability_margin: ArrayLike = STABILITY_MARGIN,
    every_target: bool = True,
) -> CapacityArrays:
    """Largest load of every replica with TTFT and ITL within their targets.

    Rows do not influence each other: neither their order nor the batch they are in changes a bit.

    Args:
        replicas: M of them.
        ttft_ms: targets, shape (M,) or a number for all, > 0; NaN means there is none.
        itl_ms: the same.
        tps: tokens per second; of one replica it asks for no more than stability.
        percentile: of the latencies that must meet the targets, such as 0.95; NaN is the mean.
        stability_margin: share of mu(max_batch) kept free, >= 0 and < 1.
        every_target: False searches only the target that binds, in half the time; the rates of the others
            are NaN.

    Raises:
        InvalidParameterError: one of them is out of its range; names the row.

    """
    rows = len(replicas)
    targets_ms = [
        checked(name, value, rows, above=0.0, optional=True)
        for name, value in (("ttft_ms", ttft_ms), ("itl_ms", itl_ms))
    ]
    tokens = checked("tps", tps, rows, above=0.0, optional=True)
    share = checked("percentile", percentile, rows, above=0.0, below=1.0, optional=True)
    margin = checked("stability_margin", stability_margin, rows, least=0.0, below=1.0)
    stable = (1.0 - margin) * LIMIT_SHARE * replicas.max_rate_rps
    rates = np.full((2, rows), np.nan)
    bests = np.full((2, rows), np.nan)
    goodput = np.empty(rows)
    for part in chain.parts(replicas):
        table = chain.Chain(replicas.take(part))
        most = None if every_target else (1.0 - margin[part]) * LIMIT_SHARE
        rates[:, part], bests[:, part] = _rates(
            table, [target[part] for target in targets_ms], share[part], most
        )
        least = np.fmin(np.fmin(rates[TTFT, part], rates[ITL, part]), stable[part])
        least = np.where(np.isnan(bests[:, part]).all(axis=0), least, 0.0)
        goodput[part] = least * table.seen(least / table.replicas.max_rate_rps).accepted
    return _capacities(
        rates,
        bests,
        stable=stable,
        goodput=goodput,
        tokens=tokens,
        targets_ms=targets_ms,
        share=share,
    )


def _capacities(
    rates: FloatArray,
    bests: FloatArray,
    *,
    stable: FloatArray,
    goodput: FloatArray,
    tokens: FloatArray,
    targets_ms: list[FloatArray],
    share: FloatArray,
) -> CapacityArrays:
    """What binds every row; `rates` and `bests` have shape (2, M), TTFT before ITL."""
    candidates = np.stack([*rates, stable])
    lowest = np.nanmin(candidates, axis=0)
    binding = np.nanargmin(candidates, axis=0).astype(np.int8)
    # A target that holds up to the limit does not bind, even without a margin.
    binding[candidates[_STABILITY] <= lowest] = _STABILITY
    failed = ~np.isnan(bests)
    unreachable = np.where(failed.any(axis=0), failed.argmax(axis=0), -1).astype(np.int8)
    rate = np.where(unreachable >= 0, np.nan, lowest)
    which = np.maximum(unreachable, 0)[None, :]
    return CapacityArrays(
        rate_rps=rate,
        goodput_rps=np.where(np.isnan(rate), np.nan, goodput),
        ttft_rate_rps=rates[TTFT],
        itl_rate_rps=rates[ITL],
        tps_rate_rps=np.where(np.isnan(tokens), np.nan, stable),
        binding=binding,
        unreachable=unreachable,
        target_ms=np.where(
            unreachable >= 0, np.take_along_axis(np.stack(targets_ms), which, axis=0)[0], np.nan
        ),
        best_ms=np.take_along_axis(bests, which, axis=0)[0],
        percentile=share,
    )


def _rates(
    table: chain.Chain, targets_ms: list[FloatArray], share: FloatArray, most: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Largest rates and, where a target is unreachable, the best latencies; both (2, M), NaN elsewhere.

    With `most`, the largest load that counts of each row, a target is searched only where it binds.
    """
    rates = np.full((2, share.size), np.nan)
    bests = np.full((2, share.size), np.nan)
    bound = most
    for target in (ITL, TTFT):
        rows = np.flatnonzero(~np.isnan(targets_ms[target]))
        if not rows.size:
            continue
        search = Search(table.take(rows), target, targets_ms[target][rows], share[rows])
        if bound is None:
            rates[target, rows], bests[target, rows] = search.largest_rates()
            continue
        late = np.flatnonzero(~search.hold(bound[rows]))
        if late.size:
            rows = rows[late]
            search = Search(table.take(rows), target, targets_ms[target][rows], share[rows])
            rates[target, rows], bests[target, rows] = search.largest_rates(bound[rows])
            loads = rates[target, rows] / table.replicas.max_rate_rps[rows]
            bound = bound.copy()
            bound[rows] = np.where(np.isnan(loads), 0.0, loads)
    return rates, bests


def carry_all(
    replicas: Replicas,
    goodput_rps: FloatArray,
    *,
    ttft_ms: FloatArray,
    itl_ms: FloatArray,
    percentile: FloatArray,
    stability_margin: FloatArray,
) -> BoolArray:
    """Whether every replica finishes so many requests per second within its targets, shape (M,).

    Says what `size_all(...).goodput_rps >= goodput_rps` would, by a test at the rate instead of a search.

    Args:
        replicas: M of them.
        goodput_rps: accepted requests, shape (M,).
        ttft_ms: targets as `size_all` takes them, checked, each of shape (M,).
        itl_ms: the same.
        percentile: the same.
        stability_margin: the same.

    """
    carried = np.zeros(len(replicas), dtype=np.bool_)
    most = (1.0 - stability_margin) * LIMIT_SHARE
    for part in chain.parts(replicas):
        table = chain.Chain(replicas.take(part))
        least_accepted = goodput_rps[part] / table.replicas.max_rate_rps
        good = most[part] * table.seen(most[part]).accepted >= least_accepted
        load = accepted.arrivals(table, np.minimum(least_accepted, most[part]), most[part], good)
        for target, wants in ((TTFT, ttft_ms[part]), (ITL, itl_ms[part])):
            rows = np.flatnonzero(good & ~np.isnan(wants))
            if rows.size:
                search = Search(table.take(rows), target, wants[rows], percentile[part][rows])
                good[rows] = search.hold(load[rows])
        carried[part] = good
    return carried


def rate_to_serve(
    arrival_rate_rps: ArrayLike, tps: ArrayLike, output_tokens: ArrayLike
) -> FloatArray:
    """Rate that all replicas together must carry: a tokens-per-second target is a floor under it."""
    return np.maximum(
        np.asarray(arrival_rate_rps, dtype=np.float64),
        np.asarray(tps, dtype=np.float64) / np.asarray(output_tokens, dtype=np.float64),
    )


def replicas_needed(
    rate_rps: ArrayLike, goodput_rps: ArrayLike, min_replicas: ArrayLike = 0
) -> NDArray[np.int64]:
    """Least number of replicas that carry the rate, but at least the minimum."""
    replicas = np.asarray(rate_rps, dtype=np.float64) / np.asarray(goodput_rps, dtype=np.float64)
    whole = np.ceil(np.minimum(replicas * (1.0 - REPLICA_ROUNDING), 2.0**53)).astype(np.int64)
    return np.maximum(whole, np.asarray(min_replicas, dtype=np.int64))


def scaled_max_batch(max_batch: int, at_tokens: float, output_tokens: float) -> int:
    """Max batch for requests of `output_tokens`, when it was measured at `at_tokens` (0: not known)."""
    if at_tokens > 0:
        return max(int(max_batch * at_tokens / output_tokens), 1)
    return max(max_batch, 1)


def _given(value: np.float64) -> float | None:
    return None if math.isnan(value) else float(value)
