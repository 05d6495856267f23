"""Which benchmark rows are saturated: their requests waited for a slot in the batch or in the KV cache.

In such a run TTFT includes that wait and ITL belongs to a smaller batch than the concurrency, so neither
determines the times of a step. Five signs, none of which needs the limits of the engine:

* TTFT grows with a load at most in proportion to concurrency, prompt and share of prefill; a row whose TTFT
  is beyond that, seen from other rows, has waited;
* TTFT is more than twice what the rows that did not wait predict for it;
* TTFT is longer than the prompts of all requests inside take, at the largest time per prompt token that any
  row's ITL leaves room for: something else than prompts delayed it (a warm-up, a stall);
* where that leaves fewer than two rows, it holds for those of which more requests inside than in another
  row of their lengths made ITL no longer, and TTFT by most of the time that they were inside;
* a run that sent all requests at once spends a quarter of their time or more on TTFT, or a tenth where it
  had more requests and more tokens inside than another such run that waited could hold.

Little's law gives how many requests really ran in it: concurrency * (1 - wait / time of a request).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.fitting.benchmark_rows import BenchmarkRows
from analyzer.fitting.regression import Regression, independent, robust
from analyzer.replicas import BoolArray, FloatArray

_JUMP = 2.5
_WAITED = 2.0
_UNLIMITED_SHARE, _MORE_SHARE = 0.25, 0.1
_LEAST_ROWS = 2
"""Rows that the rest of a file must keep, or all of it was measured beyond the limit."""

_STEPS = 50.0
"""Steps of decoding beside all prompts that no TTFT without a wait takes."""
_PROMPT_GROWTH = 1.3
ONE_LENGTH = 0.05
"""Spread of prompts, over their median, up to which they have one length."""
_OWN_OF_QUEUED, _LEAST_OWN = 16.0, 0.25
"""Ratio of own_ms to queued_ms that vLLM servers have (14 to 20), and the least share of what does not grow
with the load that is own time where prompts do not queue for each other."""
_MORE, _FLAT, _WAITING = 0.2, 1.02, 0.5
"""Share of further requests, growth of ITL that is none, and least share of their time that is TTFT, in a row
whose further requests only waited."""
_ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TtftLine:
    """TTFT = overhead + steps * ITL + own * input tokens + queued * input tokens * concurrency.

    A request waits for the step that runs, computes its prompt and shares the token budget with the prompts
    of others, of which there are the more the more requests are inside.

    Attributes:
        overhead_ms: part that depends on neither load nor lengths.
        steps: steps waited for.
        own_ms: time per token of the request's own prompt.
        queued_ms: time per prompt token and request inside.

    """

    overhead_ms: float
    steps: float
    own_ms: float
    queued_ms: float

    def at(
        self, concurrency: FloatArray, input_tokens: FloatArray, itl_ms: FloatArray
    ) -> FloatArray:
        """TTFT of requests that do not wait for the batch, ms, shape (M,)."""
        return np.asarray(
            self.overhead_ms
            + self.steps * itl_ms
            + self.own_ms * input_tokens
            + self.queued_ms * input_tokens * concurrency
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waiting:
    """Rows that waited, by their TTFTs.

    Attributes:
        waited: rows whose requests waited for a slot, shape (M,).
        line: TTFT line of the other rows; None where fewer than two have a TTFT.

    """

    waited: BoolArray
    line: TtftLine | None


def find_waiting(rows: BenchmarkRows, known: BoolArray) -> Waiting:
    """Rows whose requests waited, beside those of which that is `known`, shape (M,)."""
    timed = ~np.isnan(rows.ttft_ms) & ~np.isnan(rows.itl_ms)
    at_once = rows.unlimited & timed & (rows.ttft_ms > _UNLIMITED_SHARE * rows.request_ms)
    at_once |= _more_at_once(rows, at_once)
    sure = known | at_once
    stalled = timed & _stalled(rows)
    if int((timed & ~sure & ~stalled).sum()) >= _LEAST_ROWS:
        sure = sure | stalled
    else:
        # An overhead that all rows have is no wait; a batch that more requests do not make larger is full.
        sure = sure | (stalled & _crowded(rows))
    waited = sure | _jumps(rows, timed & ~sure)
    line: TtftLine | None = None
    for _ in range(_ROUNDS):
        line = fit_ttft(rows.part(timed & ~waited))
        if line is None:
            break
        expected = line.at(rows.concurrency, rows.input_tokens, np.nan_to_num(rows.itl_ms))
        now = sure | (timed & (rows.ttft_ms > _WAITED * expected))
        if not (timed & ~now).any() or bool((now == waited).all()):
            break
        waited = now
    return Waiting(waited=waited, line=line)


def fit_ttft(rows: BenchmarkRows) -> TtftLine | None:
    """The line of rows that did not wait; None of fewer than two. `rows` all have TTFT and ITL."""
    if rows.size < 2:
        return None
    design = ttft_columns(rows)
    taken = independent(design, (3, 2, 0, 1))[: rows.size]
    fitted: Regression = robust(design[:, taken], rows.ttft_ms)
    values = np.zeros(4)
    values[taken] = fitted.coefficients
    overhead, steps, own, queued = (float(value) for value in values)
    prompt = float(np.median(rows.input_tokens))
    if 0 not in taken and 2 in taken and np.ptp(rows.input_tokens) <= ONE_LENGTH * prompt:
        # One length of prompts: what does not grow with the load is overhead and the prompt's own time.
        usual = min(max(_OWN_OF_QUEUED * queued, _LEAST_OWN * own), own)
        overhead, own = (own - usual) * prompt, usual
    return TtftLine(overhead_ms=overhead, steps=steps, own_ms=own, queued_ms=queued)


def ttft_columns(rows: BenchmarkRows) -> FloatArray:
    """What the fields of TtftLine are multiplied by, in their order, shape (M, 4)."""
    return np.column_stack(
        [
            np.ones(rows.size),
            rows.itl_ms,
            rows.input_tokens,
            rows.input_tokens * rows.concurrency,
        ]
    )


def running(rows: BenchmarkRows, line: TtftLine | None) -> FloatArray:
    """Requests that were in service on average, shape (M,), by Little's law; at most the concurrency."""
    if line is None:
        expected: FloatArray = np.zeros(rows.size)
    else:
        expected = line.at(rows.concurrency, rows.input_tokens, np.nan_to_num(rows.itl_ms))
    wait = np.maximum(np.nan_to_num(rows.ttft_ms - expected), 0.0)
    share = np.nan_to_num(wait / rows.request_ms)
    return np.asarray(rows.concurrency * (1.0 - np.clip(share, 0.0, 0.99)))


def _stalled(rows: BenchmarkRows) -> BoolArray:
    """Rows whose TTFT is beyond the prompts of all requests inside, shape (M,)."""
    n, prompt = rows.concurrency, rows.input_tokens
    with np.errstate(divide="ignore", invalid="ignore"):
        most = rows.itl_ms * rows.output_tokens / (np.maximum(n - 1.0, 0.0) * prompt)
    most = most[np.isfinite(most)]
    if not most.size:
        return np.zeros(rows.size, dtype=np.bool_)
    prompts = most.min() * prompt * np.maximum(n, 1.0)
    return np.asarray(rows.ttft_ms > prompts + _STEPS * rows.itl_ms)


def _more_at_once(rows: BenchmarkRows, waited: BoolArray) -> BoolArray:
    """Runs that sent all at once, with more inside than one of those that `waited`, shape (M,), could hold.

    Whether the batch or the KV cache bounds that one, it bounds the others too.
    """
    share = rows.ttft_ms / rows.request_ms
    held = rows.concurrency * (1.0 - share)
    tokens = rows.concurrency * rows.context_tokens
    # [a, b]: whether a had more of both inside than b held.
    more = (rows.concurrency[:, None] > held) & (tokens[:, None] > held * rows.context_tokens)
    return np.asarray(rows.unlimited & (share > _MORE_SHARE) & (more & waited).any(axis=1))


def _crowded(rows: BenchmarkRows) -> BoolArray:
    """Rows in which requests more than in another row of their lengths only waited, shape (M,)."""
    n, prompt, output = rows.concurrency, rows.input_tokens, rows.output_tokens
    # [a, b]: whether a's requests beyond b's made no step longer, but waited.
    with np.errstate(divide="ignore", invalid="ignore"):
        more = n[:, None] / n - 1.0
        alike = (np.abs(prompt[:, None] - prompt) <= ONE_LENGTH * prompt) & (
            np.abs(output[:, None] - output) <= ONE_LENGTH * output
        )
        no_longer = rows.itl_ms[:, None] <= _FLAT * rows.itl_ms
        waited = rows.ttft_ms[:, None] - rows.ttft_ms >= _WAITING * more * rows.request_ms
    return np.asarray((alike & (more >= _MORE) & no_longer & waited).any(axis=1))


def _jumps(rows: BenchmarkRows, timed: BoolArray) -> BoolArray:
    """Rows whose TTFT is beyond any growth that the others allow, shape (M,)."""
    n, prompt, output = rows.concurrency, rows.input_tokens, rows.output_tokens
    indices = np.flatnonzero(timed)
    jumped: BoolArray = np.zeros(rows.size, dtype=np.bool_)
    if indices.size < 2:
        return jumped
    # [a, b]: the most that a's TTFT can be, seen from b.
    growth = (
        np.maximum(n[:, None] / n, 1.0)
        * np.maximum((prompt[:, None] + 1.0) / (prompt + 1.0), 1.0) ** _PROMPT_GROWTH
        * np.maximum(output / output[:, None], 1.0)
    )
    bounds = (growth * rows.ttft_ms)[np.ix_(indices, indices)]
    np.fill_diagonal(bounds, np.inf)
    # One row may have been measured wrongly; where there are many, two must agree.
    bound = np.sort(bounds, axis=1)[:, 0 if indices.size <= 6 else 1]
    jumped[indices] = rows.ttft_ms[indices] > _JUMP * bound
    return jumped
