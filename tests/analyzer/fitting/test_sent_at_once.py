"""Runs that sent all their requests at once into a server that holds 100,000 tokens of KV cache."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import SaturatedRowsError
from analyzer.fitting import step_fit
from analyzer.fitting.benchmark_rows import BenchmarkRows, rows_of

HELD_TOKENS = 100_000.0


def sent_at_once(loads: list[tuple[float, float, float]]) -> BenchmarkRows:
    """Rows of (requests inside, input tokens, output tokens): what does not fit waits for its first token."""
    n, prompt, output = (np.array(column) for column in zip(*loads, strict=True))
    running = np.minimum(n, HELD_TOKENS / (prompt + output / 2.0))
    itl = 10.0 + 0.05 * running + 0.01 * running * prompt / output
    waiting = 1.0 - running / n
    own = 0.01 * prompt * running / 2.0
    ttft = own + waiting / (1.0 - waiting) * (output - 1.0) * itl
    return rows_of(
        concurrency=n, input_tokens=prompt, output_tokens=output, itl_ms=itl, ttft_ms=ttft, unlimited=True
    )  # fmt: skip


def test_runs_that_waited_less_than_others_waited_too() -> None:
    """They had more requests and tokens inside than those held, so that the same bound kept some out."""
    rows = sent_at_once([(300, 1000, 400), (1200, 200, 200), (100, 1000, 400), (380, 200, 200)])
    shares = rows.ttft_ms / rows.request_ms
    assert (shares[:2] > 0.5).all()
    assert (shares[2:] < 0.25).all()
    with pytest.raises(SaturatedRowsError) as caught:
        step_fit.fit_steps(rows)
    assert [row for row, _ in caught.value.rows] == [0, 1, 2, 3]


def test_runs_below_what_others_held_are_used() -> None:
    """A tenth of their time is TTFT because their prompts queue for each other, and nothing else."""
    rows = sent_at_once([(300, 1000, 400), (1200, 200, 200), (20, 1000, 400), (40, 1000, 400)])
    fit = step_fit.fit_steps(rows)
    assert [row.row for row in fit.saturated] == [0, 1]
    assert fit.step_times.base_ms == pytest.approx(10.0, rel=0.05)
