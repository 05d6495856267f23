"""One replica without arrays: the numbers of the formulas and of the search are those of rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from analyzer.engine import single, sizing
from analyzer.engine import state as engine_state
from analyzer.engine.columns import COLUMNS, Engine, Engines, problems, within_bounds
from analyzer.engine.floats import formulas
from analyzer.engine.nodes import bins_of_one
from analyzer.engine.percentiles import latency, means
from analyzer.engine.search import BINDINGS, IDLE, Search, Targets
from analyzer.step_times import EngineLimits, Lengths, StepTimes

SHORT: tuple[tuple[float, ...], ...] = ((), (0.01, 0.03, 0.03, 0.08), (0.0, 0.0, 0.1, 0.4))
"""Shares of short answers: unknown, and two sets of them."""

Bounds = tuple[float, float, float | None]


def drawn(count: int, seed: int) -> list[tuple[Engine, Bounds]]:
    """Engines of all kinds with targets, NaN and None where there is none."""
    source = np.random.default_rng(seed)
    cases: list[tuple[Engine, Bounds]] = []
    for _ in range(count):
        base = source.uniform(2, 30)
        engine = Engine(
            step_times=StepTimes(
                base_ms=base,
                per_request_ms=source.uniform(0, 0.3),
                per_prefill_token_ms=source.uniform(0.001, 0.1),
                per_context_token_ms=source.uniform(0, 2e-4),
                per_sqrt_request_ms=float(source.choice([0.0, 0.5])),
                per_prompt_ms=float(source.choice([0.0, 1.0])),
            ),
            limits=EngineLimits(
                max_num_seqs=int(source.integers(1, 400)),
                max_num_batched_tokens=int(source.integers(600, 9000)),
                kv_tokens=None if source.random() < 0.3 else int(source.integers(6000, 1_000_000)),
            ),
            lengths=Lengths(
                input_tokens=source.uniform(1, 4000),
                output_tokens=source.uniform(1, 800),
                input_cv=float(source.choice([0.0, source.uniform(0, 2)])),
                output_cv=source.uniform(0, 1.5),
                cached_tokens=float(source.choice([0.0, 100.0])),
                short_answers=SHORT[len(cases) % 3],
            ),
        )
        percentile = None if source.random() < 0.4 else float(source.choice([0.5, 0.9, 0.95, 0.99]))
        cases.append(
            (engine, (source.uniform(50, 5000), base * source.uniform(1.2, 6), percentile))
        )
    return cases


def columns_of(engine: Engine) -> dict[str, float]:
    """Parameters by name."""
    arrays = Engines.of([engine])
    steps, limits = engine.step_times, engine.limits
    given = {**vars_of(steps), **vars_of(limits), **vars_of(engine.lengths)}
    given["kv_tokens"] = float(arrays.kv_tokens[0])
    return {name: float(given[name]) for name in COLUMNS}


def vars_of(part: object) -> dict[str, float]:
    """Fields of a dataclass with slots."""
    return {name: getattr(part, name) for name in part.__slots__}  # type: ignore[attr-defined]


def test_formulas_on_floats_give_what_they_give_for_rows() -> None:
    """Means and shares beyond targets agree to nine digits at rates up to the largest stable one."""
    on_floats = formulas()
    for engine, (ttft, itl, _) in drawn(60, 1):
        rows = Engines.of([engine])
        columns = on_floats.columns.Engines.__new__(on_floats.columns.Engines)
        columns._fill(columns_of(engine), bins_of_one(engine.lengths.short_answers))
        most = float(Search.stable_rates(rows)[0])
        for rate in (0.01 * most, 0.5 * most, 0.98 * most):
            state = on_floats.state.at_rate(columns, rate)
            expected_state = engine_state.at_rate(rows, np.array([rate]))
            times = on_floats.percentiles.latency(columns, state)
            expected_times = latency(rows, expected_state)
            assert bool(expected_state.stable[0]) == state.stable
            assert on_floats.percentiles.means(columns, state) == pytest.approx(
                [float(value[0]) for value in means(rows, expected_state)], rel=1e-9
            )
            for name, target in (("ttft_exceeds", ttft), ("itl_exceeds", itl)):
                assert getattr(times, name)(target) == pytest.approx(
                    float(getattr(expected_times, name)(np.array([target]))[0]), rel=1e-9, abs=1e-13
                ), name


def test_targets_that_no_load_meets_have_the_answer_of_rows() -> None:
    """The target that is missed, and what an idle replica gives: of means and percentiles, on floats."""
    missed: list[tuple[str, bool]] = []
    for number, (engine, (some, other, percentile)) in enumerate(drawn(60, 7)):
        # Less than any step takes, of one of the two.
        ttft, itl = (0.01 * some, other) if number % 2 else (some, 0.15 * other)
        held = single.largest(engine, Targets(ttft_ms=ttft, itl_ms=itl, percentile=percentile), 0.1)
        alone = sizing.size_engines(
            Engines.of([engine]),
            ttft_ms=ttft,
            itl_ms=itl,
            percentile=math.nan if percentile is None else percentile,
            headroom=0.1,
        )[0]
        if held is None or not math.isnan(held.rate_rps):
            continue
        assert math.isnan(alone.rate_rps)
        assert BINDINGS[held.reason] == alone.binding
        assert held.best_ms == pytest.approx(alone.best_ms, rel=1e-9)
        missed.append((alone.binding, percentile is None))
    assert min(map(missed.count, set(missed))) > 5
    assert set(missed) == {("ttft", True), ("ttft", False), ("itl", True), ("itl", False)}


def test_largest_rate_is_where_the_worst_latency_meets_its_target() -> None:
    """At 0.1 % less all targets hold by the formulas for rows, at 0.3 % more one does not; but for `NEAR`."""
    searched = 0
    for engine, (ttft, itl, percentile) in drawn(60, 2):
        targets = Targets(ttft_ms=ttft, itl_ms=itl, percentile=percentile)
        held = single.largest(engine, targets, 0.0)
        rows = Engines.of([engine])
        share = math.nan if percentile is None else percentile
        search = Search(rows, *(np.array([value]) for value in (ttft, itl, share)))
        if held is None or math.isnan(held.rate_rps):
            alone = sizing.size_engines(
                rows, ttft_ms=ttft, itl_ms=itl, percentile=share, headroom=0
            )
            assert math.isnan(alone.rate_rps[0])
            continue
        searched += 1
        less, more = (search.over(np.array([held.rate_rps * by]))[0] for by in (0.999, 1.003))
        assert less[0] <= single.MISSES_NEAR
        assert more[0] > -single.NEAR
    assert searched > 40


def test_headroom_is_that_of_rows() -> None:
    """Rates less their headroom are those of a search for many rows, and so is what binds."""
    cases = drawn(50, 3)
    rows = Engines.of([engine for engine, _ in cases])
    ttft, itl, share = np.array([bounds for _, bounds in cases], dtype=np.float64).T
    many = sizing.size_engines(rows, ttft_ms=ttft, itl_ms=itl, percentile=share)
    for row, (engine, bounds) in enumerate(cases):
        one = sizing.size_engine(engine, ttft_ms=bounds[0], itl_ms=bounds[1], percentile=bounds[2])
        assert one.rate_rps == pytest.approx(many[row].rate_rps, rel=3e-3, nan_ok=True)
        assert (one.binding, one.max_batch) == (many[row].binding, many[row].max_batch)
        assert one.kv_bound_batch == pytest.approx(many[row].kv_bound_batch)


def test_headroom_of_a_root_found_by_two_tests_is_that_of_rows(tested: list[float]) -> None:
    """The last rate of the search counts once where misses are interpolated: no headroom was taken off."""
    engine = Engine(
        step_times=StepTimes(
            base_ms=4.85,
            per_request_ms=0.125,
            per_prefill_token_ms=0.0725,
            per_context_token_ms=4.7e-5,
        ),
        limits=EngineLimits(max_num_seqs=121, max_num_batched_tokens=2048, kv_tokens=677),
        lengths=Lengths(input_tokens=236.0, output_tokens=76.5),
    )
    targets = {"ttft_ms": 2150.0, "itl_ms": 12.3, "percentile": 0.99}
    one = sizing.size_engine(engine, **targets).rate_rps
    assert len(tested) == len(set(tested)) == 3
    rows = sizing.size_engines(Engines.of([engine] * 8), **targets)
    assert one == pytest.approx(float(rows.rate_rps[0]), rel=3e-3)


def test_no_rate_is_held_beyond_one_at_which_the_replica_falls_behind() -> None:
    """Long prompts and short answers: where prompts hold all slots, the replica does not keep up again.

    So a single row, of which rates are tested together, and many, of which they are approached, agree.
    """
    shares = np.linspace(0.01, 0.9999, 150)
    for number in (39, 74, 88):
        engine, (ttft_ms, _, _) = drawn(150, 11)[number]
        rows = Engines.of([engine] * shares.size)
        most = 1000.0 * np.minimum(rows.full_rate, 1.0 / (rows.prefill_ms * rows.input_tokens))
        stable = engine_state.at_rate(rows, shares * most).stable
        assert not np.any(stable[1:] & ~stable[:-1]), number
        held = [
            sizing.size_engine(engine, ttft_ms=ttft_ms, percentile=0.95).rate_rps,
            *(
                float(sizing.size_engines(some, ttft_ms=ttft_ms, percentile=0.95).rate_rps[0])
                for some in (Engines.of([engine]), Engines.of([engine] * 8))
            ),
        ]
        assert max(held) <= 1.003 * min(held), (number, held)


def test_extreme_lengths_give_what_they_give_for_rows() -> None:
    """Lengths that vary a hundredfold, and a KV cache that holds not even one such request."""
    engine, (ttft, _, _) = drawn(1, 4)[0]
    lengths = replace(engine.lengths, input_cv=100.0, output_cv=100.0)
    wild = replace(engine, lengths=lengths)
    one = sizing.size_engine(wild, ttft_ms=ttft)
    rows = sizing.size_engines(Engines.of([wild] * 8), ttft_ms=ttft)
    assert one.rate_rps == pytest.approx(float(rows.rate_rps[0]), rel=3e-3, nan_ok=True)


def test_what_floats_cannot_express_is_left_to_arrays() -> None:
    """A target of 0 divides by zero, which arrays carry on with as infinity."""
    engine, _ = drawn(1, 4)[0]
    targets = Targets(ttft_ms=0.0, itl_ms=50.0, percentile=None)
    assert single.largest(engine, targets, 0.0) is None


def test_prompts_that_cost_nothing_are_left_to_floats() -> None:
    """Steps of a base time alone."""
    engine, _ = drawn(1, 4)[0]
    free = replace(
        engine,
        step_times=StepTimes(
            base_ms=10.0, per_request_ms=0.0, per_prefill_token_ms=0.0, per_context_token_ms=0.0
        ),
    )
    targets = Targets(ttft_ms=math.inf, itl_ms=50.0, percentile=None)
    largest = single.largest(free, targets, 0.0)
    assert largest is not None
    rows = sizing.size_engines(Engines.of([free] * 5), itl_ms=50.0, headroom=0.0)
    assert largest.rate_rps == pytest.approx(float(rows.rate_rps[0]), rel=3e-3)


@pytest.mark.parametrize("bins", [(), (0.01, 0.02, 0.03, 0.05)])
def test_one_replica_is_worked_out_on_floats_alone(bins: tuple[float, ...]) -> None:
    """Numbers of numpy give the same and take several times as long; one of them makes others of all."""
    engine, _ = drawn(3, 4)[0]
    columns = formulas().columns.Engines.__new__(formulas().columns.Engines)
    columns._fill(single._columns(engine), bins)
    state = formulas().state.at_rate(columns, 1.0)
    prompts = {name: getattr(state.prompts, name) for name in state.prompts.__slots__}
    numbers = vars(columns) | prompts | {name: getattr(state, name) for name in state.__slots__}
    assert not [name for name, number in numbers.items() if isinstance(number, np.generic)]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 0.5, 1e10, 1e6])
def test_what_is_within_bounds_has_no_problem(name: str, value: float) -> None:
    """No parameter that the arrays refuse is taken by the check for one replica, nor the other way."""
    good = {**dict.fromkeys(COLUMNS, 1.0), "max_num_seqs": 8.0, "max_num_batched_tokens": 512.0}
    given = {**good, "kv_tokens": 5000.0, name: value}
    refused = problems({key: np.array([number]) for key, number in given.items()})
    assert (within_bounds([given[key] for key in COLUMNS]) is None) == bool(refused)


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rates that a search tests, as it goes on."""
    rates: list[float] = []
    missed = single._Single._missed

    def counted(search: single._Single, rate_rps: float) -> single._Missed:
        rates.append(rate_rps)
        return missed(search, rate_rps)

    monkeypatch.setattr(single._Single, "_missed", counted)
    return rates


def _drawn(
    source: np.random.Generator, *, answers: tuple[float, float], short: int = 0
) -> tuple[Engine, float, float]:
    """An engine, the base of its step times, and the time of one prompt, ms; answers of so many tokens."""
    base = source.uniform(5, 30)
    prompt, prefill = source.uniform(500, 7000), base * source.uniform(0.004, 0.012)
    engine = Engine(
        step_times=StepTimes(
            base_ms=base,
            per_request_ms=source.uniform(0.02, 0.15),
            per_prefill_token_ms=prefill,
            per_context_token_ms=1e-4,
        ),
        limits=EngineLimits(max_num_seqs=256, max_num_batched_tokens=8192, kv_tokens=400_000),
        lengths=Lengths(
            input_tokens=prompt,
            output_tokens=source.uniform(*answers),
            input_cv=1.0,
            output_cv=0.8,
            short_answers=tuple(np.sort(source.uniform(0, 0.4, short))),
        ),
    )
    return engine, base, prefill * prompt


def test_few_rates_are_tested_where_answers_are_short(tested: list[float]) -> None:
    """Whoever meets another's prompt misses: misses go by powers of the rate, down to idle replicas."""
    source = np.random.default_rng(4)
    held = 0
    for _ in range(60):
        engine, base, work = _drawn(source, answers=(3, 40))
        tested.clear()
        targets = Targets(ttft_ms=work * source.uniform(8, 20), itl_ms=3.0 * base, percentile=0.99)
        if single.largest(engine, targets, 0.05) is None:
            continue
        held += 1
        assert len(tested) <= 9, targets
        assert len(tested) == len(set(tested))
    assert held > 40


def test_a_search_begins_near_its_root(tested: list[float]) -> None:
    """Percentiles of the ITL, short answers among the others: five tests of a rate on average are enough."""
    source = np.random.default_rng(11)
    held = 0
    for number in range(60):
        engine, base, work = _drawn(source, answers=(20, 300), short=4)
        targets = Targets(
            ttft_ms=work * source.uniform(8, 20),
            itl_ms=base * source.uniform(1.5, 4),
            percentile=(0.9, 0.95, 0.99)[number % 3],
        )
        held += single.largest(engine, targets, 0.05) is not None
    assert held > 55
    assert len(tested) < 5.3 * held


def strict(number: int, seed: int) -> tuple[Engine, float, float]:
    """An engine with a target of the ITL that whoever meets a long prompt misses, and a percentile."""
    source = np.random.default_rng((seed, number))
    base = source.uniform(2, 30)
    steps = StepTimes(
        base_ms=base,
        per_request_ms=0.05,
        per_prefill_token_ms=source.uniform(0.05, 0.3),
        per_context_token_ms=1e-5,
    )
    limits = EngineLimits(max_num_seqs=256, max_num_batched_tokens=8192, kv_tokens=None)
    lengths = Lengths(
        input_tokens=source.uniform(1000, 6000),
        output_tokens=source.uniform(20, 200),
        input_cv=source.uniform(0, 2),
        output_cv=source.uniform(0, 1),
    )
    return Engine(step_times=steps, limits=limits, lengths=lengths), base * 1.2, 0.99


def test_few_rows_hold_small_rates_as_many_do() -> None:
    """Where seldom may somebody meet a prompt: up to four rows give what five do, and one without arrays."""
    small = 0
    for number in range(40):
        engine, itl, percentile = strict(number, 5)
        few, many = (
            sizing.size_engines(Engines.of([engine] * rows), itl_ms=itl, percentile=percentile)[0]
            for rows in (2, 5)
        )
        assert few.rate_rps == pytest.approx(many.rate_rps, rel=0.01, nan_ok=True), number
        alone = sizing.size_engine(engine, itl_ms=itl, percentile=percentile)
        assert alone.rate_rps == pytest.approx(many.rate_rps, rel=0.01, nan_ok=True), number
        stable = Search.stable_rates(Engines.of([engine]))[0]
        small += bool(few.rate_rps < 0.01 * stable)
    assert small > 10


def test_what_an_idle_replica_misses_is_not_held() -> None:
    """Without arrays, too, a rate below that of an idle replica is none."""
    unreachable = 0
    for number in range(300):
        engine, itl, _ = strict(number, 6)
        rows = Engines.of([engine])
        targets = Targets(ttft_ms=math.inf, itl_ms=itl, percentile=0.9999)
        held = single.largest(engine, targets, 0.0)
        none = (np.array([value]) for value in (math.nan, itl, targets.percentile))
        stable = float(Search.stable_rates(rows)[0])
        missed = Search(rows, *none).over(np.array([IDLE * stable]))[0][0] > 0.0
        unreachable += missed
        assert held is None or math.isnan(held.rate_rps) or not missed
    assert unreachable > 5


def test_a_rate_is_never_negative() -> None:
    """Where less load misses more, what was kept free of the rate was several times all of it."""
    one = Engine(
        step_times=StepTimes(
            base_ms=19.22778419487078,
            per_request_ms=0.1029547710098424,
            per_prefill_token_ms=0.07525437329669486,
            per_context_token_ms=5.974478122773078e-06,
            per_prompt_ms=1.0,
        ),
        limits=EngineLimits(max_num_seqs=8, max_num_batched_tokens=2048, kv_tokens=10**12),
        lengths=Lengths(input_tokens=1.0, output_tokens=1.5, input_cv=0.7, output_cv=1.0),
    )
    held = sizing.size_engine(
        one, ttft_ms=119.51528886773167, itl_ms=95.65638798134809, percentile=0.9999, headroom=0.9
    )
    assert held.rate_rps > 0.0
