"""The Protocol of engines: that of profiles behind it, and factories by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emulator.engine import EngineProfile
from emulator.engines.factories import load_factory
from emulator.engines.profile import ProfileEngine
from emulator.engines.protocol import EngineFactory, VirtualEngine
from emulator.engines.runs import serve_closed_loop, serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from emulator.simulation import SimulatedFleet, SimulatedVariant
from emulator.traces import Trace

PROFILE = EngineProfile(alpha_ms=20, beta_ms=0.5, gamma_ms=5, delta_ms=0.1, max_batch=4)


def scheduled() -> VirtualEngine:
    return SchedulerEngine(
        StepTimes(base_ms=20),
        SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=256, kv_blocks=100),
    )


def profiled() -> VirtualEngine:
    return ProfileEngine(PROFILE)


def test_profile_engine_is_that_of_the_fleet() -> None:
    """Behind the Protocol, an engine of a profile gives requests the times that a fleet of one does."""
    source = np.random.default_rng(1)
    arrivals = np.cumsum(source.exponential(0.3, 60))
    trace = Trace(
        arrival_seconds=arrivals,
        input_tokens=source.integers(1, 200, 60),
        output_tokens=source.integers(1, 40, 60),
        duration_seconds=float(arrivals[-1]) + 1,
    )
    fleet = SimulatedFleet(
        [SimulatedVariant(name="one", profile=PROFILE, replicas=1)], traces={"default": trace}
    )
    fleet.advance(1000)
    results = fleet.results()
    engine = profiled()
    completions = serve_open_loop(
        engine,
        arrival_ms=(arrivals * 1000).tolist(),
        input_tokens=trace.input_tokens.tolist(),
        output_tokens=trace.output_tokens.tolist(),
    )
    assert [c.first_token_ms for c in completions] == results.first_token_ms.tolist()
    assert [c.last_token_ms for c in completions] == results.finish_ms.tolist()
    assert (engine.state().finished, engine.state().running) == (60, 0)
    assert engine.now_ms == max(results.finish_ms)


@pytest.mark.parametrize("make", [scheduled, profiled])
def test_engines_serve_closed_loops(make: EngineFactory) -> None:
    """So many clients have never more requests in an engine, and all are served."""
    completions = serve_closed_loop(
        make(), concurrency=3, input_tokens=[30] * 20, output_tokens=list(range(1, 21))
    )
    assert [completion.output_tokens for completion in completions] == list(range(1, 21))
    events = [(c.arrival_ms, 1) for c in completions] + [(c.last_token_ms, -1) for c in completions]
    level = most = 0
    for _, change in sorted(events):
        level += change
        most = max(most, level)
    assert most == 3


@pytest.mark.parametrize("make", [scheduled, profiled])
def test_engines_cancel_and_drain(make: EngineFactory) -> None:
    """A cancelled request's end is not told, and a drain gives back what was never in service."""
    engine = make()
    for number in range(8):
        assert engine.submit(arrival_ms=0, input_tokens=10, output_tokens=5) == number
    engine.advance(70)
    assert engine.state().running == engine.max_requests == 4
    assert 1 < engine.generated(0) < 5
    assert engine.generated(7) == 0
    assert (engine.cancel(1), engine.cancel(1), engine.cancel(6), engine.cancel(99)) == (
        True,
        False,
        True,
        False,
    )
    assert engine.withdraw_waiting() == [4, 5, 7]
    engine.advance(math.inf)
    assert [completion.number for completion in engine.take_completions()] == [0, 2, 3]
    with pytest.raises(KeyError):
        engine.generated(0)
    assert (engine.state().running, engine.state().waiting) == (0, 0)


@pytest.mark.parametrize("make", [scheduled, profiled])
def test_engines_refuse_the_past(make: EngineFactory) -> None:
    """No engine takes a request or goes to a moment before its own."""
    engine = make()
    engine.advance(10)
    with pytest.raises(ValueError, match="arrival_ms"):
        engine.submit(arrival_ms=9, input_tokens=1, output_tokens=1)
    with pytest.raises(ValueError, match="until_ms"):
        engine.advance(9)
    with pytest.raises(ValueError, match="output_tokens"):
        engine.submit(arrival_ms=10, input_tokens=1, output_tokens=0)
    with pytest.raises(ValueError, match="cached_tokens"):
        engine.submit(arrival_ms=10, input_tokens=1, output_tokens=1, cached_tokens=2)


def test_factory_by_name() -> None:
    """`module:factory` is imported."""
    factory: object = load_factory("math:floor")
    assert factory is math.floor


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vllm", "must be module:factory"),
        (":made", "must be module:factory"),
        ("no_such_module:made", "cannot import 'no_such_module'"),
        ("math:no_such", "has no function 'no_such'"),
        ("math:pi", "has no function 'pi'"),
    ],
)
def test_bad_factory_names(name: str, message: str) -> None:
    """A name that leads to no function says why."""
    with pytest.raises(ValueError, match=message):
        load_factory(name)
