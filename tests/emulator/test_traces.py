"""Generated traces: the rates, variation and token lengths that the spec asks for, the same each time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator import traces
from emulator.traces import Rate, Trace, TraceError, generate

TOKENS = {"input": {"mean": 128}, "output": {"mean": 178}}


def made(kind: str, **fields: Any) -> Trace:
    return generate({"kind": kind, "tokens": TOKENS, **fields})


def cv(values: np.ndarray[Any, Any]) -> float:
    return float(np.std(values) / np.mean(values))


def test_constant_is_even() -> None:
    """A constant rate puts each request in the middle of its share of the time."""
    trace = made("constant", rate_rpm=60, duration_seconds=5)
    assert trace.arrival_seconds.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert trace.input_tokens.tolist() == [128] * 5
    assert trace.output_tokens.tolist() == [178] * 5
    assert (trace.duration_seconds, trace.name, len(trace)) == (5.0, "constant", 5)


def test_poisson_has_exponential_gaps() -> None:
    """Mean and standard deviation of the gaps are equal, and a fraction 1/e of them exceeds the mean."""
    trace = made("poisson", rate_rpm=600, duration_seconds=3600, seed=1)
    gaps = np.diff(trace.arrival_seconds)
    assert len(trace) == pytest.approx(36000, rel=0.02)
    assert cv(gaps) == pytest.approx(1.0, rel=0.02)
    assert np.mean(gaps > gaps.mean()) == pytest.approx(np.exp(-1), abs=0.01)


@pytest.mark.parametrize("wanted", [0.3, 2.0, 4.0])
def test_gamma_gaps_have_the_coefficient_of_variation(wanted: float) -> None:
    """The gaps vary by `cv` around a mean that is the rate's."""
    trace = made("gamma", rate_rpm=600, duration_seconds=7200, cv=wanted, seed=2)
    assert cv(np.diff(trace.arrival_seconds)) == pytest.approx(wanted, rel=0.05)
    assert len(trace) == pytest.approx(72000, rel=0.05)


def test_bursts_begin_in_the_steady_state() -> None:
    """Short bursty traces have the rate too: nothing is special about the beginning."""
    counts = [
        len(made("gamma", rate_rpm=60, duration_seconds=10, cv=3, seed=seed))
        for seed in range(3000)
    ]
    # Beginning with a whole gap would give (cv^2 - 1) / 2 = 4 more in the long run.
    assert np.mean(counts) == pytest.approx(10, rel=0.05)


def test_step_has_its_levels() -> None:
    """Each level has its requests in its time; even ones exactly, Poisson ones about."""
    levels = [[600, 60], [300, 0], [600, 180]]
    even = made("step", levels=levels, arrivals="even")
    assert np.histogram(even.arrival_seconds, [0, 600, 900, 1500])[0].tolist() == [600, 0, 1800]
    assert even.duration_seconds == 1500
    random = made("step", levels=levels, seed=3)
    assert random.rate_rpm(300) == pytest.approx([60, 60, 0, 180, 180], rel=0.1)


def test_ramp_grows_with_the_square_of_the_time() -> None:
    """From nothing to a rate, half of the time has a quarter of the requests; likewise downwards."""
    up = made("ramp", from_rpm=0, to_rpm=120, duration_seconds=600, arrivals="even")
    down = made("ramp", from_rpm=120, to_rpm=0, duration_seconds=600, arrivals="even")
    assert np.histogram(up.arrival_seconds, [0, 300, 600])[0].tolist() == [150, 450]
    assert np.histogram(down.arrival_seconds, [0, 300, 600])[0].tolist() == [450, 150]
    # Downwards is upwards mirrored.
    assert down.arrival_seconds == pytest.approx(600 - up.arrival_seconds[::-1])


def test_diurnal_is_a_noisy_sine() -> None:
    """It begins at its lowest, is highest after half a period, and varies by the noise around that."""
    fields = {"mean_rpm": 600, "amplitude": 0.8, "period_seconds": 3600, "duration_seconds": 7200}
    calm = made("diurnal", **fields, noise=0, arrivals="even")
    edges = 2 * np.pi * np.arange(0, 7201, 30) / 3600
    sine = 600 * (1 - 0.8 * np.diff(np.sin(edges)) / np.diff(edges))
    assert calm.rate_rpm(30) == pytest.approx(sine, abs=2.1)  # a request more or less is 2 rpm
    noisy = made("diurnal", **fields, noise=0.5, noise_seconds=30, arrivals="even", seed=4)
    factors = noisy.rate_rpm(30) / sine
    # A bin is the mean of the two knots at its edges.
    assert np.std(factors) == pytest.approx(0.5 / 2**0.5, rel=0.15)
    assert np.mean(factors) == pytest.approx(1.0, abs=0.06)


def test_flash_crowd_rises_holds_and_falls() -> None:
    """The peak has its rate, its edges half of the rise, and before and after is the base."""
    trace = made(
        "flash-crowd", base_rpm=60, peak_rpm=660, start_seconds=120, rise_seconds=60,
        hold_seconds=120, fall_seconds=60, duration_seconds=480, arrivals="even",
    )  # fmt: skip
    assert trace.rate_rpm(60) == pytest.approx([60, 60, 360, 660, 660, 360, 60, 60], abs=1)


def test_mmpp_alternates_between_two_rates() -> None:
    """The share of the time in each state is that of its mean stay, and arrivals cluster."""
    trace = made("mmpp", states=[[90, 60], [30, 600]], duration_seconds=100_000, seed=5)
    assert len(trace) / (100_000 / 60) == pytest.approx(0.75 * 60 + 0.25 * 600, rel=0.1)
    rates = trace.rate_rpm(10)
    assert np.mean(rates > 330) == pytest.approx(0.25, abs=0.05)
    assert cv(np.diff(trace.arrival_seconds)) > 1.3
    starts = [
        made("mmpp", states=[[90, 0], [30, 600]], duration_seconds=1, seed=s) for s in range(400)
    ]
    assert np.mean([len(start) > 0 for start in starts]) == pytest.approx(0.25, abs=0.08)


rates = st.lists(
    st.tuples(st.floats(0.01, 100.0), st.floats(0.0, 600.0)), min_size=2, max_size=8
).map(
    lambda knots: Rate(
        np.cumsum([w for w, _ in knots]) - knots[0][0], np.array([r for _, r in knots])
    )
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rate=rates, shares=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20))
def test_rescaling_inverts_the_integral(rate: Rate, shares: list[float]) -> None:
    """The integral of the rate up to each returned time is the point that was asked for."""
    total = rate.expected()[-1]
    points = np.sort(np.array(shares)) * total
    points = points[points > 1e-9]
    times = rate.when(points)
    assert (np.diff(times) >= 0).all()
    for point, time in zip(points, times, strict=True):
        knots = np.sort(np.append(rate.seconds[rate.seconds < time], time))
        integral = np.trapezoid(np.interp(knots, rate.seconds, rate.rpm / 60), knots)
        assert integral == pytest.approx(point, rel=1e-6, abs=1e-6)


def test_token_lengths_are_lognormal() -> None:
    """Mean and coefficient of variation are as asked, the logarithm is symmetric, `max` cuts."""
    tokens = {"input": {"mean": 128, "cv": 0.8}, "output": {"mean": 178, "cv": 1.5, "max": 1000}}
    trace = made("poisson", rate_rpm=600, duration_seconds=3600, seed=6, tokens=tokens)
    assert trace.input_tokens.mean() == pytest.approx(128, rel=0.02)
    assert cv(trace.input_tokens) == pytest.approx(0.8, rel=0.03)
    logs = np.log(trace.input_tokens)
    assert np.median(logs) == pytest.approx(logs.mean(), abs=0.02)
    assert trace.output_tokens.max() == 1000
    assert trace.output_tokens.min() >= 1


def test_short_prompts_have_a_token_and_none_is_allowed() -> None:
    """Random lengths are never 0; a constant prompt of 0 means that there is no prefill."""
    tiny = {"input": {"mean": 1, "cv": 2.0}, "output": {"mean": 1, "cv": 2.0}}
    trace = made("constant", rate_rpm=600, duration_seconds=60, tokens=tiny)
    assert (trace.input_tokens.min(), trace.output_tokens.min()) == (1, 1)
    none = {"input": {"mean": 0}, "output": {"mean": 1}}
    assert made("constant", rate_rpm=60, duration_seconds=2, tokens=none).input_tokens.tolist() == [
        0,
        0,
    ]


SPECS: list[dict[str, Any]] = [
    {"kind": "poisson", "rate_rpm": 60, "duration_seconds": 600},
    {"kind": "gamma", "rate_rpm": 60, "duration_seconds": 600, "cv": 3},
    {"kind": "step", "levels": [[300, 60], [300, 180]], "arrivals": "gamma", "cv": 2},
    {"kind": "ramp", "from_rpm": 10, "to_rpm": 100, "duration_seconds": 600},
    {"kind": "diurnal", "mean_rpm": 60, "duration_seconds": 600, "period_seconds": 600},
    {
        "kind": "flash-crowd", "base_rpm": 10, "peak_rpm": 200, "start_seconds": 100,
        "hold_seconds": 50, "duration_seconds": 600,
    },
    {"kind": "mmpp", "states": [[60, 10], [10, 300]], "duration_seconds": 600},
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_a_seed_reproduces_its_trace(spec: dict[str, Any]) -> None:
    """Same spec and seed, as a mapping or as text: same bits. Another seed: another trace."""
    lengths = {"input": {"mean": 100, "cv": 1.0}, "output": {"mean": 100, "cv": 1.0}}
    spec = {**spec, "tokens": lengths}
    first, again = generate({**spec, "seed": 7}), generate(json.dumps({**spec, "seed": 7}))
    other = generate({**spec, "seed": 8})
    assert len(first) > 50
    for name in ("arrival_seconds", "input_tokens", "output_tokens"):
        assert getattr(first, name).tolist() == getattr(again, name).tolist()
        assert getattr(first, name).tolist() != getattr(other, name).tolist()
    assert first.duration_seconds == 600


def test_streams_are_independent() -> None:
    """Other rates leave the token lengths, other lengths the arrivals; prompts tell nothing of answers."""
    lengths = {"input": {"mean": 100, "cv": 1.0}, "output": {"mean": 100, "cv": 1.0}}
    slow = made("poisson", rate_rpm=60, duration_seconds=600, seed=9, tokens=lengths)
    fast = made("poisson", rate_rpm=90, duration_seconds=600, seed=9, tokens=lengths)
    plain = made("poisson", rate_rpm=60, duration_seconds=600, seed=9)
    assert fast.input_tokens[: len(slow)].tolist() == slow.input_tokens.tolist()
    assert plain.arrival_seconds.tolist() == slow.arrival_seconds.tolist()
    assert abs(np.corrcoef(fast.input_tokens, fast.output_tokens)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": None}, "kind: missing; give one of constant, poisson, gamma, step, ramp"),
        ({"kind": "sine"}, "kind: must be one of .*mmpp, not 'sine'"),
        ({"rate_rpm": None}, "rate_rpm: missing; give a number >= 0"),
        ({"rate_rpm": -1}, "rate_rpm: must be a number >= 0, not -1"),
        ({"rate_rpm": True}, "rate_rpm: must be a number >= 0, not True"),
        ({"rate_rpm": float("nan")}, "rate_rpm: must be a number >= 0, not nan"),
        ({"rate_rpm": 1e12}, "rate: asks for 1000000000000 requests; at most"),
        ({"duration_seconds": 0}, "duration_seconds: must be a number > 0, not 0"),
        ({"seed": 1.5}, "seed: must be a whole number >= 0, not 1.5"),
        ({"arrivals": "even"}, "arrivals: unknown field; known are .*rate_rpm"),
        ({"tokens": None}, "tokens: missing; give an object like"),
        ({"tokens": 5}, "tokens: must be an object, not 5"),
        ({"tokens": {"input": {"mean": 1}}}, "tokens.output: missing; give an object like"),
        ({"tokens": {**TOKENS, "x": 1}}, "tokens.x: unknown field; known are input, output"),
        (
            {"tokens": {**TOKENS, "output": {"mean": 0}}},
            "tokens.output.mean: must be a number >= 1",
        ),
        (
            {"tokens": {**TOKENS, "input": {"mean": 0, "cv": 1}}},
            "tokens.input.mean: must be >= 1 where",
        ),
        (
            {"tokens": {**TOKENS, "input": {"mean": 9, "max": 8}}},
            "tokens.input.max: must be a whole",
        ),
        (
            {"tokens": {**TOKENS, "input": {"mean": 9, "cv": 80}}},
            "tokens.input.cv: must be a number >= 0 and <= 20, not 80",
        ),
        ({"tokens": {**TOKENS, "input": {"mean": 9, "sd": 8}}}, "tokens.input.sd: unknown field"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], said: str) -> None:
    """The error says which field, where it is, and what would do."""
    spec = {"kind": "poisson", "rate_rpm": 60, "duration_seconds": 60, "tokens": TOKENS, **change}
    with pytest.raises(TraceError, match=said):
        generate({name: value for name, value in spec.items() if value is not None})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "step", "levels": []}, r"levels: must be a list of \[seconds > 0, .*, not \[\]"),
        ({"kind": "step", "levels": [[9, 9], [0, 9]]}, r"levels\[1\]: must be .*, not \[0, 9\]"),
        ({"kind": "step", "levels": [[9]]}, r"levels\[0\]: must be .*, not \[9\]"),
        ({"kind": "step", "levels": [[9, 9]], "arrivals": "gamma"}, "cv: missing; give a number > 0"),
        ({"kind": "step", "levels": [[9, 9]], "cv": 2}, "cv: unknown field"),
        ({"kind": "mmpp", "duration_seconds": 9, "states": [[1, 2]]}, r"states: must be two of \["),
        (
            {"kind": "mmpp", "duration_seconds": 9, "states": [[1e-9, 2], [1, 2]]},
            "states: mean seconds must be >= 9e-06",
        ),
        (
            {"kind": "diurnal", "duration_seconds": 9, "mean_rpm": 1, "amplitude": 2},
            "amplitude: must be a number >= 0 and <= 1, not 2",
        ),
        (
            {
                "kind": "flash-crowd", "base_rpm": 1, "peak_rpm": 2, "start_seconds": 8,
                "hold_seconds": 2, "duration_seconds": 9,
            },
            "duration_seconds: must be >= 10, the end of the fall",
        ),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_kind_is_named(fields: dict[str, Any], said: str) -> None:
    """Lists name their entry; fields that depend on one another say so."""
    with pytest.raises(TraceError, match=said):
        generate({**fields, "tokens": TOKENS})


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "spec: not JSON"), ("[" * 3000, "spec: not JSON"), ("[]", "spec: must be an object")],
)
def test_a_wrong_text_is_no_spec(text: str, said: str) -> None:
    """Text has to be one JSON object."""
    with pytest.raises(TraceError, match=said):
        generate(text)


def small(**changes: Any) -> Trace:
    given = {
        "arrival_seconds": np.array([0.0, 10.0, 20.0, 65.0]),
        "input_tokens": np.array([1, 2, 3, 4]),
        "output_tokens": np.array([5, 6, 7, 8]),
        "duration_seconds": 90.0,
    }
    return Trace(**{**given, **changes})


def test_between_is_a_part_from_zero() -> None:
    """A part has the requests from its start to before its end, in times since its start."""
    part = small().between(10.0, 65.0)
    assert part.arrival_seconds.tolist() == [0.0, 10.0]
    assert (part.input_tokens.tolist(), part.output_tokens.tolist()) == ([2, 3], [6, 7])
    assert part.duration_seconds == 55.0
    assert small().between(60.0, 1000.0).duration_seconds == 30.0
    assert len(small().between(100.0, 200.0)) == 0


def test_scaled_changes_the_rate_and_keeps_the_requests() -> None:
    """Twice the rate is the same requests in half the time."""
    scaled = small().scaled(2.0)
    assert scaled.arrival_seconds.tolist() == [0.0, 5.0, 10.0, 32.5]
    assert scaled.output_tokens.tolist() == [5, 6, 7, 8]
    assert scaled.duration_seconds == 45.0


def test_rates_by_bin_know_that_the_last_is_shorter() -> None:
    """Three requests in a minute are 3 rpm, one in the half minute after is 2 rpm."""
    assert small().rate_rpm(60.0).tolist() == [3.0, 2.0]
    at_end = small(arrival_seconds=np.array([0.0, 10.0, 20.0, 60.0]), duration_seconds=60.0)
    assert at_end.rate_rpm(60.0).tolist() == [4.0]
    moment = small(arrival_seconds=np.zeros(4), duration_seconds=0.0)
    assert moment.rate_rpm(60.0).tolist() == [4.0]


def test_a_trace_cannot_be_changed() -> None:
    """Its arrays are read-only, so that runs that share it agree."""
    with pytest.raises(ValueError, match="read-only"):
        small().arrival_seconds[0] = 5.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arrival_seconds": np.array([0.0, 2.0, 1.0, 3.0])}, "must ascend from 0; sort them"),
        ({"arrival_seconds": np.array([-1.0, 2.0, 3.0, 4.0])}, "must ascend from 0"),
        ({"arrival_seconds": np.array([0.0, np.nan, 3.0, 4.0])}, "must ascend from 0"),
        ({"arrival_seconds": np.array([0.0, 1.0])}, "differ in number"),
        ({"duration_seconds": 60.0}, "must end by duration_seconds"),
        ({"duration_seconds": np.inf}, "duration_seconds: must be >= 0 and finite"),
        ({"output_tokens": np.array([1, 0, 1, 1])}, "outputs >= 1"),
        ({"input_tokens": np.array([1, -1, 1, 1])}, "inputs must be >= 0"),
    ],
)
def test_a_trace_is_checked(changes: dict[str, Any], said: str) -> None:
    """What no simulation could make sense of is refused with the trace's name."""
    with pytest.raises(TraceError, match=f"trace: .*{said}"):
        small(**changes)


def test_parts_factors_and_bins_are_checked() -> None:
    """Impossible arguments are named."""
    with pytest.raises(TraceError, match="must be 0 <= start < end"):
        small().between(5.0, 5.0)
    with pytest.raises(TraceError, match="factor: must be > 0"):
        small().scaled(0.0)
    with pytest.raises(TraceError, match="bin_seconds: must be > 0"):
        small().rate_rpm(0.0)


def test_every_kind_is_documented() -> None:
    """The docstring of each kind names its fields."""
    for kind, rate in traces.KINDS.items():
        assert "levels" in (rate.__doc__ or "") or "duration_seconds" in (rate.__doc__ or ""), kind
