"""The line of TTFT near what servers usually have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from analyzer.fitting import saturation
from analyzer.fitting.benchmark_rows import BenchmarkRows, rows_of
from analyzer.fitting.saturation import TtftLine
from analyzer.fitting.usual_ttft import usual_line

SERVER = TtftLine(overhead_ms=20.0, steps=4.0, own_ms=0.05, queued_ms=0.003)


def measured(
    concurrency: list[int], prompts: list[int], factors: Sequence[float] | float = 1.0
) -> BenchmarkRows:
    n, prompt = np.array(concurrency), np.array(prompts)
    itl = 8.0 + 0.1 * n + 0.05 * (n - 1.0) * prompt / 1024.0
    ttft = SERVER.at(n, prompt, itl) * np.array(factors)
    return rows_of(concurrency=n, input_tokens=prompt, output_tokens=1024, itl_ms=itl, ttft_ms=ttft)


def both(rows: BenchmarkRows) -> tuple[TtftLine, TtftLine]:
    plain = saturation.fit_ttft(rows)
    assert plain is not None
    return plain, usual_line(rows, plain)


def test_a_few_noisy_rows_are_read_near_usual_servers() -> None:
    """Five rows that are some 10 % off, ten times: other loads of both lengths are predicted better."""
    others = measured([16, 64, 64], [8192, 8192, 1024])
    random = np.random.default_rng(1)
    errors = []
    for _ in range(10):
        factors = list(np.exp(random.normal(0.0, 0.1, 5)))
        rows = measured([4, 8, 16, 4, 8], [1024, 1024, 1024, 8192, 8192], factors)
        errors.append(
            [
                np.abs(
                    line.at(others.concurrency, others.input_tokens, others.itl_ms) / others.ttft_ms
                    - 1.0
                ).mean()
                for line in both(rows)
            ]
        )
    plain, usual = np.mean(errors, axis=0)
    assert usual < 0.9 * plain


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(measured([4, 8, 16, 32, 64, 4, 16, 64], [1024] * 5 + [8192] * 3), id="exact"),
        pytest.param(measured([4, 8, 16, 32], [1024] * 4, [1.1, 0.9, 1.1, 0.9]), id="one-length"),
        pytest.param(
            measured([4, 8, 16, 32, 4, 8], [1024] * 4 + [8192] * 2, [8, 8, 8, 8, 1, 1]),
            id="stalls",
        ),
    ],
)
def test_rows_that_say_otherwise_keep_their_line(rows: BenchmarkRows) -> None:
    """Rows that a line meets, that have one length of prompts or that contradict the usual line."""
    plain, usual = both(rows)
    assert usual is plain
