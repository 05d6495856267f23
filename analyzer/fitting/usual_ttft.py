"""TTFT of rows that did not wait, by a line near those that servers usually have.

The four terms of `saturation.TtftLine` look alike in most files: ITL grows with the load as the prompts of
others do. Left to themselves, few rows put a term where the next rows do not have it. Coefficients are
therefore held near those of measured servers, of which there are two kinds: some start a prompt with the
next step (vLLM), others let it wait for some twenty (SGLang); the rows say which.
"""

from __future__ import annotations

import numpy as np

from analyzer.fitting.benchmark_rows import BenchmarkRows
from analyzer.fitting.forms import prompt_ms
from analyzer.fitting.regression import informed
from analyzer.fitting.saturation import ONE_LENGTH, TtftLine, ttft_columns
from analyzer.replicas import FloatArray

_AT_ONCE = np.array([4.0, 3.0, 0.7, 0.04]), np.array([12.0, 6.0, 0.35, 0.03])
_AFTER_STEPS = np.array([6.0, 20.0, 0.3, 0.04]), np.array([20.0, 12.0, 0.35, 0.03])
"""Means and deviations of overhead_ms over the ITL of a request alone, steps, and own_ms and queued_ms over
a lone prompt's time per token, as about 70 groups of measured servers have them, with some twice their
spread."""
_FORM_SCALE = 0.1
"""Standard deviation of TTFT that the line is off by, whatever few rows say: as much as it misses rows by
that it was not fitted to (9 % in the median), so that it does not pass through four rows and throw out a
fifth."""
_CERTAIN, _CERTAIN_FREE = 0.01, 2
"""A line whose error is below this, with so many rows to spare, needs no help."""
_CONTRADICTED = 0.02
"""A usual line that is off by this share more than least squares is contradicted by the rows."""
_ROUNDS = 2
_LEAST_PROMPT = 0.2


def usual_line(rows: BenchmarkRows, line: TtftLine) -> TtftLine:
    """The line near usual ones.

    Prompts of one length do not tell overhead from the prompt's own time, and other lengths are far from
    what is known: there it stays, and where it meets the rows or they
    contradict the usual one.

    Args:
        rows: rows with TTFT and ITL that did not wait.
        line: what least squares make of them.

    """
    prompts = rows.input_tokens
    if rows.size < 2 or float(np.ptp(prompts)) <= ONE_LENGTH * float(np.median(prompts)):
        return line
    off = _off(rows, line)
    least = prompt = prompt_ms(rows)
    met = off < _CERTAIN and rows.size >= _CERTAIN_FREE + len(_AT_ONCE[0])
    if least <= 0.0 or met:
        return line
    longest, alone = float(prompts.max()), float(rows.itl_ms.min())
    for _ in range(_ROUNDS):
        sizes = np.array([alone, 1.0, prompt, prompt])
        fitted = informed(
            ttft_columns(rows),
            rows.ttft_ms,
            [(sizes * means, sizes * deviations) for means, deviations in (_AT_ONCE, _AFTER_STEPS)],
            form_scale=_FORM_SCALE,
        )
        near = _line(fitted.coefficients)
        # Of a request alone, which the rows seldom hold.
        first = near.overhead_ms + (near.steps - 1.0) * alone
        prompt = first / longest + near.own_ms + near.queued_ms
        prompt = min(max(prompt, _LEAST_PROMPT * least), least)
    return line if _off(rows, near) > off + _CONTRADICTED else near


def _line(coefficients: FloatArray) -> TtftLine:
    overhead, steps, own, queued = (float(value) for value in coefficients)
    return TtftLine(overhead_ms=overhead, steps=steps, own_ms=own, queued_ms=queued)


def _off(rows: BenchmarkRows, line: TtftLine) -> float:
    """Mean relative error over the rows."""
    expected = line.at(rows.concurrency, rows.input_tokens, rows.itl_ms)
    return float(np.abs(expected / rows.ttft_ms - 1.0).mean())
