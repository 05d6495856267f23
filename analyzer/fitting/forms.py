"""Columns of the linear form of ITL, and which of them a set of rows is fitted with.

Where rows are many, the columns that they show; where they are few beside the columns, all of them, each
held near what engines usually take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.fitting.benchmark_rows import BenchmarkRows
from analyzer.fitting.regression import Regression, independent, informed, robust
from analyzer.replicas import FloatArray

BASE, REQUEST, CONTEXT, PREFILL, SQRT, PROMPT = range(6)
NAMES = (
    "base_ms",
    "per_request_ms",
    "per_context_token_ms",
    "per_prefill_token_ms",
    "per_sqrt_request_ms",
    "per_prompt_ms",
)
"""Fields of StepTimes in the order of the columns."""
_SPREADS = np.array([np.inf, 1.0, 1.0 / 3.0, 3.0, 1.0, 1.0])
"""Largest share of ITL that each column is expected to be, in the order of NAMES: the standard deviation of
its prior. Prefill is seldom small, context often is."""
_CONTEXT_HELPS = 0.95
"""The term of the context must lower the error to this share."""
_BENDS = 0.9
"""The term in sqrt(n) must lower the error at least to this share."""
_BENDS_FROM = 4
"""Rows from which on the term in sqrt(n) is fitted."""
_PROMPT_COSTS = 0.8
"""The term of a prompt whatever its length must lower the error at least to this share."""
_PROMPT_SHOWS = 0.005
"""It must also lower the error by this share of ITL: below that it explains the deviations of closed loops
from the form, and takes from the terms that it resembles."""
_USUAL = (BASE, REQUEST, CONTEXT, PREFILL, SQRT)
_USUAL_MEANS = np.array([0.0, 4e-3, 1e-6, 2.7e-3, 0.14])
_USUAL_DEVIATIONS = np.array([np.inf, 8e-3, 2e-6, 2.5e-3, 0.14])
"""Coefficients of the columns of _USUAL over the ITL of a request alone, as about 50 groups of measured
servers have them (dense models and mixtures of experts, 8B to 1T parameters, A100 to GB200), with some twice
their spread: servers unlike those are not pulled far."""
_SHARE_OF_OWN, _SHARE_DEVIATION = 0.65, 0.35
"""Share that per_prefill_token_ms is of a lone prompt's time per token (`prompt_ms`), in the same groups."""
_FEW = 2.0
"""Rows for each column up to which the usual sizes help."""
_CERTAIN, _CERTAIN_FREE = 0.005, 2
"""A fit whose error is below this, with so many rows to spare, needs no help."""
_TELLING = 4
_HELPS = 0.7
"""Where rows tell all four terms apart, the usual sizes must lower the error of rows left out to this share:
they bend what clean rows say."""
_ALONE_ROUNDS = 2
_LEAST_ALONE = 0.2


def design(rows: BenchmarkRows, inside: FloatArray) -> FloatArray:
    """Columns in the order of NAMES, shape (M, 6)."""
    others = np.where(rows.open_loop, inside, np.maximum(inside - 1.0, 0.0))
    return np.column_stack(
        [
            np.ones(rows.size),
            inside,
            inside * rows.context_tokens,
            others * rows.input_tokens / rows.output_tokens,
            np.sqrt(inside),
            others / rows.output_tokens,
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A fit of some columns.

    Attributes:
        fitted: the fit.
        taken: its columns, in the order of its coefficients.
        shown: those that the rows tell apart; the coefficients of the others are what engines usually have.

    """

    fitted: Regression
    taken: list[int]
    shown: list[int]


def regress(rows: BenchmarkRows) -> Form:
    """The fit of the columns that suit the rows."""
    columns = design(rows, rows.concurrency)
    fitted, taken = _shown(rows, columns)
    told = independent(columns, (BASE, REQUEST, PREFILL, CONTEXT))
    if rows.size >= _BENDS_FROM and _beyond_ttft(rows, fitted, taken):
        usual = _usual(rows, columns, by_ttft=True)
        return Form(fitted=usual, taken=list(_USUAL), shown=told)
    free = rows.size - len(taken)
    if rows.size > _FEW * len(_USUAL) or (free >= _CERTAIN_FREE and fitted.error < _CERTAIN):
        return Form(fitted=fitted, taken=taken, shown=taken)
    if REQUEST not in told or rows.size < _BENDS_FROM:
        return Form(fitted=fitted, taken=taken, shown=taken)
    usual = _usual(rows, columns, by_ttft=PREFILL not in told)
    if len(told) == _TELLING and usual.left_out_error > _HELPS * fitted.left_out_error:
        return Form(fitted=fitted, taken=taken, shown=taken)
    return Form(fitted=usual, taken=list(_USUAL), shown=told)


def _beyond_ttft(rows: BenchmarkRows, fitted: Regression, taken: list[int]) -> bool:
    """Whether a prompt's token costs others more than its own TTFT has room for.

    Such a fit gives prefill what is due to context or load, as where long prompts were measured at low
    concurrencies only, and is off wherever there are more of them.
    """
    own = prompt_ms(rows)
    return own > 0 and PREFILL in taken and fitted.coefficients[taken.index(PREFILL)] > own


def _usual(rows: BenchmarkRows, columns: FloatArray, *, by_ttft: bool) -> Regression:
    """The fit of all columns but that of a prompt, each near its usual size."""
    usual = list(_USUAL)
    least = alone = float(rows.itl_ms.min())
    first = np.array([1.0, 1.0, float(rows.context_tokens.min()), 0.0, 1.0])
    own = prompt_ms(rows) if by_ttft else 0.0
    for _ in range(_ALONE_ROUNDS):
        means, deviations = alone * _USUAL_MEANS, alone * _USUAL_DEVIATIONS
        if own > 0:
            place = usual.index(PREFILL)
            means[place], deviations[place] = own * _SHARE_OF_OWN, own * _SHARE_DEVIATION
        fitted = informed(columns[:, usual], rows.itl_ms, [(means, deviations)])
        alone = min(max(float(first @ fitted.coefficients), _LEAST_ALONE * least), least)
    return fitted


def prompt_ms(rows: BenchmarkRows) -> float:
    """Least TTFT per token of a long prompt beside a step; 0 where there is none."""
    timed = ~np.isnan(rows.ttft_ms) & (rows.input_tokens > 0)
    timed &= rows.input_tokens >= 0.5 * rows.input_tokens.max()
    if not timed.any():
        return 0.0
    return float(((rows.ttft_ms - rows.itl_ms) / np.maximum(rows.input_tokens, 1.0))[timed].min())


def _shown(rows: BenchmarkRows, columns: FloatArray) -> tuple[Regression, list[int]]:
    """The fit of the columns that the rows hold, and those columns.

    Rows seldom tell all columns apart: at few concurrencies a line and a root look alike. A prior that no
    column is more than about all of ITL (context: a third) splits between them what they have in common,
    which predicts rows in between and beyond better than the choice of one. Rows at three concurrencies or
    more show whether the root is needed; what a prompt costs whatever its length is seldom seen beside its
    tokens, so that it must explain more of the error than a root.
    """
    # Prefill before context: it is the larger of the two on every engine measured.
    plain = independent(columns, (BASE, REQUEST, PREFILL, CONTEXT))
    fitted = robust(columns[:, plain], rows.itl_ms, _SPREADS[plain])
    if CONTEXT in plain:
        less = [column for column in plain if column != CONTEXT]
        other = robust(columns[:, less], rows.itl_ms, _SPREADS[less])
        if fitted.error > _CONTEXT_HELPS * other.error:
            # Lengths and loads of these rows move together; a term that explains nothing takes from others.
            fitted, plain = other, less
    loads = np.unique(np.round(np.log2(rows.concurrency), 1)).size
    if loads >= 2 and rows.size >= _BENDS_FROM and REQUEST in plain:
        bent = [*plain, SQRT]
        other = robust(columns[:, bent], rows.itl_ms, _SPREADS[bent])
        if loads < 3 or other.error < _BENDS * fitted.error:
            fitted, plain = other, bent
    more = independent(columns, [*plain, PROMPT])
    if PREFILL not in plain or PROMPT not in more or rows.size <= len(more):
        return fitted, plain
    other = robust(columns[:, more], rows.itl_ms, _SPREADS[more])
    enough = min(_PROMPT_COSTS * fitted.error, fitted.error - _PROMPT_SHOWS)
    return (other, more) if other.error < enough else (fitted, plain)
