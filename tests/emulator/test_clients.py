"""Clients that give up without a token in time, and send again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from emulator.engine import EngineProfile
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from emulator.fleet.requests import GIVEN_UP
from emulator.simulation import Clients, SimulatedFleet, SimulatedVariant
from emulator.traces import Trace

PROFILE = EngineProfile(alpha_ms=20.0, beta_ms=0.0, gamma_ms=0.0, delta_ms=0.0, max_batch=1)
TIMES = StepTimes(base_ms=20.0)
LIMITS = SchedulerLimits(max_num_seqs=1, max_num_batched_tokens=2048, kv_blocks=1000)
SERVERS: dict[str, dict[str, Any]] = {
    "profile": {"profile": PROFILE},
    "vllm": {"engine": lambda: SchedulerEngine(TIMES, LIMITS)},
}


def trace(*arrivals: float, output: int = 100) -> Trace:
    number = len(arrivals)
    return Trace(
        arrival_seconds=np.array(arrivals),
        input_tokens=np.full(number, 10, dtype=np.int64),
        output_tokens=np.full(number, output, dtype=np.int64),
        duration_seconds=arrivals[-1],
    )


def fleet(server: str, requests: Trace, *, replicas: int = 1, **clients: Any) -> SimulatedFleet:
    variant = SimulatedVariant(
        name="v", model="m", replicas=replicas, start_delay_seconds=30, **SERVERS[server]
    )
    return SimulatedFleet([variant], traces={"m": requests}, clients={"m": Clients(**clients)})


@pytest.mark.parametrize("server", SERVERS)
def test_who_waits_too_long_gives_up(server: str) -> None:
    """Of three on a replica for one, each 2 s long, the third gives up after 3 s; the others are served."""
    simulated = fleet(server, trace(0.0, 0.1, 0.2), timeout_seconds=3.0)
    simulated.advance(20.0)
    results = simulated.results()
    assert np.isfinite(results.finish_ms).tolist() == [True, True, False]
    assert results.variant.tolist() == [0, 0, GIVEN_UP]
    assert simulated.in_flight("v") == simulated.prompt_tokens("v") == 0
    assert simulated.offered("m") == 3
    (counters,) = simulated.counters("v")
    assert (counters.running, counters.waiting, counters.finished) == (0, 0, 2)


@pytest.mark.parametrize("server", SERVERS)
def test_a_retry_counts_from_the_first_attempt(server: str) -> None:
    """The dropped request is sent again 1 s later: more load, and a TTFT since its first arrival."""
    simulated = fleet(
        server, trace(0.0, 0.1, 0.2), timeout_seconds=3.0, retries=1, backoff_seconds=1.0
    )
    simulated.advance(20.0)
    results = simulated.results()
    assert simulated.offered("m") == 4
    assert np.isfinite(results.finish_ms).all()
    assert 4000 <= results.ttft_ms[2] < 4100  # 3 s until it gave up, 1 s until it came again
    (counters,) = simulated.counters("v")
    assert counters.ttft[0] < 2.5  # the server knows of the last attempt only


@pytest.mark.parametrize("server", SERVERS)
def test_a_request_with_a_token_is_never_dropped(server: str) -> None:
    """A long answer outlasts the timeout once its first token is there."""
    simulated = fleet(server, trace(0.0, output=500), timeout_seconds=1.0, retries=3)
    simulated.advance(20.0)
    assert simulated.results().finish_ms[0] > 9000
    assert simulated.offered("m") == 1


@pytest.mark.parametrize("server", SERVERS)
def test_a_queue_without_replicas_empties(server: str) -> None:
    """While no replica is ready, clients leave the gateway's queue; their places are not served later."""
    simulated = fleet(server, trace(0.0, 5.0, 28.0), replicas=0, timeout_seconds=10.0)
    simulated.scale("v", 1)
    simulated.advance(40.0)
    assert np.isfinite(simulated.results().finish_ms).tolist() == [False, False, True]
    assert simulated.gateway("m") == 0


def test_a_prefill_that_is_dropped_leaves_its_place() -> None:
    """A request whose prompt is still being computed frees its place in the batch for the next one."""
    slow = EngineProfile(alpha_ms=20.0, beta_ms=0.0, gamma_ms=5000.0, delta_ms=0.0, max_batch=1)
    variant = SimulatedVariant(name="v", model="m", replicas=1, profile=slow)
    simulated = SimulatedFleet(
        [variant],
        traces={"m": trace(0.0, 2.0, output=2)},
        clients={"m": Clients(timeout_seconds=6.0)},
    )
    simulated.advance(4.0)
    assert simulated.in_flight("v") == 2
    patient = SimulatedFleet(
        [variant],
        traces={"m": trace(0.0, 2.0, output=2)},
        clients={"m": Clients(timeout_seconds=4.0)},
    )
    patient.advance(30.0)
    # The first gives up at 4 s in its prefill; the second begins then, and gives up at 6 s.
    assert patient.results().variant.tolist() == [GIVEN_UP, GIVEN_UP]
    assert patient.in_flight("v") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout_seconds": 0.0},
        {"timeout_seconds": math.nan},
        {"retries": -1},
        {"backoff_seconds": -1.0},
    ],
)
def test_impossible_clients_are_refused(wrong: dict[str, Any]) -> None:
    """Times and numbers must make sense."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Clients(**wrong)


def test_requests_arrive_in_time_when_those_before_got_their_token() -> None:
    """The timeout of a request that got its first token delays no request that arrives after it."""
    limits = SchedulerLimits(max_num_seqs=12, max_num_batched_tokens=256, kv_blocks=400)
    arrivals = [number / 50 for number in range(1, 201)]
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", engine=lambda: SchedulerEngine(TIMES, limits), replicas=2)],
        traces={"default": trace(*arrivals, output=5)},
        clients={"default": Clients(timeout_seconds=0.3)},
    )
    for quarter in range(1, 17):
        fleet.advance(quarter / 4)
        assert fleet.offered("default") == sum(moment <= quarter / 4 for moment in arrivals)


SLOW_PROMPTS: dict[str, dict[str, Any]] = {
    "profile": {
        "profile": EngineProfile(
            alpha_ms=20.0, beta_ms=0.0, gamma_ms=4000.0, delta_ms=0.0, max_batch=1
        )
    },
    "vllm": {
        "engine": lambda: SchedulerEngine(StepTimes(base_ms=20, per_prefill_token_ms=400), LIMITS)
    },
}


@pytest.mark.parametrize("server", SLOW_PROMPTS)
def test_a_replica_that_drains_ends_when_its_last_client_leaves(server: str) -> None:
    """Its GPUs are free at that moment, though its engine still computes a step."""
    variant = SimulatedVariant(name="v", replicas=1, **SLOW_PROMPTS[server])
    simulated = SimulatedFleet(
        [variant],
        traces={"default": trace(0.0)},
        clients={"default": Clients(timeout_seconds=3.0)},
    )
    simulated.advance(1.0)
    simulated.scale("v", 0)
    simulated.advance(10.0)
    assert simulated.gpu_seconds("v") == 3.0
