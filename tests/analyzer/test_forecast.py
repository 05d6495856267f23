"""Trends of arrival rates: seen where there are some, not where there is noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer import forecast
from analyzer.errors import InvalidParameterError


def run(rates: list[float], step: float) -> list[forecast.State]:
    """States after each observation."""
    states, state = [], None
    for index, rate in enumerate(rates):
        state = forecast.update(state, rate, at=index * step)
        states.append(state)
    return states


def test_a_straight_line_is_followed_exactly() -> None:
    """After a while the forecast of a ramp is the ramp."""
    states = run([1.0 + 0.01 * 15 * index for index in range(80)], 15)
    ahead = forecast.ahead(states[-1], 90)
    assert ahead == pytest.approx(1.0 + 0.01 * (15 * 79 + 90), rel=0.02)


@pytest.mark.parametrize("step", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("rate", [0.5, 2.0, 20.0])
def test_noise_alone_is_hardly_ever_a_trend(rate: float, step: float) -> None:
    """Poisson arrivals of a constant rate: a trend is believed in at most 2 % of the moments."""
    counts = np.random.default_rng(7).poisson(rate * step, size=6000)
    states = run([float(count) / step for count in counts], step)
    believed = [forecast.ahead(state, 60) is not None for state in states[50:]]
    assert np.mean(believed) < 0.02


def test_a_ramp_in_noise_is_seen_in_time() -> None:
    """From 60 to 240 requests a minute in five minutes: believed within two of them, and about right."""
    rng = np.random.default_rng(3)
    times = np.arange(0, 900, 15.0)
    wanted = np.interp(times, [600, 900], [1.0, 4.0])
    states = run([float(count) / 15 for count in rng.poisson(wanted * 15)], 15)
    believed = [
        (at, ahead)
        for at, state in zip(times, states, strict=True)
        if at >= 600 and (ahead := forecast.ahead(state, 60)) is not None
    ]
    assert believed[0][0] <= 720
    last = [ahead for at, ahead in believed if at >= 780]
    assert np.mean(last) == pytest.approx(
        np.mean(np.interp(times[52:] + 60, [600, 960], [1, 4.6])), rel=0.2
    )


def test_few_observations_are_no_trend() -> None:
    """Two points always make a line; it means nothing."""
    states = run([1.0, 2.0, 3.0], 15)
    assert [forecast.ahead(state, 60) for state in states] == [None] * 3


@pytest.mark.parametrize(
    ("rate", "at", "named"),
    [
        pytest.param(-1.0, 10.0, "rate", id="negative"),
        pytest.param(math.nan, 10.0, "rate", id="nan"),
        pytest.param(1.0, 0.0, "at", id="same-time"),
    ],
)
def test_what_is_no_observation_is_refused(rate: float, at: float, named: str) -> None:
    """The error names the parameter."""
    with pytest.raises(InvalidParameterError, match=f"^{named}:"):
        forecast.update(forecast.State(level=1.0, at=0.0), rate, at=at)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.1, 1e4)), min_size=1, max_size=40))
def test_forecasts_are_rates(seen: list[tuple[float, float]]) -> None:
    """Finite and never negative, whatever came."""
    state, now = None, 0.0
    for rate, step in seen:
        now += step
        state = forecast.update(state, rate, at=now)
        ahead = forecast.ahead(state, 100)
        assert ahead is None or (math.isfinite(ahead) and ahead >= 0)


def test_a_trend_is_proven_by_its_own_forecasts() -> None:
    """On a ramp short leads are proven soon, longer ones later, none before its forecasts came due."""
    states = run([1.0 + 0.01 * 15 * index for index in range(80)], 15)
    proven = [state.proven_seconds for state in states]
    assert proven[6] == 0.0
    assert 30.0 in proven
    assert proven[-1] == 240.0
    assert proven == sorted(proven)


def test_a_trend_that_misleads_is_not_proven() -> None:
    """A rate that rises for two minutes and falls for two: its rise says nothing of later."""
    times = np.arange(0, 7200, 15.0)
    states = run([float(value) for value in 3.0 + 2.0 * np.abs((times % 240) / 120 - 1.0)], 15)
    assert max(state.proven_seconds for state in states[-60:]) < 120.0


def test_a_step_of_the_rate_is_no_dispersion() -> None:
    """Neither a ramp nor a higher level makes Poisson arrivals look like bursts for long."""
    rng = np.random.default_rng(5)
    wanted = np.concatenate(
        [np.full(60, 3.0), np.linspace(3, 13, 4), np.full(20, 13.0), np.full(40, 3.0)]
    )
    states = run([float(count) / 15 for count in rng.poisson(wanted * 15)], 15)
    assert states[-1].dispersion < 2.5


@pytest.mark.parametrize("seed", range(4))
def test_a_sudden_step_adds_nothing_to_the_dispersion(seed: int) -> None:
    """From 3 to 10 a second at once: what was known before it stays, within what chance does."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.repeat([3.0, 10.0], [60, 6]) * 15)
    states = run([float(count) / 15 for count in counts], 15)
    assert states[-1].dispersion < states[59].dispersion + 0.25


def test_bursts_are_dispersion() -> None:
    """Counts whose variance is five times their mean show it within a quarter of an hour."""
    counts = np.random.default_rng(6).negative_binomial(12, 0.2, size=200)
    states = run([float(count) / 15 for count in counts], 15)
    assert np.mean([state.dispersion for state in states[60:]]) == pytest.approx(5.0, rel=0.35)


def test_a_constant_rate_does_not_change() -> None:
    """The noise of Poisson counts is no change, whatever the rate."""
    for rate in (2.0, 30.0):
        counts = np.random.default_rng(8).poisson(rate * 15, size=400)
        states = run([float(count) / 15 for count in counts], 15)
        shares = [forecast.usual_change(state, 240) / rate for state in states[100:]]
        assert np.mean(shares) < 0.03


def test_the_usual_change_of_a_rate_is_learned() -> None:
    """A rate that goes up and down by a tenth within minutes changes by about that over four of them."""
    times = np.arange(0, 7200, 15.0)
    wanted = 30.0 * (1.0 + 0.14 * np.sin(2 * np.pi * times / 800))
    counts = np.random.default_rng(9).poisson(wanted * 15)
    states = run([float(count) / 15 for count in counts], 15)
    shares = [forecast.usual_change(state, 240) / 30.0 for state in states[200:]]
    assert 0.06 < np.mean(shares) < 0.2


def test_the_usual_change_shrinks_with_the_level() -> None:
    """What a rate changed by before it fell to a tenth is not expected of what is left."""
    times = np.arange(0, 4800, 15.0)
    wanted = 30.0 * (1.0 + 0.14 * np.sin(2 * np.pi * times / 800))
    states = run([*wanted.tolist(), *([3.0] * 12)], 15)
    assert forecast.usual_change(states[len(times) - 1], 240) > 0.06 * 30.0
    assert forecast.usual_change(states[-1], 240) < 0.2 * 3.0


def test_one_step_is_no_usual_change() -> None:
    """What a single step adds is bounded and forgotten."""
    states = run([3.0] * 60 + [12.0] * 200, 15)
    assert forecast.usual_change(states[-1], 60) == pytest.approx(0.0, abs=0.15)
    assert max(forecast.usual_change(state, 60) for state in states) < 0.2 * 12


def test_steps_are_no_usual_changes() -> None:
    """Of a rate that jumps between two levels every five minutes only the last part of a jump counts."""
    states = run([3.0 if number // 20 % 2 == 0 else 9.0 for number in range(400)], 15)
    shares = [forecast.usual_change(state, 60) / state.level for state in states[200:]]
    assert np.mean(shares) < 0.15


def wandering(share: float, *, seed: int, back_seconds: float = math.inf) -> list[float]:
    """Rates around 40 a second, one each 15 s for two hours, that wander by `share` in 240 s.

    `back_seconds` is the time within which they come back to their level.
    """
    kept = math.exp(-15.0 / back_seconds)
    step = share * math.sqrt((1.0 - kept * kept) / 2.0 if kept < 1.0 else 15.0 / 240.0)
    rng, away, rates = np.random.default_rng(seed), 0.0, []
    for change in rng.normal(0.0, step, size=480):
        away = kept * away + change
        rates.append(float(rng.poisson(40.0 * math.exp(away) * 15)) / 15)
    return rates


def room_share(states: list[forecast.State], seconds: float) -> float:
    """Mean room for so long a lead, as a share of the level."""
    return float(
        np.mean([forecast.room(item, seconds, errors=2.33) / item.level for item in states])
    )


@pytest.mark.parametrize("seed", [21, 22])
def test_a_longer_lead_keeps_room_for_what_a_rate_may_rise_by(seed: int) -> None:
    """A rate that wanders: no more than the usual change within four minutes, and more within ten."""
    states = run(wandering(0.1, seed=seed), 15)[100:]
    for state in states:
        assert forecast.room(state, 240, errors=2.33) == forecast.usual_change(state, 240)
    assert room_share(states, 330) > 1.05 * room_share(states, 240)
    assert room_share(states, 630) > 1.3 * room_share(states, 330)


def test_the_room_covers_most_rises_to_levels_seen_before() -> None:
    """Far fewer moments precede such a rise beyond it than beyond the usual change of four minutes."""
    beyond_room, beyond_usual = [], []
    for seed in range(31, 35):
        states = run(wandering(0.1, seed=seed), 15)
        for state, later in zip(states[40:], states[40 + 630 // 15 :], strict=False):
            if later.level > state.highest:
                continue
            rise = later.level - state.level
            beyond_room.append(rise > forecast.room(state, 630, errors=2.33))
            beyond_usual.append(rise > forecast.usual_change(state, 240))
    assert np.mean(beyond_room) < 0.4 * np.mean(beyond_usual)


def test_room_is_kept_before_so_long_a_lead_was_seen() -> None:
    """Until the first changes over ten minutes are known, those over two and four say what they may be."""
    states = run(wandering(0.1, seed=21)[:80], 15)
    assert all(lead.changes < 8 for lead in states[-1].leads if lead.seconds > 240)
    assert room_share(states[60:], 630) > 1.5 * room_share(states[60:], 240)


@pytest.mark.parametrize("rate", [4.0, 40.0])
def test_a_constant_rate_needs_no_room(rate: float) -> None:
    """What chance shows is not taken further ahead, however long the lead is."""
    for seed in (41, 42):
        counts = np.random.default_rng(seed).poisson(rate * 15, size=400)
        states = run([float(count) / 15 for count in counts], 15)[20:]
        for seconds in (330.0, 630.0, 930.0):
            assert room_share(states, seconds) < room_share(states, 240) + 0.005


def test_a_rate_that_comes_back_needs_little_more_room_for_a_longer_lead() -> None:
    """Once its changes over ten minutes were seen: they are about those over four."""
    returning = run(wandering(0.05, seed=51, back_seconds=60.0), 15)[300:]
    wanders = run(wandering(0.05, seed=51), 15)[300:]
    assert room_share(returning, 630) < 2.0 * room_share(returning, 240)
    assert room_share(wanders, 630) > 2.0 * room_share(wanders, 240)


def test_the_room_ends_at_the_highest_level_seen() -> None:
    """At a peak there is none beyond the usual change; below it, as much as leads there and that."""
    for state in run(wandering(0.1, seed=21), 15)[40:]:
        usual = forecast.usual_change(state, 630)
        room = forecast.room(state, 630, errors=2.33)
        assert usual <= room <= usual + state.highest - state.level + 1e-9
    rates = [*wandering(0.1, seed=21)[:120], *(60.0 + 4.0 * index for index in range(60))]
    peak = run(rates, 15)[-1]
    assert peak.highest == peak.level
    assert forecast.room(peak, 630, errors=2.33) == forecast.usual_change(peak, 630)


def test_the_highest_level_is_forgotten() -> None:
    """After hours at a lower one it is no measure of what may come."""
    states = run([40.0] * 40 + [20.0] * 960, 15)
    assert states[60].highest > 38.0
    assert states[-1].highest < 21.0


def test_a_new_rate_is_taken_to_change_like_others() -> None:
    """Until its changes over four minutes are known, and only further ahead than that."""
    state = forecast.update(None, 10.0, at=0.0, new=True)
    for count in range(1, 20):
        state = forecast.update(state, 10.0, at=15.0 * count)
        assert forecast.room(state, 240, errors=2.33) == 0.0
        # A standard deviation of a tenth of the level in ten minutes, of which these are 390 s.
        room = forecast.room(state, 630, errors=2.33)
        assert room == pytest.approx(2.33 * 0.1 * 10.0 * math.sqrt(390 / 600))
        assert forecast.room(state, 5000, errors=1.0) == forecast.room(state, 960, errors=1.0)
    for count in range(20, 60):
        state = forecast.update(state, 10.0, at=15.0 * count)
    assert forecast.room(state, 630, errors=2.33) == 0.0


def test_a_rate_that_was_planned_for_before_is_not_new() -> None:
    """As after a restart: a constant load keeps its target."""
    for state in run([10.0] * 60, 15):
        assert forecast.room(state, 630, errors=2.33) == 0.0
