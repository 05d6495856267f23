"""Options whose profiles are step times of an engine, given or converted from decode and prefill times."""

from __future__ import annotations

from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from adapter.planning import fleet as fleets
from adapter.planning.options import (
    BINDINGS,
    AcceleratorOption,
    Binding,
    IntArray,
    Options,
    Requirements,
    Sized,
    SteadyState,
    bounded,
    output_tokens,
)
from analyzer import capacity, queueing
from analyzer.engine import columns as engine_columns
from analyzer.engine import conversion, search, sizing
from analyzer.engine.columns import Engines
from analyzer.engine.nodes import columns_of_shares
from analyzer.errors import InvalidParameterError
from analyzer.replicas import FloatArray
from analyzer.routing.apart import replicas_apart
from analyzer.step_times import EngineLimits, Lengths, StepTimes

BATCHED_TOKENS = 2048
"""Tokens that one step computes at most where the profile does not say: the engine's smallest default."""

LENGTHS_FACTOR = 1.5
"""Factor by which mean lengths may leave those of a measurement before it is worth a note."""

_STEPS = attrgetter(*engine_columns.COLUMNS[:6])
_BINDING = np.array([BINDINGS.index(name) for name in search.BINDINGS], dtype=np.int8)


MOST_SHARING = 16
"""Replicas up to which what each of them gains by a load-aware gateway was compared with simulations."""

LEAST_GAIN = 1e-3
"""Share of its rate by which a replica must serve more among others for the reason to say so."""


class StepModel:
    """M options as `Engines`.

    Replicas behind a load-aware gateway have a steadier ITL, of which percentiles gain, and as many as there
    are requests compute each alone. Nothing else of them is counted: a prompt is computed by one replica
    whatever the others do, so they do not act as one of N-fold speed.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._gains = np.zeros(len(engines), dtype=np.bool_)
        self._apart = np.zeros(len(engines), dtype=np.bool_)

    def size(self, asked: Requirements) -> Sized:
        """Replicas that the rates need, with the margin for step times kept free."""
        sized = sizing.size_engines(
            self._engines,
            ttft_ms=asked.ttft_ms,
            itl_ms=asked.itl_ms,
            tps=asked.tps,
            percentile=asked.percentile,
            headroom=asked.step_margin,
        )
        reached = ~np.isnan(sized.rate_rps)
        needed = capacity.replicas_needed(asked.rate_rps, np.where(reached, sized.rate_rps, 1.0))
        steadier = sized.binding == search.BINDINGS.index("itl")
        steadier &= ~np.isnan(asked.percentile)
        rows = np.flatnonzero(asked.shared & reached & steadier & (needed > 1))
        if rows.size:
            needed[rows] = self._needed_together(
                rows, asked.select(rows), needed[rows], sized.rate_rps[rows]
            )
        self._fewer_apart(asked, needed, np.flatnonzero(asked.shared & reached & (needed > 1)))
        return Sized(
            goodput_rps=sized.rate_rps,
            binding=_BINDING[sized.binding],
            needed=needed,
            max_batch=sized.max_batch.astype(np.int64),
            unreachable={
                row: _unreachable(sized[row], row, asked)
                for row in np.flatnonzero(~reached).tolist()
            },
        )

    def steady(
        self, rows: NDArray[np.intp], asked: Requirements, replicas: IntArray
    ) -> SteadyState:
        """Mean latencies of that many replicas."""
        ttft, itl, refused = sizing.mean_latencies(
            self._engines.take(rows), asked.rate_rps / replicas, queueing.MAX_QUEUE_TO_BATCH
        )
        return SteadyState(ttft_ms=ttft, itl_ms=itl, blocking=refused)

    def together(self, rows: NDArray[np.intp], asked: Requirements, replicas: IntArray) -> float:
        """Requests per second of one replica among that many."""
        return float(self._rates_together(rows, asked, replicas)[0])

    def _needed_together(
        self, rows: NDArray[np.intp], asked: Requirements, alone: IntArray, one_rps: FloatArray
    ) -> IntArray:
        """Fewest replicas that carry the rates together: at most `alone`, of `one_rps` each."""
        each = self._rates_together(rows, asked, alone)
        self._gains[rows] = each > (1.0 + LEAST_GAIN) * one_rps
        # Fewer of them gain no more each, so fewer than these are never enough.
        numbers = np.minimum(capacity.replicas_needed(asked.rate_rps, each), alone)
        left = np.flatnonzero(numbers < alone)
        while left.size:
            some = asked.select(left)
            each = self._rates_together(rows[left], some, numbers[left])
            left = left[capacity.replicas_needed(some.rate_rps, each) > numbers[left]]
            numbers[left] += 1
            left = left[numbers[left] < alone[left]]
        return numbers

    def _fewer_apart(self, asked: Requirements, needed: IntArray, rows: NDArray[np.intp]) -> None:
        """Lower `needed` of these rows to the replicas at which requests seldom meet, where these are fewer.

        What one replica carries among random arrivals says little where a request must be alone to meet its
        targets: those of a load-aware gateway are, while there is an empty replica for each.
        """
        engines, one = self._engines, np.ones(len(self._engines))
        chunks = 1.0 + engines.input_tokens / engines.max_num_batched_tokens
        alone_ms = engines.prefill_ms * engines.input_tokens + engines.decode_ms(one) * (
            chunks + engines.decodes
        )
        at_once = asked.rate_rps * alone_ms / 1000.0 / (1.0 - asked.step_margin)
        # Nearly always there are far more requests than replicas.
        rows = rows[(at_once[rows] < needed[rows]) & ~np.isnan(asked.percentile[rows])]
        rows = rows[np.isnan(asked.tps[rows])]
        if not rows.size:
            return
        missed = sizing.missed_alone(
            engines.take(rows), ttft_ms=asked.ttft_ms[rows], itl_ms=asked.itl_ms[rows]
        )
        for row, share in zip(
            rows.tolist(), (1.0 - asked.percentile[rows] - missed).tolist(), strict=True
        ):
            apart = replicas_apart(
                float(at_once[row]), share, dispersion=float(asked.dispersion[row])
            )
            if apart is not None and apart < needed[row]:
                needed[row] = apart
                self._apart[row] = True

    def _rates_together(
        self, rows: NDArray[np.intp], asked: Requirements, replicas: IntArray
    ) -> FloatArray:
        """Requests per second of one of that many replicas of each row; bursts are of all of them at once."""
        met = asked.dispersion_over(self._longest_seconds(rows, asked))
        sharing = np.minimum(replicas, MOST_SHARING) / met
        sized = sizing.size_engines(
            self._engines.take(rows, np.maximum(sharing, 1.0)),
            ttft_ms=asked.ttft_ms,
            itl_ms=asked.itl_ms,
            tps=asked.tps,
            percentile=asked.percentile,
            headroom=asked.step_margin,
        )
        return sized.rate_rps

    def _longest_seconds(self, rows: NDArray[np.intp], asked: Requirements) -> FloatArray:
        """Mean time in service of a request with its ITL at the target, of full batches without one."""
        engines = self._engines.take(rows)
        step_ms = np.fmin(asked.itl_ms, engines.decode_ms(engines.max_batch))
        return np.asarray(
            (engines.prefill_ms * engines.input_tokens + step_ms * (1.0 + engines.decodes)) / 1000.0
        )

    def reason(self, row: int, binding: Binding, rate_rpm: float) -> str:
        """What bounds a replica, with the requests that its KV cache holds where it binds."""
        if binding == "kv":
            batch, context = self._engines.max_batch[row], self._engines.context[row]
            return (
                f"bound by KV cache: {batch:,.0f} requests of {context:,.0f} tokens;"
                f" a replica serves {rate_rpm:.2f} req/min"
            )
        return bounded(binding, rate_rpm)

    def reason_together(self, row: int) -> str:
        """They gain a steadier ITL, or nothing that is counted."""
        if self._apart[row]:
            return "; behind a least-loaded gateway so many replicas compute nearly every request alone"
        if self._gains[row]:
            return "; replicas behind a least-loaded gateway have a steadier ITL, and serve more together"
        return "; the gain of the least-loaded gateway is not counted"


def model(
    options: Options,
) -> tuple[StepModel | None, list[int], dict[int, InvalidParameterError]]:
    """The model of the options that have one with their indices, and the problems of the others by index."""
    table = columns(options)
    errors = engine_columns.problems(table)
    valid = [index for index in range(len(options)) if index not in errors]
    if not valid:
        return None, valid, errors
    rows = np.array(valid, dtype=np.intp)
    return (
        StepModel(
            Engines(
                **{name: column[rows] for name, column in table.items()},
                short_answers=columns_of_shares(
                    [options.each[index].variant.load.short_answers for index in valid]
                ),
            )
        ),
        valid,
        errors,
    )


def columns(options: Options) -> dict[str, FloatArray]:
    """Arrays under the names of the analyzer's COLUMNS for engines."""
    # The caller has chosen those that have step times.
    times = [_STEPS(step_times(option.profile)) for option in options.each]
    bounds = [
        (its.max_num_seqs, its.max_num_batched_tokens, np.inf)
        if its.kv_tokens is None
        else (its.max_num_seqs, its.max_num_batched_tokens, its.kv_tokens)
        for its in map(limits, options.each)
    ]
    table = np.vstack(
        (
            np.array(times, dtype=np.float64).T,
            np.array(bounds, dtype=np.float64).T,
            options.by_variant(_lengths_row).T,
        )
    )
    return dict(zip(engine_columns.COLUMNS, table, strict=True))


def _lengths_row(option: AcceleratorOption) -> tuple[float, ...]:
    now = lengths(option.variant)
    return now.input_tokens, now.output_tokens, now.input_cv, now.output_cv, now.cached_tokens


def step_times(profile: fleets.Profile) -> StepTimes | None:
    """Step times of a profile; None where it has none and the lengths of its measurement are not known."""
    latency = profile.latency
    if isinstance(latency, StepTimes):
        return latency
    at = _measured_at(profile)
    if at is None:
        return None
    try:
        return conversion.step_times(latency, at)
    except InvalidParameterError:
        return None


def limits(option: AcceleratorOption) -> EngineLimits:
    """Limits of the engine; a batch size of the variant's own overrides the profile's."""
    given = option.profile.limits
    if given is None:
        budget = max(BATCHED_TOKENS, 2 * option.max_batch)
        return EngineLimits(max_num_seqs=option.max_batch, max_num_batched_tokens=budget)
    if option.variant.max_batch:
        return EngineLimits(
            max_num_seqs=option.variant.max_batch,
            max_num_batched_tokens=given.max_num_batched_tokens,
            kv_tokens=given.kv_tokens,
        )
    return given


def lengths(variant: fleets.Variant) -> Lengths:
    """Lengths of the traffic; prompt tokens are those that are computed."""
    load = variant.load
    cached = min(load.cached_tokens, load.input_tokens)
    return Lengths(
        input_tokens=load.input_tokens - cached,
        output_tokens=output_tokens(variant),
        input_cv=load.input_cv,
        output_cv=load.output_cv,
        cached_tokens=cached,
        short_answers=load.short_answers,
    )


def lengths_note(variant: fleets.Variant, profile: fleets.Profile) -> str:
    """Sentence on the measured lengths of a profile.

    Empty where the traffic has not left them, or where none are given.
    """
    if isinstance(profile.latency, StepTimes) or not variant.load.arrival_rate_rps:
        return ""
    if profile.at_tokens <= 0 and profile.at_input_tokens <= 0:
        return ""
    at, now = _measured_at(profile), lengths(variant)
    if (profile.at_tokens > 0) != (profile.at_input_tokens > 0):
        given, absent = "atTokens", "atInputTokens"
        if profile.at_tokens <= 0:
            given, absent = absent, given
        return (
            f"profile gives {given} without {absent}, so its times cannot be converted to the lengths of the"
            f" traffic, {variant.load.input_tokens:.0f}/{now.output_tokens:.0f} tokens: add {absent}"
        )
    if at is None or not conversion.lengths_left(at, now, LENGTHS_FACTOR):
        return ""
    return (
        f"profile was measured at {at.input_tokens:g}/{at.output_tokens:g} tokens, traffic has"
        f" {variant.load.input_tokens:.0f}/{now.output_tokens:.0f}:"
        f" {_converted(profile)}; measure again at these lengths, or give step times"
    )


def _converted(profile: fleets.Profile) -> str:
    if step_times(profile) is None:
        return "its times hold for the lengths of the measurement only"
    return "its times are converted to these lengths, which is less exact"


def _measured_at(profile: fleets.Profile) -> Lengths | None:
    if profile.at_input_tokens <= 0 or profile.at_tokens <= 0:
        return None
    return Lengths(input_tokens=profile.at_input_tokens, output_tokens=profile.at_tokens)


def _unreachable(holds: sizing.EngineCapacity, row: int, asked: Requirements) -> str:
    share = float(asked.percentile[row])
    if holds.binding not in ("ttft", "itl"):
        return "a replica does not keep up with any load"
    return str(
        capacity.Unreachable(
            target=holds.binding,
            target_ms=float((asked.ttft_ms if holds.binding == "ttft" else asked.itl_ms)[row]),
            best_ms=holds.best_ms,
            percentile=None if np.isnan(share) else share,
        )
    )
