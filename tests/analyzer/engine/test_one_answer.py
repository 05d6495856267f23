"""Rows and floats find the same largest rate, however far below the stable one it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analyzer.engine import sizing
from analyzer.engine.columns import Engine, Engines
from analyzer.step_times import EngineLimits, Lengths, StepTimes

RARE = (
    (
        Engine(
            step_times=StepTimes(
                base_ms=19.84, per_request_ms=0.00284, per_prefill_token_ms=0.002183,
                per_context_token_ms=6.694e-07, per_sqrt_request_ms=0.5,
            ),
            limits=EngineLimits(max_num_seqs=2, max_num_batched_tokens=8192, kv_tokens=3458),
            lengths=Lengths(
                input_tokens=1451.56, output_tokens=119.885, output_cv=2.0, cached_tokens=1.95,
                short_answers=(0.25, 0.25, 0.25, 0.25),
            ),
        ),
        (50.33, 395.9, 0.9999),
    ),
    (
        Engine(
            step_times=StepTimes(
                base_ms=17.467, per_request_ms=0.0, per_prefill_token_ms=0.0,
                per_context_token_ms=3.886e-07, per_prompt_ms=1.0,
            ),
            limits=EngineLimits(max_num_seqs=128, max_num_batched_tokens=129, kv_tokens=10**12),
            lengths=Lengths(
                input_tokens=1.973, output_tokens=1.5, input_cv=1.0, output_cv=0.3,
                cached_tokens=421.3,
            ),
        ),
        (62.517, 20.1155, 0.999),
    ),
    (
        Engine(
            step_times=StepTimes(
                base_ms=2.7526, per_request_ms=0.07922, per_prefill_token_ms=0.0,
                per_context_token_ms=0.0, per_sqrt_request_ms=0.5, per_prompt_ms=30.0,
            ),
            limits=EngineLimits(max_num_seqs=64, max_num_batched_tokens=65, kv_tokens=220),
            lengths=Lengths(
                input_tokens=2.0, output_tokens=2.0, output_cv=1.0,
                short_answers=(0.01, 0.03, 0.03, 0.08),
            ),
        ),
        (math.nan, 5.8156, 0.999),
    ),
)  # fmt: skip
"""Engines, and targets that are missed at a small part of the stable rate: TTFT, ITL, percentile."""


@pytest.mark.parametrize(("engine", "targets"), RARE)
def test_rows_are_searched_until_their_rate_is_near(
    engine: Engine, targets: tuple[float, float, float]
) -> None:
    ttft, itl, percentile = targets
    many = sizing.size_engines(
        Engines.of([engine] * 6), ttft_ms=ttft, itl_ms=itl, percentile=percentile, headroom=0.0
    )
    alone = sizing.size_engine(
        engine,
        ttft_ms=None if math.isnan(ttft) else ttft,
        itl_ms=itl,
        percentile=percentile,
        headroom=0.0,
    )
    assert many.rate_rps == pytest.approx(np.full(6, alone.rate_rps), rel=1e-3)
    assert many[0].binding == alone.binding
