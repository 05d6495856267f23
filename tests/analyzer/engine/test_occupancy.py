"""Numbers of requests in the batch: what follows from them does not jump with the number of slots."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.engine import floats
from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engines
from analyzer.engine.occupancy import FULL, Occupancy, occupancy
from analyzer.replicas import FloatArray

CHAINS = [(0.5, 0.4, 0.8), (8.0, 0.3, 0.95), (3.0, 0.01, 0.7), (-0.2, 0.9, 0.99), (20.0, 0.0, 0.6)]
"""Parts of the ratio of neighbouring states, and loads that are above it at some numbers of slots."""

QUEUE = 12.0


def _chain(base: float, slope: float, slots: FloatArray, load: float) -> Occupancy:
    same = np.ones(slots.size)
    return occupancy(base * same, slope * same, slots, load * same, QUEUE * same)


@pytest.mark.parametrize(("base", "slope", "load"), CHAINS)
def test_more_slots_let_fewer_wait_without_a_jump(base: float, slope: float, load: float) -> None:
    slots = np.linspace(1.0, 30.0, 2901)  # more rows than a table has, so state by state
    waits = _chain(base, slope, slots, load).waits
    steps = np.diff(np.log(waits))
    # Where nearly all wait, as in some of these at a slot or two, they are as many within 1e-6.
    assert steps.max() <= 1e-6
    assert np.abs(np.diff(steps)).max() < 0.01
    for number in (2.0, 3.0, 17.0):
        few = np.array([number, number * (1.0 + 1e-9)])
        table = _chain(base, slope, few, load)
        single = [floats._occupancy(base, slope, float(one), load, QUEUE) for one in few]
        for name in ("mean", "variance", "waits"):
            at, beyond = getattr(table, name)
            assert beyond == pytest.approx(at, rel=1e-6)
            assert [getattr(one, name) for one in single] == pytest.approx([at, beyond], rel=1e-9)


@pytest.mark.parametrize("kv_tokens", [20_000.0, 40_000.0, 80_000.0])
def test_waits_for_the_kv_cache_rise_evenly_with_the_rate(kv_tokens: float) -> None:
    engines = Engines(
        base_ms=8.0,
        per_request_ms=0.05,
        per_prefill_token_ms=0.02,
        per_context_token_ms=2e-5,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        input_tokens=1000,
        output_tokens=300,
        kv_tokens=kv_tokens,
        input_cv=1.0,
        output_cv=1.0,
    )
    rates = np.linspace(0.3, 0.99 * FULL, 4000) * 1000.0 * engines.full_rate
    waits = engine_state.at_rate(engines, rates).slot_waits
    assert np.diff(np.log(waits)).min() > 0.0
    assert np.diff(np.log(waits)).max() < 0.02
