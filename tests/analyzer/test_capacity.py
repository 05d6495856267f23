"""Sizing is the inverse of the analysis, its verdicts are right where functions are flat, its batch exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer import capacity, errors, queueing, searches
from analyzer.capacity import Capacity, Unreachable
from analyzer.queueing import Replica, Replicas


@st.composite
def replicas(draw: st.DrawFn) -> Replica:
    output_tokens = draw(st.integers(min_value=1, max_value=10_000))
    return Replica(
        alpha_ms=draw(st.floats(min_value=1e-3, max_value=1e3)),
        beta_ms=draw(st.just(0.0) | st.floats(min_value=0, max_value=10)),
        gamma_ms=draw(st.floats(min_value=0 if output_tokens > 1 else 1e-3, max_value=100)),
        delta_ms=draw(st.just(0.0) | st.floats(min_value=0, max_value=1)),
        input_tokens=draw(st.integers(min_value=0, max_value=10_000)),
        output_tokens=output_tokens,
        max_batch=draw(st.sampled_from([1, 2, 4096]) | st.integers(1, 96)),
        max_queue=draw(st.integers(min_value=0, max_value=1000)),
    )


shares = st.none() | st.floats(min_value=0.05, max_value=0.999)


def latency(replica: Replica, rate: float, share: float | None, target: str) -> float:
    steady: queueing.Performance | queueing.Percentiles
    steady = (
        queueing.analyze(replica, rate)
        if share is None
        else queueing.percentiles(replica, rate, share)
    )
    return steady.ttft_ms if target == "ttft" else steady.itl_ms


@given(
    replicas(), st.floats(min_value=1e-3, max_value=100), shares, st.sampled_from(capacity.TARGETS)
)
def test_sizing_inverts_analysis(
    replica: Replica, slack: float, share: float | None, target: capacity.Target
) -> None:
    """At the largest rate the target holds, a bit above it does not; unreachable ones fail when idle."""
    base = replica.prefill_ms(1.0) + 0.01 if target == "ttft" else replica.decode_ms(1.0)
    wanted = slack * base
    size = (
        capacity.size(replica, ttft_ms=wanted, percentile=share)
        if target == "ttft"
        else capacity.size(replica, itl_ms=wanted, percentile=share)
    )
    floor = searches.FLOOR_SHARE * 1000.0 / replica.request_ms(1.0)
    limit = searches.LIMIT_SHARE * replica.max_rate_rps
    if isinstance(size, Unreachable):
        assert (size.target, size.target_ms) == (target, wanted)
        assert size.best_ms == pytest.approx(latency(replica, floor, share, target))
        assert size.best_ms > wanted * (1 - 1e-9)
        return
    rate = size.ttft_rate_rps if target == "ttft" else size.itl_rate_rps
    assert rate is not None
    assert floor * (1 - 1e-9) <= rate <= limit * (1 + 1e-12)
    assert latency(replica, rate * (1 - 1e-9), share, target) <= wanted * (1 + 1e-6)
    if rate < limit * (1 - 1e-6):
        assert latency(replica, rate * (1 + 1e-6), share, target) >= wanted * (1 - 1e-6)


def test_flat_latency_gives_right_verdicts() -> None:
    """With beta = 0 the ITL is flat: a looser target is met at the limit, a tighter one never."""
    replica = Replica(
        alpha_ms=20, beta_ms=0, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=100, max_batch=8, max_queue=80,
    )  # fmt: skip
    for wanted in (20, 21):
        size = capacity.size(replica, itl_ms=wanted)
        assert isinstance(size, Capacity)
        assert size.itl_rate_rps == pytest.approx(0.999 * replica.max_rate_rps)
        assert size.binding == "stability"
    refused = capacity.size(replica, itl_ms=19)
    assert refused == Unreachable(target="itl", target_ms=19, best_ms=20)
    assert str(refused) == "ITL target 19 ms cannot be met: a single request already takes 20 ms"


def test_an_unreachable_percentile_says_so(replica: Replica) -> None:
    """The explanation names the percentile that was asked for."""
    refused = capacity.size(replica, ttft_ms=3, percentile=0.95)
    assert isinstance(refused, Unreachable)
    assert str(refused).startswith("TTFT p95 target 3 ms cannot be met")


def test_the_margin_keeps_room_under_latency_targets(replica: Replica) -> None:
    """A loose latency target leaves the stability margin free; without a margin it does not."""
    kept = capacity.size(replica, ttft_ms=1e6)
    used = capacity.size(replica, ttft_ms=1e6, stability_margin=0)
    assert isinstance(kept, Capacity)
    assert isinstance(used, Capacity)
    assert kept.rate_rps == pytest.approx(0.9 * 0.999 * replica.max_rate_rps)
    assert used.rate_rps == pytest.approx(0.999 * replica.max_rate_rps)
    assert kept.ttft_rate_rps == used.ttft_rate_rps
    assert kept.goodput_rps <= kept.rate_rps


def test_higher_percentiles_admit_less_load(replica: Replica) -> None:
    """The higher the percentile that must meet it, the less load a TTFT target admits."""
    sizes = [capacity.size(replica, ttft_ms=60, percentile=share) for share in (0.9, 0.95, 0.99)]
    rates = [item.ttft_rate_rps for item in sizes if isinstance(item, Capacity)]
    assert len(rates) == 3
    assert rates == sorted(rates, key=lambda rate: rate or 0, reverse=True)
    assert len(set(rates)) == 3


def test_targets_do_not_influence_each_other(replica: Replica) -> None:
    """Both targets together give the rates that each gives alone, and the smaller one binds."""
    both = capacity.size(replica, ttft_ms=80, itl_ms=22.5, tps=100)
    ttft, itl = capacity.size(replica, ttft_ms=80), capacity.size(replica, itl_ms=22.5)
    assert isinstance(both, Capacity)
    assert isinstance(ttft, Capacity)
    assert isinstance(itl, Capacity)
    assert (both.ttft_rate_rps, both.itl_rate_rps) == (ttft.ttft_rate_rps, itl.itl_rate_rps)
    assert (both.binding, both.rate_rps) == ("itl", itl.itl_rate_rps)
    assert both.tps_rate_rps == pytest.approx(0.9 * 0.999 * replica.max_rate_rps)
    assert ttft.itl_rate_rps is None


@given(
    st.lists(replicas(), min_size=2, max_size=8),
    st.randoms(),
    st.lists(st.floats(0.5, 50), min_size=8, max_size=8),
)
def test_a_row_does_not_depend_on_its_batch(
    chosen: list[Replica], random: Any, slacks: list[float]
) -> None:
    """To the last bit, a replica's capacity is the same in a batch of one, of many, and in any order."""
    wanted = [
        (
            slack * (item.prefill_ms(1) + 1),
            slack * item.decode_ms(1),
            0.95 if slack > 9 else math.nan,
        )
        for item, slack in zip(chosen, slacks, strict=False)
    ]
    order = list(range(len(chosen)))
    random.shuffle(order)
    together = [
        capacity.size_all(
            Replicas.of([chosen[place] for place in places]),
            ttft_ms=[wanted[place][0] for place in places],
            itl_ms=[wanted[place][1] for place in places],
            percentile=[wanted[place][2] for place in places],
        )
        for places in (range(len(chosen)), order)
    ]
    for place, item in enumerate(chosen):
        ttft, itl, share = wanted[place]
        one = Replicas.of([item])
        alone = capacity.size_all(one, ttft_ms=ttft, itl_ms=itl, percentile=share)[0]
        assert together[0][place] == alone
        assert together[1][order.index(place)] == alone


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttft_ms", 0),
        ("itl_ms", -1),
        ("tps", math.inf),
        ("percentile", 95),
        ("stability_margin", 1),
    ],
)
def test_bad_targets_are_named(replica: Replica, name: str, value: float) -> None:
    """A target that is not positive is refused by name, and in a batch by name and row."""
    given_value: dict[str, Any] = {name: value}
    with pytest.raises(errors.InvalidParameterError, match=f"^{name}: must be a number"):
        capacity.size(replica, **given_value)
    given_value = {name: [0.5, value]}
    with pytest.raises(errors.InvalidParameterError, match=rf"^{name}\[1\]: must be a number"):
        capacity.size_all(Replicas.of([replica, replica]), **given_value)


def test_replicas_needed() -> None:
    """Ceilings without float noise, minima, and a floor from tokens per second."""
    assert capacity.replicas_needed([0, 1, 2.0000000001, 2.1], 1.0).tolist() == [0, 1, 2, 3]
    assert capacity.replicas_needed([0, 5], [1.0, 1.0], [2, 1]).tolist() == [2, 5]
    assert capacity.rate_to_serve([1.0, 9.0], 1000, 200).tolist() == [5.0, 9.0]


@pytest.mark.parametrize(
    ("given_batch", "at", "out", "scaled"),
    [(64, 512, 1024, 32), (64, 0, 9, 64), (4, 8, 999, 1), (0, 0, 5, 1)],
)
def test_max_batch_scales_with_output_tokens(
    given_batch: int, at: int, out: int, scaled: int
) -> None:
    """A max batch that was measured at some output length holds that many tokens at another."""
    assert capacity.scaled_max_batch(given_batch, at, out) == scaled


def test_a_large_fleet_is_worked_on_in_parts() -> None:
    """More rows than one table holds give the same as row by row."""
    rng = np.random.default_rng(7)
    rows = 700
    alpha = rng.uniform(5, 40, rows)
    batch = rng.choice([500, 512, 700], rows)
    fleet = Replicas(
        alpha_ms=alpha, beta_ms=0.1, gamma_ms=10, delta_ms=0.001,
        input_tokens=500, output_tokens=200, max_batch=batch, max_queue=10 * batch,
    )  # fmt: skip
    sizes = capacity.size_all(fleet, ttft_ms=700, itl_ms=60)
    for row in (0, 350, 699):
        alone = Replica(
            alpha_ms=alpha[row], beta_ms=0.1, gamma_ms=10, delta_ms=0.001,
            input_tokens=500, output_tokens=200,
            max_batch=int(batch[row]), max_queue=int(10 * batch[row]),
        )  # fmt: skip
        one = Replicas.of([alone])
        assert sizes[row] == capacity.size_all(one, ttft_ms=700, itl_ms=60)[0]
