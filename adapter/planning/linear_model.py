"""Options whose profiles are decode and prefill times over the batch: alpha, beta, gamma, delta."""

from __future__ import annotations

from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from adapter.planning.options import (
    BINDINGS,
    Binding,
    IntArray,
    Options,
    Requirements,
    Sized,
    SteadyState,
    bounded,
    output_tokens,
)
from analyzer import capacity, pooling, queueing
from analyzer.errors import InvalidParameterError
from analyzer.replicas import FloatArray, problems

_TIMES = attrgetter("alpha_ms", "beta_ms", "gamma_ms", "delta_ms")
_BINDING = np.array([BINDINGS.index(name) for name in capacity.BINDINGS], dtype=np.int8)


class LinearModel:
    """M options as `queueing.Replicas`."""

    def __init__(self, replicas: queueing.Replicas) -> None:
        self._replicas = replicas

    def size(self, asked: Requirements) -> Sized:
        """Replicas that the rates need; together where they share their queue."""
        replicas = self._replicas
        targets = {
            "ttft_ms": asked.ttft_ms,
            "itl_ms": asked.itl_ms,
            "percentile": asked.percentile,
            "stability_margin": asked.margin,
        }
        sized = capacity.size_all(replicas, **targets, every_target=False)
        reached = sized.unreachable < 0
        needed = capacity.replicas_needed(asked.rate_rps, np.where(reached, sized.goodput_rps, 1.0))
        rows = np.flatnonzero(asked.shared & reached & (needed > 1))
        if rows.size:
            needed[rows] = _together(
                replicas.take(rows),
                asked.rate_rps[rows],
                needed[rows],
                asked.dispersion[rows],
                {name: values[rows] for name, values in targets.items()},
            )
        bound = np.where(reached, sized.binding, np.maximum(sized.unreachable, 0))
        return Sized(
            goodput_rps=sized.goodput_rps,
            binding=_BINDING[bound],
            needed=needed,
            max_batch=replicas.max_batch.astype(np.int64),
            unreachable={row: str(sized[row]) for row in np.flatnonzero(~reached).tolist()},
        )

    def steady(
        self, rows: NDArray[np.intp], asked: Requirements, replicas: IntArray
    ) -> SteadyState:
        """Mean latencies of that many replicas."""
        some = self._replicas.take(rows)
        group = np.where(asked.shared, pooling.together(some, replicas), 1)
        performance = queueing.analyze_all(
            pooling.pooled(some, group), asked.rate_rps * group / replicas
        )
        return SteadyState(
            ttft_ms=performance.ttft_ms, itl_ms=performance.itl_ms, blocking=performance.blocking
        )

    def together(self, rows: NDArray[np.intp], asked: Requirements, replicas: IntArray) -> float:
        """Requests per second of one replica in a pool of that many."""
        some = self._replicas.take(rows)
        group = pooling.together(some, replicas)
        sized = capacity.size_all(
            pooling.pooled(some, group),
            ttft_ms=asked.ttft_ms,
            itl_ms=asked.itl_ms,
            percentile=asked.percentile,
            stability_margin=asked.margin,
            every_target=False,
        )
        return float(sized.goodput_rps[0] / group[0])

    def reason(self, row: int, binding: Binding, rate_rpm: float) -> str:  # noqa: ARG002 - as all models
        """What bounds a replica."""
        return bounded(binding, rate_rpm)

    def reason_together(self, row: int) -> str:  # noqa: ARG002 - as all models
        """They take over each other's bursts."""
        return "; replicas behind a least-loaded gateway serve more together"


def _together(
    replicas: queueing.Replicas,
    rate_rps: FloatArray,
    alone: IntArray,
    dispersion: FloatArray,
    targets: dict[str, FloatArray],
) -> IntArray:
    """Replicas behind a least-loaded gateway, also for arrivals in bursts; `alone` are enough without one."""
    numbers = pooling.replicas_needed(replicas, rate_rps, alone, **targets)
    rows = np.flatnonzero(dispersion > 1.0)
    if rows.size:
        some = replicas.take(rows)
        carried = pooling.carried_rps(
            some, numbers[rows], **{name: values[rows] for name, values in targets.items()}
        )
        busy = carried / some.max_rate_rps
        numbers[rows] = pooling.bursty(numbers[rows], busy, dispersion[rows])
    return numbers


def model(
    options: Options,
) -> tuple[LinearModel | None, list[int], dict[int, InvalidParameterError]]:
    """The model of the options that have one with their indices, and the problems of the others by index."""
    table = columns(options)
    errors = problems(table)
    valid = [index for index in range(len(options)) if index not in errors]
    if not valid:
        return None, valid, errors
    rows = np.array(valid, dtype=np.intp)
    replicas = queueing.Replicas(**{name: column[rows] for name, column in table.items()})
    return LinearModel(replicas), valid, errors


def columns(options: Options) -> dict[str, FloatArray]:
    """Arrays under the names of the analyzer's PARAMETERS."""
    # The caller has chosen those that have them.
    times = [_TIMES(option.profile.latency) for option in options.each]
    lines = np.array(times, dtype=np.float64).reshape(len(options), 4)
    batch = np.array([option.max_batch for option in options.each], dtype=np.float64)
    lengths = options.by_variant(
        lambda option: (option.variant.load.input_tokens, output_tokens(option.variant))
    )
    return {
        "alpha_ms": lines[:, 0],
        "beta_ms": lines[:, 1],
        "gamma_ms": lines[:, 2],
        "delta_ms": lines[:, 3],
        "input_tokens": lengths[:, 0],
        "output_tokens": lengths[:, 1],
        "max_batch": batch,
        "max_queue": queueing.MAX_QUEUE_TO_BATCH * batch,
    }
