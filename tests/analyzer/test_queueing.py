"""The chain against published truth, closed forms, and the balance equations solved densely."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer import capacity, errors, queueing

CASES = json.loads((Path(__file__).parent / "golden.json").read_text())["cases"]


def f32(value: float) -> float:
    """The reference read its parameters as float32."""
    return float(np.float32(value))


def replica(case: dict[str, Any]) -> queueing.Replica:
    return queueing.Replica(
        alpha_ms=f32(case["alpha"]),
        beta_ms=f32(case["beta"]),
        gamma_ms=f32(case["gamma"]),
        delta_ms=f32(case["delta"]),
        input_tokens=case["inTokens"],
        output_tokens=case["outTokens"],
        max_batch=case["maxBatch"],
        max_queue=case["maxQueue"],
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_analysis_equals_the_published_truth(case: dict[str, Any]) -> None:
    """Every figure agrees with the float64 truth to 1e-9 of the response time or of itself."""
    for row in case["analyze"]:
        found = queueing.analyze(replica(case), f32(row["rate"]))
        figures = (
            found.throughput_rps,
            found.response_ms,
            found.waiting_ms,
            found.in_service,
            found.prefill_ms,
            found.itl_ms,
            found.utilization,
        )
        for figure, truth in zip(figures, row["truth"], strict=True):
            assert figure == pytest.approx(truth, rel=1e-9, abs=1e-9 * found.response_ms)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_sizing_equals_the_published_truth(case: dict[str, Any]) -> None:
    """The largest rate of each target, and the verdicts max and infeasible, are the published ones."""
    chain = replica(case)
    for row in case["size"]:
        targets: tuple[tuple[capacity.Target, Any], ...] = (
            ("ttft", row["truth"][0]),
            ("itl", row["truth"][1]),
        )
        for target, truth in targets:
            if not row[target] or truth is None:
                continue
            rate = capacity.max_rate(chain, target, f32(row[target]))
            if truth == "infeasible":
                assert isinstance(rate, capacity.Unreachable)
            elif truth == "max":
                assert rate == pytest.approx(0.999 * chain.max_rate_rps, rel=1e-9)
            else:
                assert rate == pytest.approx(truth, rel=1e-9)


def test_batch_one_is_the_textbook_queue() -> None:
    """With a max batch of 1 the chain is M/M/1/K, whose mean number in system is a closed form."""
    chain = queueing.Replica(
        alpha_ms=10, beta_ms=0, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=11, max_batch=1, max_queue=9,
    )  # fmt: skip
    rate, limit = 8.0, 10
    rho = rate / 10.0
    blocked = (1 - rho) * rho**limit / (1 - rho ** (limit + 1))
    inside = rho / (1 - rho) - (limit + 1) * rho ** (limit + 1) / (1 - rho ** (limit + 1))
    found = queueing.analyze(chain, rate)
    assert found.blocking == pytest.approx(blocked, rel=1e-12)
    assert found.response_ms == pytest.approx(1000 * inside / (rate * (1 - blocked)), rel=1e-12)


positive = st.floats(min_value=1e-3, max_value=1e3)


@st.composite
def replicas(draw: st.DrawFn) -> queueing.Replica:
    return queueing.Replica(
        alpha_ms=draw(positive),
        beta_ms=draw(st.floats(min_value=0, max_value=10)),
        gamma_ms=draw(st.floats(min_value=0, max_value=100)),
        delta_ms=draw(st.floats(min_value=0, max_value=1)),
        input_tokens=draw(st.integers(min_value=0, max_value=10_000)),
        output_tokens=draw(st.integers(min_value=2, max_value=10_000)),
        max_batch=draw(st.integers(min_value=1, max_value=64)),
        max_queue=draw(st.integers(min_value=1, max_value=200)),
    )


@given(replicas(), st.floats(min_value=1e-6, max_value=3.0))
def test_littles_law_and_bounds(chain: queueing.Replica, share: float) -> None:
    """At every rate, overload included, figures are finite and in_service = throughput * service."""
    found = queueing.analyze(chain, share * chain.max_rate_rps)
    assert all(math.isfinite(getattr(found, name)) for name in queueing.Performance.__slots__)
    assert 0 < found.utilization <= 1 + 1e-12
    assert found.throughput_rps <= chain.max_rate_rps * (1 + 1e-9)
    assert found.in_service == pytest.approx(found.throughput_rps * found.service_ms / 1000)


@given(replicas(), st.floats(min_value=0.01, max_value=0.9), st.floats(min_value=1.01, max_value=2))
def test_latency_never_falls_with_load(
    chain: queueing.Replica, share: float, factor: float
) -> None:
    """TTFT and ITL do not fall when the arrival rate rises."""
    low = queueing.analyze(chain, share * chain.max_rate_rps)
    high = queueing.analyze(chain, factor * share * chain.max_rate_rps)
    assert high.ttft_ms >= low.ttft_ms * (1 - 1e-9)
    assert high.itl_ms >= low.itl_ms * (1 - 1e-9)


@given(replicas(), st.floats(min_value=1.0, max_value=50))
def test_sizing_inverts_analysis(chain: queueing.Replica, slack: float) -> None:
    """At the largest rate for a TTFT target the TTFT is the target, or the rate is the limit."""
    target = slack * (chain.prefill_ms(1.0) + 0.1 * chain.request_ms(1.0))
    rate = capacity.max_rate(chain, "ttft", target)
    assert not isinstance(rate, capacity.Unreachable)
    limit = capacity.LIMIT_SHARE * chain.max_rate_rps
    found = queueing.analyze(chain, rate).ttft_ms
    assert rate == limit or found == pytest.approx(target, rel=1e-6)
    assert found <= target * (1 + 1e-9)


def test_flat_latency_gives_right_verdicts() -> None:
    """With beta = 0 the ITL is flat: a looser target is met at the limit, a tighter one never."""
    chain = queueing.Replica(
        alpha_ms=20, beta_ms=0, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=100, max_batch=8, max_queue=80,
    )  # fmt: skip
    assert capacity.max_rate(chain, "itl", 21) == pytest.approx(0.999 * chain.max_rate_rps)
    refused = capacity.max_rate(chain, "itl", 19)
    assert isinstance(refused, capacity.Unreachable)
    assert "ITL target 19 ms cannot be met" in str(refused)


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha_ms", -1), ("beta_ms", math.nan), ("output_tokens", 0), ("max_batch", 0)],
)
def test_bad_parameters_are_named(field: str, value: float) -> None:
    """A parameter out of range is refused by its name."""
    good = {
        "alpha_ms": 20.0, "beta_ms": 0.4, "gamma_ms": 0.0, "delta_ms": 0.0,
        "input_tokens": 0.0, "output_tokens": 10.0, "max_batch": 4, "max_queue": 40,
    }  # fmt: skip
    with pytest.raises(errors.InvalidParameterError, match=field):
        queueing.Replica(**{**good, field: value})


def test_a_profile_that_takes_no_time_is_refused() -> None:
    """All parameters 0 would serve without end; the error says so instead of looping."""
    with pytest.raises(errors.InvalidParameterError, match="no time"):
        queueing.Replica(
            alpha_ms=0, beta_ms=0, gamma_ms=0, delta_ms=0,
            input_tokens=0, output_tokens=10, max_batch=4, max_queue=40,
        )  # fmt: skip
