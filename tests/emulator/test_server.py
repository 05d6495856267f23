"""A server in virtual time: the engine's own times, to the last bit, and vLLM's counters."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from emulator.engine import Engine, EngineProfile, Request
from emulator.simulation import SimulatedFleet
from emulator.traces import Trace, generate
from tests.emulator.small_fleets import PROFILE, lone, trace
from tests.fakes import virtual_time

Arrival = tuple[float, int, int]
"""Seconds since the arrival before, input tokens, output tokens."""


class Served:
    """What the real engine made of some arrivals.

    `tokens` are time, whether it was the request's first, gap, and the request's arrival, in ms.
    """

    def __init__(self, profile: EngineProfile, arrivals: Sequence[Arrival]) -> None:
        self.arrived_seconds: list[float] = []
        self.requests: list[Request] = []
        self.tokens: list[tuple[float, bool, float, float]] = []
        virtual_time.run(self._serve(profile, arrivals))

    async def _serve(self, profile: EngineProfile, arrivals: Sequence[Arrival]) -> None:
        ended = asyncio.Event()
        left = len(arrivals)

        def token(request: Request, gap_ms: float) -> None:
            first = request.last_token_ms is None
            self.tokens.append((engine._at_ms, first, gap_ms, request.arrived_ms))

        def finish(_: Request) -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set()

        engine = Engine(profile, on_token=token, on_finish=finish)
        task = asyncio.create_task(engine.run())
        for wait, inputs, outputs in arrivals:
            if wait:
                await asyncio.sleep(wait)
            self.arrived_seconds.append(asyncio.get_running_loop().time())
            self.requests.append(engine.submit(input_tokens=inputs, output_tokens=outputs))
        await ended.wait()
        task.cancel()

    @property
    def tied(self) -> bool:
        """Whether one arrived at the very moment of an event: asyncio may have had either first."""
        events = {at_ms for at_ms, _, _, began_ms in self.tokens if at_ms > began_ms}
        return any(request.arrived_ms in events for request in self.requests)

    def trace(self) -> Trace:
        return trace(
            self.arrived_seconds,
            [request.input_tokens for request in self.requests],
            [request.output_tokens for request in self.requests],
        )


def assert_same(served: Served, fleet: SimulatedFleet) -> None:
    fleet.advance(served.requests[-1].arrived_ms / 1000 + 1e6)
    results = fleet.results()
    for times, name in (
        (results.arrival_ms, "arrived_ms"),
        (results.start_ms, "admitted_ms"),
        (results.first_token_ms, "first_token_ms"),
        (results.finish_ms, "last_token_ms"),
    ):
        assert times.tolist() == [getattr(request, name) for request in served.requests]


def drawn(count: int, mean_gap_seconds: float, seed: int) -> list[Arrival]:
    """Poisson arrivals, some of them at one moment, some without input or with a single token."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(mean_gap_seconds, count) * (rng.random(count) > 0.2)
    inputs = rng.integers(0, 300, count) * (rng.random(count) > 0.1)
    outputs = np.maximum(rng.integers(1, 120, count) * (rng.random(count) > 0.1), 1)
    return list(zip(gaps.tolist(), inputs.tolist(), outputs.tolist(), strict=True))


@pytest.mark.parametrize(
    ("max_batch", "mean_gap_seconds"), [(1, 1.5), (4, 0.35), (4, 0.2), (64, 0.03)]
)
def test_times_are_the_engines_to_the_last_bit(max_batch: int, mean_gap_seconds: float) -> None:
    """Start, first token and end of each request are those of emulator.engine, idle and overloaded."""
    profile = dataclasses.replace(PROFILE, max_batch=max_batch)
    served = Served(profile, drawn(400, mean_gap_seconds, seed=max_batch))
    assert_same(served, lone(profile, served.trace()))


times_ms = st.one_of(st.just(0.0), st.sampled_from([1.0, 10.0, 25.0]), st.floats(0.01, 50.0))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    profile=st.builds(
        EngineProfile,
        alpha_ms=times_ms,
        beta_ms=times_ms,
        gamma_ms=times_ms,
        delta_ms=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
        max_batch=st.integers(1, 5),
    ),
    arrivals=st.lists(
        st.tuples(
            st.one_of(st.just(0.0), st.sampled_from([0.01, 0.025, 0.1]), st.floats(1e-6, 0.5)),
            st.integers(0, 50),
            st.integers(1, 12),
        ),
        min_size=1,
        max_size=25,
    ),
)
def test_any_profile_is_the_engines(profile: EngineProfile, arrivals: list[Arrival]) -> None:
    """Whatever the profile and the arrivals, also together and in no time, the engine agrees."""
    served = Served(profile, arrivals)
    assume(not served.tied)
    assert_same(served, lone(profile, served.trace()))


def test_counters_are_exact_at_any_moment() -> None:
    """Read in the middle of requests, the sums are those over the engine's tokens until then."""
    served = Served(PROFILE, drawn(60, 0.4, seed=3))
    fleet = lone(PROFILE, served.trace())
    for moment_ms in np.linspace(1.0, served.tokens[-1][0] + 10.0, 300):
        fleet.advance(moment_ms / 1000)
        (page,) = fleet.counters("v")
        now_ms = (moment_ms / 1000) * 1000
        firsts = [gap for at, first, gap, _ in served.tokens if at <= now_ms and first]
        gaps = [gap for at, first, gap, _ in served.tokens if at <= now_ms and not first]
        arrived = [r for r in served.requests if r.arrived_ms <= now_ms]
        begun = [r for r in arrived if (r.first_token_ms or 0.0) <= now_ms]
        done = [r for r in arrived if (r.last_token_ms or 0.0) <= now_ms]
        admitted = [r for r in arrived if (r.admitted_ms or 0.0) <= now_ms]
        assert list(page.ttft) == [pytest.approx(sum(firsts) / 1000), len(firsts)]
        assert list(page.itl) == [pytest.approx(sum(gaps) / 1000), len(gaps)]
        assert page.generation_tokens_total == len(firsts) + len(gaps)
        assert page.prompt_tokens_total == sum(r.input_tokens for r in begun)
        assert page.finished == len(done)
        assert page.prompt_tokens == (sum(r.input_tokens for r in done), len(done))
        assert page.generation_tokens == (sum(r.output_tokens for r in done), len(done))
        assert page.running == len(admitted) - len(done)
        assert page.waiting == len(arrived) - len(admitted)
        assert page.kv_cache == page.running / PROFILE.max_batch


def test_two_requests_by_hand() -> None:
    """The second's prefill counts both; the first's iteration in progress stays as long as it was."""
    profile = EngineProfile(alpha_ms=20.0, beta_ms=1.0, gamma_ms=10.0, delta_ms=0.1, max_batch=2)
    fleet = lone(profile, trace([0.0, 0.020], [50, 100], [3, 2]))
    fleet.advance(1.0)
    results = fleet.results()
    # First: prefill 10 + 0.1*50*1 = 15; iterations 15..36 (alone), 36..58 (two in service).
    # Second: from 20, prefill 10 + 0.1*100*2 = 30, so 50, in the middle of an iteration; then 58..79.
    assert results.first_token_ms.tolist() == pytest.approx([15.0, 50.0])
    assert results.finish_ms.tolist() == pytest.approx([58.0, 79.0])
    assert results.ttft_ms.tolist() == pytest.approx([15.0, 30.0])
    assert results.itl_ms.tolist() == pytest.approx([(58 - 15) / 2, 79 - 50])


def test_who_arrives_as_an_iteration_ends_joins_the_next() -> None:
    """At one moment arrivals come before the server's events, so the next iteration counts them."""
    profile = EngineProfile(alpha_ms=20.0, beta_ms=1.0, gamma_ms=15.0, max_batch=2)
    fleet = lone(profile, trace([0.0, 0.036], [1, 0], [9, 2]))
    fleet.advance(0.036)
    fleet.advance(1.0)
    results = fleet.results()
    # Iterations 15..36 (one in service), then 36..58 (two), not 36..57 and 57..79.
    assert results.first_token_ms.tolist() == [15.0, 36.0]
    assert results.finish_ms[1] == 58.0


def test_a_batch_of_one_is_a_single_server_queue() -> None:
    """At max_batch 1 waits follow Lindley's recursion, and their mean Pollaczek and Khinchine's formula."""
    profile = EngineProfile(alpha_ms=9.0, beta_ms=1.0, max_batch=1)
    offered = generate(
        {
            "kind": "poisson", "rate_rpm": 420, "duration_seconds": 20000, "seed": 4,
            "tokens": {"input": {"mean": 0}, "output": {"mean": 11}},
        }
    )  # fmt: skip
    fleet = lone(profile, offered)
    fleet.advance(30000)
    waits = fleet.results().ttft_ms
    service_ms, wait, expected = 100.0, 0.0, [0.0]
    for gap_ms in np.diff(offered.arrival_seconds * 1000):
        wait = max(wait + service_ms - gap_ms, 0.0)
        expected.append(wait)
    assert waits == pytest.approx(np.array(expected), abs=1e-3)
    load = 420 / 60 * service_ms / 1000
    assert waits.mean() == pytest.approx(load * service_ms / (2 * (1 - load)), rel=0.03)
