"""The saturation rule: up at any sign of too little, down slowly and only where every sign allows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.saturation_rule import Signals, replicas_needed

CALM = Signals(replicas=4, running=20, waiting=0, kv_usage=0.64)


@pytest.mark.parametrize(
    ("signals", "replicas", "said"),
    [
        pytest.param(CALM, 4, "KV cache", id="in-the-middle"),
        pytest.param(replace(CALM, kv_usage=0.95), 5, "KV cache 95%", id="cache"),
        pytest.param(replace(CALM, waiting=10), 6, "10 requests wait", id="queue"),
        pytest.param(replace(CALM, waiting=4), 4, "KV cache", id="one-waits-at-each"),
        pytest.param(replace(CALM, running=60, max_batch=16), 5, "60 of 64", id="batch"),
        pytest.param(replace(CALM, itl_ms=30, itl_target_ms=24), 6, "ITL 30 of 24", id="itl"),
        pytest.param(
            replace(CALM, ttft_ms=9000, ttft_target_ms=500), 8, "TTFT", id="at-most-double"
        ),
        pytest.param(replace(CALM, kv_usage=0.1), 3, "KV cache", id="down-by-a-quarter"),
        pytest.param(replace(CALM, replicas=2, kv_usage=0.1), 1, "KV cache", id="down-by-one"),
        pytest.param(
            replace(CALM, kv_usage=0.1, itl_ms=21, itl_target_ms=24), 4, "ITL", id="latency-holds"
        ),
        pytest.param(replace(CALM, growth=1.5), 6, "50% more load", id="growing-load"),
        pytest.param(
            replace(CALM, kv_usage=1.0, growth=9.0), 16, "KV cache", id="growing-load-is-bounded"
        ),
        pytest.param(replace(CALM, running=0), 3, "no requests", id="nothing-runs"),
        pytest.param(
            replace(CALM, running=0, kv_usage=None, arrival_rate_rps=2.0),
            4,
            "no signal",
            id="short-requests-between-two-looks",
        ),
        pytest.param(
            replace(CALM, running=0, kv_usage=0.0, arrival_rate_rps=2.0),
            3,
            "KV cache 0%",
            id="few-short-requests",
        ),
        pytest.param(
            replace(CALM, replicas=0, running=0, arrival_rate_rps=2.0),
            1,
            "requests arrive",
            id="none-yet-and-no-queue",
        ),
        pytest.param(
            replace(CALM, replicas=0, running=0, waiting=7), 1, "7 requests", id="none-yet"
        ),
        pytest.param(replace(CALM, kv_usage=None), 4, "no signal", id="nothing-known"),
    ],
)
def test_the_largest_signal_decides(signals: Signals, replicas: int, said: str) -> None:
    """Every signal is over its target; the reason has the signal with its number."""
    sized = replicas_needed(signals)
    assert sized.replicas == replicas
    assert said in sized.reason


@given(
    st.integers(1, 500),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.none() | st.floats(0, 1),
    st.floats(0, 1e5),
)
def test_a_cycle_moves_within_bounds(
    replicas: int, running: float, waiting: float, kv_usage: float | None, ttft_ms: float
) -> None:
    """At most double, four times with a queue; at least three quarters or one less; never none under load."""
    needed = replicas_needed(
        Signals(
            replicas=replicas,
            running=running,
            waiting=waiting,
            kv_usage=kv_usage,
            ttft_ms=ttft_ms,
            ttft_target_ms=500,
        )
    ).replicas
    assert (
        min(0.75 * replicas, replicas - 1) <= needed <= (4 if waiting > replicas else 2) * replicas
    )
    assert needed >= 1 or running + waiting == 0
