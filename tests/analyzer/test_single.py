"""One replica without arrays against the arrays, and the search for the binding target only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer import capacity, queueing


@st.composite
def replicas(draw: st.DrawFn) -> queueing.Replica:
    batch = draw(st.integers(1, 200))
    return queueing.Replica(
        alpha_ms=draw(st.floats(0.1, 100)),
        beta_ms=draw(st.floats(0, 5)),
        # Above 0: a prompt of one token and one answer would else take no time.
        gamma_ms=draw(st.floats(0.1, 100)),
        delta_ms=draw(st.floats(0, 0.1)),
        input_tokens=draw(st.sampled_from([0.0, 1.0, 500.0])),
        output_tokens=draw(st.sampled_from([1.0, 2.0, 200.0])),
        max_batch=batch,
        max_queue=draw(st.sampled_from([0, 1, 10 * batch])),
    )


targets = st.none() | st.floats(0.5, 5000)


@settings(max_examples=150)
@given(replicas(), targets, targets, st.sampled_from([None, 100.0]), st.sampled_from([0.0, 0.1]))
def test_one_replica_is_sized_as_in_a_batch(
    replica: queueing.Replica,
    ttft: float | None,
    itl: float | None,
    tps: float | None,
    margin: float,
) -> None:
    """The same rates, binding and best latencies as by arrays, up to float noise."""
    alone = capacity.size(replica, ttft_ms=ttft, itl_ms=itl, tps=tps, stability_margin=margin)
    batch = capacity.size_all(
        queueing.Replicas.of([replica]),
        ttft_ms=np.nan if ttft is None else ttft,
        itl_ms=np.nan if itl is None else itl,
        tps=np.nan if tps is None else tps,
        stability_margin=margin,
    )[0]
    assert type(alone) is type(batch)
    if isinstance(alone, capacity.Unreachable):
        assert isinstance(batch, capacity.Unreachable)
        assert alone.target == batch.target
        assert alone.best_ms == pytest.approx(batch.best_ms, rel=1e-9)
        return
    assert isinstance(batch, capacity.Capacity)
    assert alone.rate_rps == pytest.approx(batch.rate_rps, rel=1e-7)
    assert alone.goodput_rps == pytest.approx(batch.goodput_rps, rel=1e-7)
    assert (alone.tps_rate_rps is None) == (tps is None)


@given(
    st.lists(replicas(), min_size=1, max_size=6),
    st.floats(0.5, 5000),
    st.floats(0.5, 500),
    st.sampled_from([np.nan, 0.95]),
)
def test_the_binding_target_alone_gives_the_same(
    batch: list[queueing.Replica], ttft: float, itl: float, percentile: float
) -> None:
    """Without a search for each target, rate, goodput, binding and what cannot be met do not change."""
    of = queueing.Replicas.of(batch)
    full, quick = (
        capacity.size_all(
            of, ttft_ms=ttft, itl_ms=itl, percentile=percentile, every_target=every_target
        )
        for every_target in (True, False)
    )
    np.testing.assert_allclose(quick.rate_rps, full.rate_rps, rtol=1e-7)
    np.testing.assert_allclose(quick.goodput_rps, full.goodput_rps, rtol=1e-7)
    assert quick.unreachable.tolist() == full.unreachable.tolist()
    np.testing.assert_allclose(quick.best_ms, full.best_ms, rtol=1e-7)
