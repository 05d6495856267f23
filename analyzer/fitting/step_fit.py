"""The times of an engine's step from benchmark rows.

    ITL(n) = base + per_request n + per_context n ctx + per_prefill (n - 1) in / out
             [+ per_sqrt sqrt(n)] [+ per_prompt (n - 1) / out]

with ctx = in + out / 2: with chunked prefill every decode step also carries another request's prompt, and
while a request decodes `out` tokens each of the n - 1 others brings one prompt of `in` tokens (n where
arrivals do not wait for responses). The term in sqrt(n) is taken where it lowers the error, as for mixtures
of experts; what a prompt costs whatever its length (per_prompt), where it lowers the error clearly.
Saturated rows are detected (`saturation`) and left out; they show instead how many requests the engine holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.errors import FitError, SaturatedRowsError
from analyzer.fitting import forms, saturation
from analyzer.fitting.benchmark_rows import BenchmarkRows
from analyzer.fitting.forms import BASE, CONTEXT, NAMES, PREFILL, REQUEST, SQRT, Form
from analyzer.fitting.regression import independent
from analyzer.fitting.saturation import TtftLine
from analyzer.fitting.usual_ttft import usual_line
from analyzer.replicas import BoolArray, FloatArray
from analyzer.step_times import StepTimes

LEAST_BASE = 1e-3
"""A step takes time whatever it does: at least this share of the lowest ITL."""
_SPREAD = 0.25
"""Standard deviation of logarithms up to which saturated rows agree on a bound."""
_BEYOND = 1.1
"""Ratio from which on one number of requests or tokens is more than another."""
_FOLLOWS = 0.07
"""A row's ITL follows its concurrency when it is within this share of the prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturated:
    """A row that was left out.

    Attributes:
        row: its index in the input.
        running: requests that were in service, by Little's law; the concurrency where no TTFT is known.
        reason: a sentence.

    """

    row: int
    running: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of the batch that saturated rows show; None where they show none.

    Attributes:
        max_requests: requests in service at once, whatever their lengths.
        kv_tokens: tokens of context that all requests in service hold together.
        certain: rows of different lengths separate the two; otherwise kv_tokens is one of two explanations.

    """

    max_requests: float | None = None
    kv_tokens: float | None = None
    certain: bool = True

    def running(self, concurrency: FloatArray, context_tokens: FloatArray) -> FloatArray:
        """Requests in service of those inside, shape (M,)."""
        most = np.full(
            concurrency.shape, np.inf if self.max_requests is None else self.max_requests
        )
        if self.kv_tokens is not None:
            most = np.minimum(most, self.kv_tokens / np.maximum(context_tokens, 1.0))
        return np.asarray(np.minimum(concurrency, np.maximum(most, 1.0)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepFit:
    """Step times, and how far the rows determine them.

    Attributes:
        step_times: the fit.
        errors: standard error of each field of step_times, ms; 0 where the rows leave no freedom.
        undetermined: fields of step_times that the rows do not separate from others.
        ttft: TTFT of rows that did not wait; None without TTFTs.
        saturated: rows left out of both.
        waited: rows of which only the TTFT is left out: their ITL follows the concurrency.
        outliers: rows used that count less than half.
        bounds: limits of the batch that saturated rows show.
        rows: rows used for ITL.
        least_itl_ms: lowest ITL of the rows used that are no outliers.
        error: mean absolute error of ITL over the rows used that are no outliers, relative.

    """

    step_times: StepTimes
    errors: dict[str, float]
    undetermined: tuple[str, ...]
    ttft: TtftLine | None
    saturated: tuple[Saturated, ...]
    waited: tuple[int, ...]
    outliers: tuple[int, ...]
    bounds: Bounds
    rows: int
    least_itl_ms: float
    error: float

    def itl_ms(self, rows: BenchmarkRows) -> FloatArray:
        """ITL predicted for each row's load, within the bounds of the batch, shape (M,)."""
        inside = self.bounds.running(rows.concurrency, rows.context_tokens)
        times = self.step_times
        values = np.array([getattr(times, name) for name in NAMES])
        return np.asarray(forms.design(rows, inside) @ values)

    def ttft_ms(self, rows: BenchmarkRows) -> FloatArray:
        """TTFT of each row's load if no request waits for the batch, ms, shape (M,); NaN without a line."""
        if self.ttft is None:
            return np.full(rows.size, np.nan)
        return self.ttft.at(rows.concurrency, rows.input_tokens, self.itl_ms(rows))


def fit_steps(rows: BenchmarkRows, *, max_num_seqs: int | None = None) -> StepFit:
    """Fit step times to benchmark rows.

    Args:
        rows: at two or more concurrencies.
        max_num_seqs: of the engine that was measured, where it is known; higher concurrencies waited.

    Raises:
        FitError: too few rows remain, or all are at one load; the message names what to measure.
        SaturatedRowsError: too few remain because requests waited in the others; names those.

    """
    over: BoolArray = np.zeros(rows.size, dtype=np.bool_)
    if max_num_seqs is not None:
        over = rows.concurrency > max_num_seqs
    waiting = saturation.find_waiting(rows, over)
    timed = ~np.isnan(rows.itl_ms)
    left_out = waiting.waited
    _check(rows, timed & ~left_out, waiting, max_num_seqs)
    form = forms.regress(rows.part(timed & ~left_out))
    # A wait in TTFT beside an ITL that follows the concurrency (a warm-up, a burst) spoils the TTFT only.
    expected = forms.design(rows, rows.concurrency)[:, form.taken] @ form.fitted.coefficients
    follows = np.abs(np.nan_to_num(rows.itl_ms) - expected) <= _FOLLOWS * expected
    sure = over | rows.unlimited
    used = timed & (~left_out | (follows & ~sure))
    running = saturation.running(rows, waiting.line)
    bounds = _bounds(rows, timed & left_out & ~used & ~np.isnan(rows.ttft_ms), used, running)
    if bounds is None:
        bounds, used = Bounds(), timed & ~(left_out & sure)
    if (used & left_out).any():
        form = forms.regress(rows.part(used))
    saturated = left_out & ~used
    values, errors, undetermined = _separated(form, rows.part(used))
    kept = ~form.fitted.outliers
    kept = kept if kept.any() else ~kept
    least_itl_ms = float(rows.itl_ms[used][kept].min())
    values[BASE] = max(values[BASE], LEAST_BASE * least_itl_ms)
    indices = np.flatnonzero(used)
    return StepFit(
        step_times=StepTimes(**dict(zip(NAMES, values, strict=True))),
        errors=dict(zip(NAMES, errors, strict=True)),
        undetermined=undetermined,
        ttft=_ttft(rows, waiting, timed),
        saturated=tuple(
            Saturated(
                row=int(row),
                running=float(running[row]),
                reason=_reason(rows, int(row), waiting.line, float(running[row]), max_num_seqs),
            )
            for row in np.flatnonzero(saturated)
        ),
        waited=tuple(int(row) for row in np.flatnonzero(left_out & used)),
        outliers=tuple(int(row) for row in indices[form.fitted.outliers]),
        bounds=bounds,
        rows=indices.size,
        least_itl_ms=least_itl_ms,
        error=float(np.expm1(np.abs(form.fitted.residuals[kept])).mean()),
    )


def _ttft(rows: BenchmarkRows, waiting: saturation.Waiting, timed: BoolArray) -> TtftLine | None:
    """The line that predicts TTFT. Marks and bounds go by the one of least squares, which no prior moves."""
    if waiting.line is None:
        return None
    served = timed & ~np.isnan(rows.ttft_ms) & ~waiting.waited
    return usual_line(rows.part(served), waiting.line)


def _check(
    rows: BenchmarkRows, used: BoolArray, waiting: saturation.Waiting, max_num_seqs: int | None
) -> None:
    if int(used.sum()) >= 2:
        if len(independent(forms.design(rows, rows.concurrency)[used], range(SQRT))) > 1:
            return
        raise FitError(
            "concurrency and lengths: the same in all usable rows, so no two terms can be separated;"
            " measure at two or more concurrencies, such as 1, 4, 16 and 64"
        )
    count, left_out = int(used.sum()), np.flatnonzero(waiting.waited)
    problem = (
        f"{count} usable rows of {rows.size}; step times need at least 2:"
        " measure at fixed concurrencies, such as 1, 4, 16 and 64"
    )
    if not left_out.size:
        raise FitError(problem)
    running = saturation.running(rows, waiting.line)
    raise SaturatedRowsError(
        f"{problem}; {left_out.size} are saturated",
        tuple(
            (int(row), _reason(rows, int(row), waiting.line, float(running[row]), max_num_seqs))
            for row in left_out
        ),
    )


def _separated(form: Form, rows: BenchmarkRows) -> tuple[list[float], list[float], tuple[str, ...]]:
    """Coefficients and errors in the order of NAMES, and the names that the rows do not separate.

    Where in / out is the same in all rows the slope over n is known, but not which part of it is prefill. The
    prompt's own time in TTFT says: (TTFT - ITL) / in at the lowest load.
    """
    values, errors = [0.0] * len(NAMES), [0.0] * len(NAMES)
    for column, value, error in zip(
        form.taken, form.fitted.coefficients, form.fitted.errors, strict=True
    ):
        values[column], errors[column] = float(value), float(error)
    undetermined = []
    if REQUEST not in form.shown:
        undetermined.append(NAMES[REQUEST])
    if CONTEXT not in form.shown:
        undetermined.append(NAMES[CONTEXT])
    if PREFILL not in form.shown and (rows.input_tokens > 0).any():
        undetermined.append(NAMES[PREFILL])
        if REQUEST in form.shown:
            undetermined.insert(0, NAMES[REQUEST])
    if PREFILL not in form.taken and (rows.input_tokens > 0).any():
        ratio = float(np.median(rows.input_tokens / rows.output_tokens))
        timed = np.flatnonzero(~np.isnan(rows.ttft_ms) & (rows.input_tokens > 0))
        if timed.size and ratio > 0:
            low = timed[np.argmin(rows.concurrency[timed])]
            own = (rows.ttft_ms[low] - rows.itl_ms[low]) / rows.input_tokens[low]
            prefill = min(max(float(own), 0.0), values[REQUEST] / ratio)
            closed = 0.0 if rows.open_loop.all() else 1.0
            values[PREFILL] = prefill
            values[REQUEST] = max(values[REQUEST] - prefill * ratio, 0.0)
            values[BASE] += closed * prefill * ratio
    return values, errors, tuple(undetermined)


def _bounds(
    rows: BenchmarkRows, saturated: BoolArray, used: BoolArray, running: FloatArray
) -> Bounds | None:
    """What the saturated rows say; None where they agree on no bound, so that something else delayed them."""
    if not saturated.any():
        return Bounds()
    inside = rows.concurrency[used].max()
    tokens = (rows.concurrency * rows.context_tokens)[used].max()
    by_batch, by_tokens = _spreads(rows, saturated, running)
    if min(by_batch, by_tokens) > _SPREAD:
        # What fewer requests and tokens waited for than others hold is no limit, but a stall or a warm-up;
        # what others waited for may be one too, unless it kept many of them out.
        held_up = (_BEYOND * running < inside) & (_BEYOND * running * rows.context_tokens < tokens)
        saturated = saturated & ~held_up
        if not saturated.any() or (_BEYOND * running >= rows.concurrency)[saturated].any():
            return None
        by_batch, by_tokens = _spreads(rows, saturated, running)
        if min(by_batch, by_tokens) > _SPREAD:
            return None
    held, context = running[saturated], rows.context_tokens[saturated]
    certain = bool(np.ptp(np.log(context)) > np.log(1.25))
    most, kv_tokens = float(np.median(held)), float(np.median(held * context))
    # What unsaturated rows exceed is no bound.
    tokens_fit, batch_fits = float(tokens) <= _BEYOND * kv_tokens, float(inside) <= _BEYOND * most
    if tokens_fit and not (certain and by_batch < by_tokens and batch_fits):
        return Bounds(kv_tokens=kv_tokens, certain=certain)
    return Bounds(max_requests=most) if batch_fits else None


def _spreads(rows: BenchmarkRows, saturated: BoolArray, running: FloatArray) -> tuple[float, float]:
    """Standard deviations of the logarithms of the requests, and of the tokens, that saturated rows held."""
    held = running[saturated]
    by_tokens = np.std(np.log(held * rows.context_tokens[saturated]))
    return float(np.std(np.log(held))), float(by_tokens)


def _reason(
    rows: BenchmarkRows, row: int, line: TtftLine | None, running: float, max_num_seqs: int | None
) -> str:
    n = rows.concurrency[row]
    if max_num_seqs is not None and n > max_num_seqs:
        return f"concurrency {n:.4g} is above max_num_seqs {max_num_seqs}, so requests waited"
    how = "all requests were sent at once: " if rows.unlimited[row] else ""
    if line is None:
        return f"{how}{rows.ttft_ms[row] / rows.request_ms[row]:.0%} of a request's time is TTFT"
    expected = float(
        line.at(
            rows.concurrency[row : row + 1],
            rows.input_tokens[row : row + 1],
            rows.itl_ms[row : row + 1],
        )[0]
    )
    return (
        f"{how}TTFT {rows.ttft_ms[row]:.4g} ms where {expected:.4g} follow from the load without waiting;"
        f" about {running:.4g} of {n:.4g} requests ran"
    )
