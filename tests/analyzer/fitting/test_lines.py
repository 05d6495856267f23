"""The fit finds the parameters behind noisy rows, shrugs off outliers, and says what rows cannot tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from analyzer import errors
from analyzer.fitting import lines

ALPHA, BETA, GAMMA, DELTA = 7.2, 0.31, 18.0, 0.012


def rows(count: int = 40, noise: float = 0.02, seed: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    batch = rng.uniform(1, 64, count)
    prompt = rng.uniform(64, 2048, count)
    itl = (ALPHA + BETA * batch) * np.exp(rng.normal(0, noise, count))
    ttft = (GAMMA + DELTA * prompt * batch) * np.exp(rng.normal(0, noise, count))
    return {"batch": batch, "input_tokens": prompt, "itl_ms": itl, "ttft_ms": ttft}


def values(fit: lines.Fit) -> list[float]:
    assert fit.prefill is not None
    return [fit.decode.base, fit.decode.slope, fit.prefill.base, fit.prefill.slope]


def test_exact_rows_give_the_exact_parameters() -> None:
    """Without noise all four come back to eight digits, with errors that vanish."""
    fit = lines.fit(**rows(noise=0.0))
    assert values(fit) == pytest.approx([ALPHA, BETA, GAMMA, DELTA], rel=1e-8)
    assert fit.quality == "good"
    assert fit.decode.base_error < 1e-6
    assert fit.decode.r_squared == pytest.approx(1.0)


def test_standard_errors_are_honest() -> None:
    """Over many samples the truth is off by as much as the standard errors say."""
    scores = []
    for seed in range(150):
        fit = lines.fit(**rows(noise=0.05, seed=seed))
        assert fit.prefill is not None
        decode, prefill = fit.decode, fit.prefill
        scores.append(
            [
                (decode.base - ALPHA) / decode.base_error,
                (decode.slope - BETA) / decode.slope_error,
                (prefill.base - GAMMA) / prefill.base_error,
                (prefill.slope - DELTA) / prefill.slope_error,
            ]
        )
    assert np.allclose(np.std(scores, axis=0), 1.0, atol=0.25)
    assert np.allclose(np.mean(scores, axis=0), 0.0, atol=0.25)


def test_outliers_are_named_and_do_not_bend_the_line() -> None:
    """A tenth of the rows ten times too slow moves the parameters by less than the noise."""
    data = rows(noise=0.02)
    wild = [3, 11, 17, 30]
    data["itl_ms"][wild] *= 10
    fit = lines.fit(**data)
    assert set(wild) <= set(fit.decode.outliers)
    assert values(fit)[:2] == pytest.approx([ALPHA, BETA], rel=0.05)


def test_noise_is_judged() -> None:
    """The quality falls with the scatter of the rows."""
    qualities = [lines.fit(**rows(noise=noise)).quality for noise in (0.02, 0.12, 0.5)]
    assert qualities == ["good", "fair", "poor"]


def test_negative_lines_stop_at_zero() -> None:
    """Rows that get faster with the batch give beta 0, and the fit says that it is at its bound."""
    fit = lines.fit(
        batch=[1, 8, 32, 64], input_tokens=math.nan, ttft_ms=math.nan, itl_ms=[20, 19, 18, 17]
    )
    assert (fit.decode.slope, fit.prefill) == (0.0, None)
    assert "beta is at its bound 0" in fit.decode.doubts


def test_queueing_rows_do_not_teach_the_prefill() -> None:
    """Above the max batch the TTFT holds waiting: it is left out, and the batch counts as full."""
    data = rows(noise=0.0)
    full = data["batch"] > 32
    data["itl_ms"][full] = ALPHA + BETA * 32
    data["ttft_ms"][full] += 5000
    fit = lines.fit(**data, max_batch=32)
    assert values(fit) == pytest.approx([ALPHA, BETA, GAMMA, DELTA], rel=1e-7)


def test_two_rows_determine_but_do_not_tell_errors() -> None:
    """Two rows fit exactly, with a doubt instead of an error."""
    fit = lines.fit(batch=[1, 10], input_tokens=math.nan, ttft_ms=math.nan, itl_ms=[10, 19])
    assert (fit.decode.base, fit.decode.slope) == pytest.approx((9, 1))
    assert "errors are unknown" in fit.decode.doubts[0]


def test_rows_that_tell_nothing_are_refused() -> None:
    """One load, or one row, cannot tell two parameters apart, and the error says what to measure."""
    with pytest.raises(errors.FitError, match="batch: the same in all rows, so alpha and beta"):
        lines.fit(batch=[8, 8, 8], input_tokens=1, ttft_ms=math.nan, itl_ms=[10, 11, 12])
    with pytest.raises(errors.FitError, match="itl_ms: 1 usable rows; alpha and beta need"):
        lines.fit(batch=[8, 9], input_tokens=1, ttft_ms=math.nan, itl_ms=[10, math.nan])
    with pytest.raises(errors.InvalidParameterError, match=r"itl_ms\[1\]: must be a number > 0"):
        lines.fit(batch=[8, 9], input_tokens=1, ttft_ms=math.nan, itl_ms=[10, -1])
    with pytest.raises(errors.InvalidParameterError, match=r"input_tokens\[0\]: is missing"):
        lines.fit(batch=[8, 9], input_tokens=math.nan, ttft_ms=[10, 11], itl_ms=[10, 11])
