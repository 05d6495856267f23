"""One replica without arrays against the arrays, and the search for the binding target only."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analyzer import capacity, queueing, searches


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


def flat(*, alpha_ms: float = 1.0, gamma_ms: float = 1.0, queue: int = 1) -> queueing.Replica:
    """TTFT is `gamma_ms` at low rates, in floats; it rises with the wait for one of 17 places."""
    return queueing.Replica(
        alpha_ms=alpha_ms,
        beta_ms=1.0,
        gamma_ms=gamma_ms,
        delta_ms=0.0,
        input_tokens=1.0,
        output_tokens=1.0,
        max_batch=17,
        max_queue=queue,
    )


def even(replica: queueing.Replica) -> queueing.Replica:
    """The same with an ITL that does not depend on the batch."""
    return dataclasses.replace(replica, beta_ms=0.0, output_tokens=2.0)


@settings(max_examples=150)
@example(flat(), 1.0, 3.0, None, 0.1)
@example(flat(), 1.0, None, None, 0.0)
@example(flat(gamma_ms=0.3), 0.3, 3.0, None, 0.0)
@example(flat(queue=0), 1.0, None, None, 0.0)
@example(flat(queue=170), math.nextafter(1.0, 0.0), None, None, 0.0)
@example(even(flat(alpha_ms=0.7)), None, 0.7, None, 0.0)
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


@example([flat()], 1.0, 3.0, np.nan)
@example([flat(), flat(queue=0), flat(queue=170)], 1.0, 3.0, np.nan)
@example([flat(gamma_ms=0.3), flat(gamma_ms=math.nextafter(0.3, 1.0))], 0.3, 3.0, np.nan)
@example([even(flat(alpha_ms=0.7))], 1.0, 0.7, np.nan)
@example([even(flat(alpha_ms=0.7))], 1.0, 0.7, 0.95)
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


def test_the_rate_rises_with_the_target_without_a_step() -> None:
    """Targets around what an idle replica takes: none below, then rates that rise, of no idle replica."""
    near = 1.0 + searches.IDLE_TOLERANCE * np.array([-0.1, -1e-8, 0.0, 1e-8, 0.1, 0.9, 1.1, 2.0])
    replica = flat(queue=170)
    sized = capacity.size_all(
        queueing.Replicas.of([replica] * near.size), ttft_ms=near, stability_margin=0.0
    )
    assert sized.unreachable.tolist() == [0, *[-1] * 7]
    rates = sized.ttft_rate_rps[1:]
    assert np.all(np.diff(rates) >= -1e-7 * rates[0])
    assert 1.0 < rates[-1] / rates[0] < 1.2
    assert rates[0] > 0.1 * replica.max_rate_rps
    alone = [capacity.size(replica, ttft_ms=float(target)) for target in near]
    assert isinstance(alone[0], capacity.Unreachable)
    held = [one.ttft_rate_rps or 0.0 for one in alone if isinstance(one, capacity.Capacity)]
    np.testing.assert_allclose(held, rates, rtol=1e-7)


def test_replicas_carry_the_rate_that_they_are_sized_for() -> None:
    """The test at a rate and the search know one rule for a target that an idle replica just meets."""
    of = queueing.Replicas.of([flat(), flat(queue=170), even(flat(alpha_ms=0.7))])
    ttft, itl = np.array([1.0, 1.0, np.nan]), np.array([np.nan, np.nan, 0.7])
    sized = capacity.size_all(of, ttft_ms=ttft, itl_ms=itl, stability_margin=0.1)
    for share, carried in ((1.0 - 1e-6, True), (1.0 + 1e-6, False)):
        carries = capacity.carry_all(
            of,
            share * sized.goodput_rps,
            ttft_ms=ttft,
            itl_ms=itl,
            percentile=np.full(3, np.nan),
            stability_margin=np.full(3, 0.1),
        )
        assert carries.tolist() == [carried] * 3
