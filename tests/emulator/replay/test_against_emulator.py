"""The simulation's latencies are those of emulated servers over HTTP, for the same requests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from emulator import vllm
from emulator.engine import EngineProfile
from emulator.load import Completion, LoadGenerator, Phase
from emulator.simulation import Results, SimulatedFleet, SimulatedVariant
from emulator.traces import Trace
from tests.fakes import virtual_time

PROFILE = EngineProfile(alpha_ms=20.58, beta_ms=0.41, gamma_ms=5.2, delta_ms=0.1, max_batch=4)
INPUT_TOKENS, OUTPUT_TOKENS = 128, 60
REPLICAS = 2
PHASES = (
    Phase(duration_seconds=40.0, rate_rpm=240.0),
    Phase(duration_seconds=40.0, rate_rpm=400.0),
)
"""At first two thirds of what two replicas can, then a tenth more than that."""


@contextlib.asynccontextmanager
async def servers() -> AsyncIterator[list[str]]:
    """Emulated servers, each with sockets and an engine of its own."""
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for _ in range(REPLICAS):
            application = vllm.Server(
                model="default/default", profile=PROFILE, speed=1.0
            ).application()
            server = TestServer(application)
            await server.start_server()
            stack.push_async_callback(server.close)
            urls.append(str(server.make_url("")).rstrip("/"))
        yield urls


async def measured() -> LoadGenerator:
    """A load generator that has sent its requests to the servers."""
    async with servers() as urls:
        load = LoadGenerator(
            model="default/default",
            phases=PHASES,
            input_tokens=INPUT_TOKENS,
            output_tokens=OUTPUT_TOKENS,
            speed=1.0,
            endpoints=lambda: urls,
            arrivals="poisson",
            seed=4,
        )
        await load.run()
    return load


def simulated(completions: list[Completion]) -> Results:
    """The same requests in virtual time."""
    arrivals = np.sort([item.arrived_at_seconds for item in completions])
    trace = Trace(
        arrival_seconds=arrivals,
        input_tokens=np.full(len(arrivals), INPUT_TOKENS, dtype=np.int64),
        output_tokens=np.full(len(arrivals), OUTPUT_TOKENS, dtype=np.int64),
        duration_seconds=float(arrivals[-1]),
    )
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", profile=PROFILE, replicas=REPLICAS)], traces={"default": trace}
    )
    fleet.advance(trace.duration_seconds + 600.0)
    return fleet.results()


def test_the_simulation_agrees_with_servers_and_load_generator() -> None:
    """Two servers that get full in ten seconds: TTFT and ITL, mean and p95, as simulated within 1 %.

    Servers and load generator talk HTTP over sockets, in virtual time. Both route by fewest requests; over
    sockets a request that ends at that very moment may still count.
    """
    load = virtual_time.run(measured())
    assert load.failed == 0
    assert len(load.completed) == load.sent > 300
    results = simulated(load.completed)
    ttft = np.array([item.ttft_ms for item in load.completed])
    itl = np.array([item.itl_ms for item in load.completed])
    assert results.ttft_ms.mean() > 500  # so that a wrong queue would be seen
    for measured_ms, expected_ms in ((ttft, results.ttft_ms), (itl, results.itl_ms)):
        assert measured_ms.mean() == pytest.approx(expected_ms.mean(), rel=0.01)
        assert np.percentile(measured_ms, 95) == pytest.approx(
            np.percentile(expected_ms, 95), rel=0.01
        )
