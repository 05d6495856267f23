"""The chain against closed forms, the balance equations solved densely, and the laws of queueing."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import special, stats

from analyzer import errors, queueing
from analyzer.queueing import Replica, Replicas
from analyzer.replicas import FloatArray

times = st.floats(min_value=0, max_value=1e4)


@st.composite
def replicas(draw: st.DrawFn, largest_batch: int = 4096) -> Replica:
    """The whole range of parameters, extremes included."""
    return Replica(
        alpha_ms=draw(st.floats(min_value=1e-6, max_value=1e4)),
        beta_ms=draw(st.just(0.0) | times),
        gamma_ms=draw(st.just(0.0) | times),
        delta_ms=draw(st.just(0.0) | st.floats(min_value=0, max_value=10)),
        input_tokens=draw(st.just(0) | st.integers(min_value=0, max_value=1_000_000)),
        output_tokens=draw(st.just(2) | st.integers(min_value=2, max_value=1_000_000)),
        max_batch=draw(st.sampled_from([1, 2, largest_batch]) | st.integers(1, largest_batch)),
        max_queue=draw(st.just(0) | st.integers(min_value=0, max_value=50_000)),
    )


loads = (
    st.floats(min_value=1e-12, max_value=3.0)
    | st.sampled_from([1.0, 1.0 - 1e-12, 1.0 + 1e-12, 0.999, 1e6, 1e-300])
    | st.floats(min_value=0.99, max_value=1.01)
)


def dense(replica: Replica, rate: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Stationary probabilities from pi Q = 0 and sum pi = 1, all states, no structure used."""
    size = replica.max_batch + replica.max_queue + 1
    generator = np.zeros((size, size))
    for state in range(size - 1):
        generator[state, state + 1] = rate
        busy = min(state + 1, replica.max_batch)
        generator[state + 1, state] = 1000.0 * busy / replica.request_ms(busy)
    generator -= np.diag(generator.sum(axis=1))
    system = np.vstack([generator.T / rate, np.ones(size)])
    solved: FloatArray = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return solved


@pytest.mark.parametrize("share", [0.2, 0.9, 1.0, 1.3])
@pytest.mark.parametrize(("max_batch", "max_queue"), [(1, 0), (1, 7), (6, 0), (6, 9), (17, 40)])
def test_the_chain_solves_its_balance_equations(
    published: dict[str, Any], max_batch: int, max_queue: int, share: float
) -> None:
    """Every figure is the one that follows from pi Q = 0, solved by numpy without any structure."""
    replica = Replica(**{**published, "max_batch": max_batch, "max_queue": max_queue})
    rate = share * replica.max_rate_rps
    chances = dense(replica, rate)
    states = np.arange(chances.size)
    throughput = rate * (1 - chances[-1])
    in_service = float(chances @ np.minimum(states, max_batch))
    in_queue = float(chances @ np.maximum(states - max_batch, 0))
    performance = queueing.analyze(replica, rate)
    assert performance.blocking == pytest.approx(chances[-1], rel=1e-8)
    assert performance.throughput_rps == pytest.approx(throughput, rel=1e-8)
    assert performance.in_service == pytest.approx(in_service, rel=1e-8)
    assert performance.in_queue == pytest.approx(in_queue, rel=1e-7, abs=1e-12)
    assert performance.service_ms == pytest.approx(1000 * in_service / throughput, rel=1e-8)
    assert performance.waiting_ms == pytest.approx(1000 * in_queue / throughput, rel=1e-7, abs=1e-9)
    assert performance.busy == pytest.approx(1 - chances[0], rel=1e-8)


@pytest.mark.parametrize("rho", [0.1, 0.8, 0.999999999, 1.0, 1.5])
def test_batch_one_is_m_m_1_k(rho: float) -> None:
    """With a max batch of 1 the mean number in the system is the textbook's closed form."""
    replica = Replica(
        alpha_ms=10, beta_ms=0, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=11, max_batch=1, max_queue=9,
    )  # fmt: skip
    rate, limit = rho * 10.0, 10
    powers = rho ** np.arange(limit + 1)
    blocked = powers[-1] / powers.sum()
    inside = (np.arange(limit + 1) * powers).sum() / powers.sum()
    performance = queueing.analyze(replica, rate)
    assert performance.blocking == pytest.approx(blocked, rel=1e-12)
    assert performance.response_ms == pytest.approx(
        1000 * inside / (rate * (1 - blocked)), rel=1e-12
    )


@pytest.mark.parametrize("servers", [2, 5, 40])
@pytest.mark.parametrize("rho", [0.3, 0.95, 1.2])
def test_constant_times_are_m_m_c_k(servers: int, rho: float) -> None:
    """With beta = delta = 0 a batch of c is c servers: blocking and waiting are the textbook's."""
    replica = Replica(
        alpha_ms=10, beta_ms=0, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=11, max_batch=servers, max_queue=30,
    )  # fmt: skip
    service_rate = 10.0
    rate = rho * servers * service_rate
    states = np.arange(servers + 30 + 1)
    served = np.minimum(states, servers)
    offered = rate / service_rate
    log_weights = (
        states * np.log(offered)
        - special.gammaln(served + 1)
        - np.maximum(states - servers, 0) * np.log(servers)
    )
    chances = np.exp(log_weights - special.logsumexp(log_weights))
    throughput = rate * (1 - chances[-1])
    performance = queueing.analyze(replica, rate)
    assert performance.blocking == pytest.approx(chances[-1], rel=1e-10)
    waiting = 1000 * (chances @ np.maximum(states - servers, 0)) / throughput
    assert performance.waiting_ms == pytest.approx(waiting, rel=1e-10)
    assert performance.itl_ms == 10


@given(replicas(), loads)
@example(
    Replica(
        alpha_ms=1, beta_ms=0, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=1, max_batch=4096, max_queue=40960,
    ),
    1.0,
)  # fmt: skip
def test_figures_are_finite_and_obey_littles_law(replica: Replica, load: float) -> None:
    """Everywhere, extremes and overload included, without a warning: bounds and Little's law hold."""
    rate = load * replica.max_rate_rps
    performance = queueing.analyze(replica, rate)
    assert all(math.isfinite(value) for value in dataclasses.astuple(performance))
    assert 0 <= performance.blocking <= 1
    assert 0 <= performance.utilization <= 1 + 1e-9
    assert 0 <= performance.busy <= 1 + 1e-12
    assert 1 <= performance.batch <= replica.max_batch * (1 + 1e-12)
    assert performance.throughput_rps <= min(rate, replica.max_rate_rps) * (1 + 1e-9)
    assert performance.in_service == pytest.approx(
        performance.throughput_rps * performance.service_ms / 1000
    )
    assert performance.in_queue == pytest.approx(
        performance.throughput_rps * performance.waiting_ms / 1000
    )
    assert performance.in_queue <= replica.max_queue * (1 + 1e-9)
    assert performance.throughput_rps == pytest.approx(
        rate * (1 - performance.blocking), rel=1e-6, abs=1e-300
    )


@given(replicas(), loads, st.floats(min_value=1.0, max_value=2.0), st.floats(0.01, 0.999))
def test_latency_never_falls_with_load(
    replica: Replica, load: float, factor: float, share: float
) -> None:
    """Means and percentiles of TTFT and ITL do not fall when the arrival rate rises."""
    slow, fast = load * replica.max_rate_rps, factor * load * replica.max_rate_rps
    low, high = queueing.analyze(replica, slow), queueing.analyze(replica, fast)
    assert high.ttft_ms >= low.ttft_ms * (1 - 1e-9)
    assert high.itl_ms >= low.itl_ms * (1 - 1e-9)
    below = queueing.percentiles(replica, slow, share)
    above = queueing.percentiles(replica, fast, share)
    assert above.ttft_ms >= below.ttft_ms * (1 - 1e-6) - 1e-9
    assert above.itl_ms >= below.itl_ms


def test_no_load_is_an_idle_replica(replica: Replica) -> None:
    """At rate 0 a request would meet an empty replica; at a vanishing rate it does."""
    idle = queueing.analyze(replica, 0.0)
    assert (idle.throughput_rps, idle.waiting_ms, idle.utilization, idle.busy) == (0, 0, 0, 0)
    assert (idle.itl_ms, idle.ttft_ms) == (replica.decode_ms(1), replica.prefill_ms(1))
    assert queueing.analyze(replica, 1e-12).itl_ms == pytest.approx(idle.itl_ms)


def test_percentiles_are_those_of_the_mixture(published: dict[str, Any]) -> None:
    """The percentile of the waiting time solves the Erlang mixture, summed here term by term."""
    replica = Replica(**published)
    for load in (0.5, 0.9, 0.999, 0.999999, 1.0, 1.05, 3.0):
        rate = load * replica.max_rate_rps
        chances = dense(replica, rate)[:-1]
        seen = chances / chances.sum()
        stages = np.arange(1, replica.max_queue + 1)
        for share in (0.5, 0.9, 0.95, 0.99):
            percentiles = queueing.percentiles(replica, rate, share)
            departures = percentiles.waiting_ms * replica.max_rate_rps / 1000
            waits = float(seen[replica.max_batch :].sum())
            longer = float(seen[replica.max_batch :] @ stats.gamma.sf(departures, stages))
            if percentiles.waiting_ms == 0:
                assert waits <= 1 - share
            else:
                assert longer == pytest.approx(1 - share, rel=1e-7)
                assert percentiles.ttft_ms == pytest.approx(
                    percentiles.waiting_ms + replica.prefill_ms(replica.max_batch)
                )


def test_m_m_1_waits_exponentially() -> None:
    """With a max batch of 1 and an endless queue, waiting beyond t has chance rho exp(-mu (1 - rho) t)."""
    replica = Replica(
        alpha_ms=10, beta_ms=0, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=11, max_batch=1, max_queue=10**6,
    )  # fmt: skip
    percentiles = queueing.percentiles(replica, 8.0, 0.95)
    assert percentiles.waiting_ms == pytest.approx(
        1000 * math.log(0.8 / 0.05) / (10 * 0.2), rel=1e-9
    )


@given(st.lists(replicas(largest_batch=96), min_size=2, max_size=12), st.randoms(), loads)
def test_a_row_does_not_depend_on_its_batch(
    chosen: list[Replica], random: Any, load: float
) -> None:
    """To the last bit, a replica's figures are the same alone, in a batch, and in any order."""
    rates = [load * replica.max_rate_rps for replica in chosen]
    together = queueing.analyze_all(Replicas.of(chosen), rates)
    order = list(range(len(chosen)))
    random.shuffle(order)
    shuffled = queueing.analyze_all(
        Replicas.of([chosen[place] for place in order]), [rates[place] for place in order]
    )
    for new, old in enumerate(order):
        alone = queueing.analyze(chosen[old], rates[old])
        assert together[old] == alone
        assert shuffled[new] == alone


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha_ms", -1),
        ("beta_ms", math.nan),
        ("gamma_ms", math.inf),
        ("delta_ms", -1e-9),
        ("input_tokens", -1),
        ("output_tokens", 0),
        ("output_tokens", math.nan),
        ("max_batch", 0),
        ("max_batch", 2.5),
        ("max_batch", 2**21),
        ("max_queue", -1),
        ("max_queue", math.inf),
    ],
)
def test_bad_parameters_are_named(published: dict[str, Any], field: str, value: float) -> None:
    """A parameter out of range is refused by name, and in a batch by name and row."""
    with pytest.raises(errors.InvalidParameterError, match=f"^{field}: must be") as caught:
        Replica(**{**published, field: value})
    assert (caught.value.parameter, caught.value.index) == (field, None)
    column = [published[field], value, value]
    with pytest.raises(errors.InvalidParameterError, match=rf"^{field}\[1\]: must be") as caught:
        Replicas(**{**published, field: column})
    assert (caught.value.parameter, caught.value.index) == (field, 1)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert str(again) == str(caught.value)


def test_shapes_must_match(published: dict[str, Any]) -> None:
    """Columns of different lengths, tables and texts are refused by the parameter's name."""
    with pytest.raises(errors.InvalidParameterError, match=r"beta_ms: has shape \(3,\), alpha_ms"):
        Replicas(**{**published, "alpha_ms": [20.0, 21.0], "beta_ms": [0.1, 0.2, 0.3]})
    with pytest.raises(errors.InvalidParameterError, match="gamma_ms: has shape"):
        Replicas(**{**published, "gamma_ms": [[1.0]]})
    with pytest.raises(errors.InvalidParameterError, match="delta_ms: must be numbers"):
        Replicas(**{**published, "delta_ms": ["fast"]})
    batch = Replicas(**{**published, "alpha_ms": [20.0, 21.0]})
    with pytest.raises(errors.InvalidParameterError, match=r"arrival_rate_rps: has shape \(3,\)"):
        queueing.analyze_all(batch, [1.0, 2.0, 3.0])
    with pytest.raises(errors.InvalidParameterError, match=r"arrival_rate_rps\[1\]"):
        queueing.analyze_all(batch, [1.0, -2.0])
    with pytest.raises(errors.InvalidParameterError, match=r"percentile\[0\]: must be a number"):
        queueing.percentiles_all(batch, 1.0, 95)


def test_times_without_meaning_are_refused(published: dict[str, Any]) -> None:
    """All parameters 0 would serve without end, and times beyond floats never; both are errors."""
    nothing = dict.fromkeys(("alpha_ms", "beta_ms", "gamma_ms", "delta_ms"), 0.0)
    with pytest.raises(errors.InvalidParameterError, match="would take no time"):
        Replica(**{**published, **nothing})
    with pytest.raises(errors.InvalidParameterError, match="would take forever"):
        Replica(**{**published, "alpha_ms": 1e308})


def test_an_empty_batch_has_empty_results(published: dict[str, Any]) -> None:
    """No rows in, no rows out."""
    none = Replicas(**{name: [] for name in published})
    assert len(none) == 0
    assert queueing.analyze_all(none, []).ttft_ms.shape == (0,)
