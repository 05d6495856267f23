"""Formulas as straight-line code: the numbers of the formulas on floats, operation by operation."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.compiling.terms import Functions, Notes
from analyzer.engine import single
from analyzer.engine.columns import Engine
from analyzer.engine.floats import columns_of, compiled_test, formulas
from analyzer.engine.nodes import bins_of_one
from analyzer.engine.search import Targets
from analyzer.step_times import EngineLimits, Lengths, StepTimes

SHORT = st.sampled_from([(), (0.01, 0.03, 0.03, 0.08), (0.0, 0.0, 0.1, 0.4)])


@st.composite
def engines(draw: st.DrawFn) -> Engine:
    """Engines of all kinds."""
    prompt, answer = draw(st.floats(1, 4000)), draw(st.floats(1, 800))
    cached = draw(st.sampled_from([0.0, 100.0]))
    least = math.ceil(prompt + answer + cached)
    return Engine(
        step_times=StepTimes(
            base_ms=draw(st.floats(0.5, 50)),
            per_request_ms=draw(st.floats(0, 0.3)),
            per_prefill_token_ms=draw(st.floats(0, 0.1)),
            per_context_token_ms=draw(st.floats(0, 2e-4)),
            per_sqrt_request_ms=draw(st.sampled_from([0.0, 0.5])),
            per_prompt_ms=draw(st.sampled_from([0.0, 1.0])),
        ),
        limits=EngineLimits(
            max_num_seqs=draw(st.integers(1, 500)),
            max_num_batched_tokens=draw(st.integers(600, 9000)),
            kv_tokens=draw(st.none() | st.integers(least, 1_000_000)),
        ),
        lengths=Lengths(
            input_tokens=prompt,
            output_tokens=answer,
            input_cv=draw(st.sampled_from([0.0, 0.7, 2.0, 100.0])),
            output_cv=draw(st.sampled_from([0.0, 0.5, 1.5, 100.0])),
            cached_tokens=cached,
            short_answers=draw(SHORT),
        ),
    )


def filled(engine: Engine) -> tuple[Any, Any]:
    """Columns by the formulas on floats, and as straight-line code."""
    bins = bins_of_one(engine.lengths.short_answers)
    columns = formulas().columns.Engines
    slow = columns.__new__(columns)
    given_ = single._columns(engine)
    assert given_ is not None
    assert bins is not None
    slow._fill(given_, bins)
    return slow, columns_of(short=bool(bins))(given_, bins)


@given(engines())
def test_columns_are_those_of_the_formulas(engine: Engine) -> None:
    """All of them, but for the last digit of powers."""
    try:
        slow, fast = filled(engine)
    except ArithmeticError:
        return
    assert vars(fast).keys() == vars(slow).keys()
    for name, value in vars(slow).items():
        assert getattr(fast, name) == pytest.approx(value, rel=1e-12), name


@given(
    engines(),
    st.floats(1e-4, 1.1),
    st.sampled_from([None, 0.5, 0.95, 0.9999]),
    st.floats(0.5, 50.0),
)
def test_tests_of_a_rate_are_those_of_the_formulas(
    engine: Engine, part: float, percentile: float | None, patience: float
) -> None:
    """Whether it keeps up, who waits for a slot, and what misses: to the last digits, at any rate."""
    slow, fast = filled(engine)
    targets = Targets(
        ttft_ms=patience * (slow.base_ms + slow.prefill_ms * slow.input_tokens),
        itl_ms=patience * slow.base_ms,
        percentile=percentile,
    )
    rate = part * 1000.0 * slow.full_rate
    by_formulas, state = formulas().percentiles, formulas().state.at_rate(slow, rate)
    if percentile is None:
        ttft, itl = by_formulas.means(slow, state)
        expected = ttft / targets.ttft_ms, itl / targets.itl_ms
    else:
        times = by_formulas.latency(slow, state)
        missed = times.ttft_exceeds(targets.ttft_ms), times.itl_exceeds(targets.itl_ms)
        expected = missed[0] / (1.0 - percentile), missed[1] / (1.0 - percentile)
    test = compiled_test(tails=percentile is not None, short=bool(fast.short))(fast, targets)
    stable, waits, *got = test(rate, True, True)
    assert stable == state.stable
    assert waits == pytest.approx(state.slot_waits, rel=1e-12, abs=1e-300)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert test(rate, False, True) == (stable, waits, 0.0, got[1])
    assert test(rate, True, False) == (stable, waits, got[0], 0.0)


def test_a_term_takes_no_branch() -> None:
    """A formula that decides by a number would have one branch for all replicas."""
    notes = Notes()
    number = notes.named("engine.base_ms", once=True)
    with pytest.raises(TypeError, match="no truth"):
        max(number, 1.0)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5))
def test_functions_choose_as_those_of_floats(one: float, two: float, three: float) -> None:
    """Larger, smaller and bounded numbers, and one of two; each result has an equal operation once."""
    notes = Notes()
    functions: Any = Functions(notes)
    first, second, third = (notes.named(f"engine[{place}]", once=place == 0) for place in range(3))
    terms = [
        functions.maximum(first, second),
        functions.minimum(first, 0.5),
        functions.clip(second, -1.0, third),
        functions.where(first < second, first**2, second**3),
        ~(first > second) & (second < third),
        -functions.abs(first) / (1.0 + functions.exp(second)),
    ]
    assert functions.maximum(first, second) is terms[0]
    rate = notes.named("rate", once=False)
    made = notes.compiled([*terms, rate + first], {})((one, two, three), None)
    assert made(2.0) == pytest.approx(
        (
            max(one, two),
            min(one, 0.5),
            min(max(two, -1.0), three) if two >= -1.0 else -1.0,
            one**2 if one < two else two**3,
            not one > two and two < three,
            -abs(one) / (1.0 + math.exp(two)),
            2.0 + one,
        )
    )
