"""Learned step times as text: what is read is what was written, or nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter.controller.estimates import stored
from adapter.controller.estimates.stored import Stored
from adapter.planning import fleet
from adapter.resources.stored_status import STORED_LIMIT
from analyzer import tuner
from analyzer.engine import learning
from analyzer.latency import LatencyParameters
from analyzer.step_times import Lengths, StepTimes

SEEN = learning.StepObservation(
    rate_rps=4.0,
    lengths=Lengths(input_tokens=512, output_tokens=128, input_cv=1.0, output_cv=0.8),
    itl_ms=20.0,
    ttft_ms=120.0,
    requests=240,
    budget=2048,
)
MODEL = "m"
LINEAR = LatencyParameters(alpha_ms=10, beta_ms=0.5, gamma_ms=20, delta_ms=0.02)
SHOWN = tuner.LatencyObservation(
    rate_rps=4.0,
    input_tokens=300,
    output_tokens=40,
    max_batch=16,
    itl_ms=14.0,
    ttft_ms=40.0,
    requests=240,
)


def profile(latency: LatencyParameters | StepTimes) -> fleet.Profile:
    return fleet.Profile(accelerator="H100", max_batch=16, latency=latency)


def learned(windows: int = 6) -> learning.State:
    """A state after some windows of one load."""
    state = learning.start()
    for _ in range(windows):
        state = learning.update(state, SEEN).state
    return state


def text(**items: Stored) -> str:
    """What is written of these items."""
    return stored.text(MODEL, items or {"H100": Stored(state=learned(), gpus=2)}, "")


def test_what_is_read_is_what_was_written() -> None:
    """All numbers come back as written, to five digits; the next observation then does the same."""
    written = text()
    item = stored.parse(written, MODEL)["H100"]
    before, after = learned(), item.state
    assert isinstance(after, learning.State)
    assert item.gpus == 2
    assert (after.accepted, after.learned, after.usable) == (6, True, before.usable)
    assert after.parameters == pytest.approx(before.parameters, rel=1e-3)
    one, other = (learning.update(state, SEEN).state for state in (before, after))
    assert other.parameters == pytest.approx(one.parameters, rel=1e-3)
    assert other.confidence == pytest.approx(one.confidence, rel=1e-2)


def test_the_time_of_a_prompt_is_stored_where_there_is_one() -> None:
    """A seed without it is written as earlier releases read it; one with it comes back."""
    assert len(json.loads(text())["by"]["H100"]["seed"]) == 5
    seed = StepTimes(
        base_ms=12.0,
        per_request_ms=0.1,
        per_prefill_token_ms=0.06,
        per_context_token_ms=6e-5,
        per_prompt_ms=3.0,
    )
    state = learning.update(learning.start(seed, error=0.1), SEEN).state
    again = stored.parse(text(H100=Stored(state=state)), MODEL)["H100"].state
    assert isinstance(again, learning.State)
    assert again.seed == seed
    assert again.latency.per_prompt_ms == pytest.approx(state.latency.per_prompt_ms, rel=1e-3)


def test_it_is_short() -> None:
    """Four accelerators fit the field of the CRD, and of more the last four are kept."""
    names = [f"accelerator-of-a-long-name-{number}" for number in range(6)]
    written = text(**{name: Stored(state=learned()) for name in names})
    assert len(written) < STORED_LIMIT / 2
    assert list(stored.parse(written, MODEL)) == names[2:]


def test_only_a_material_change_is_written() -> None:
    """One more window of the same kind changes nothing; a moved step time, or twice the windows, does."""
    written = text()
    again = stored.text(MODEL, {"H100": Stored(state=learned(7), gpus=2)}, written)
    assert again == written
    moved = dataclasses.replace(learned(), logs=(0.5, 0.0, 0.0, 0.0))
    for state in (moved, learned(12)):
        assert stored.text(MODEL, {"H100": Stored(state=state, gpus=2)}, written) != written
    assert stored.text(MODEL, {"H100": Stored(state=learned(), gpus=1)}, written) != written


def test_nothing_observed_is_nothing_to_store() -> None:
    """A state before its first observation is what a new leader starts with anyhow."""
    assert text(H100=Stored(state=learning.start())) == ""


def test_another_model_has_nothing() -> None:
    """What was learned of one model says nothing of another, nor what another version wrote."""
    assert stored.parse(text(), "other") == {}
    assert stored.parse(text().replace('"v":1', '"v":2'), MODEL) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", [0.0, 0.1, 0.1, 0.1, 0.0]),
        ("seed", [-1.0, 0.1, 0.1, 0.1, 0.0]),
        ("seed", [1e300, 0.1, 0.1, 0.1, 0.0]),
        ("seed", [True, 0.1, 0.1, 0.1, 0.0]),
        ("seed", ["12", 0.1, 0.1, 0.1, 0.0]),
        ("seed", "12345"),
        ("seed", [12.0, 0.1]),
        ("dev", [0.0, 1.0, 0.8, 1.0]),
        ("dev", [50.0, 1.0, 0.8, 1.0]),
        ("logs", [math.nan, 0, 0, 0]),
        ("logs", [math.inf, 0, 0, 0]),
        ("logs", [5.0, 0, 0, 0]),
        ("cov", [-1.0] + [0.0] * 9),
        ("cov", [0.01, 0.9, 0.01, 0, 0, 0.01, 0, 0, 0, 0.01]),
        ("cov", [1e9] + [0.0] * 9),
        ("n", -1),
        ("n", 1.5),
        ("n", 1e99),
        ("off", [0.0, 0.0, -0.5]),
        ("off", [0.0, 0.0]),
        ("batch", [9.0, 3.0]),
        ("learned", "yes"),
        ("gpus", "two"),
        ("error", math.nan),
        ("seed", None),
    ],
    ids=str,
)
def test_what_the_filter_cannot_have_written_is_not_read(field: str, value: Any) -> None:
    """Not finite, not positive, out of bounds, of another type: learning starts over."""
    document = json.loads(text())
    document["by"]["H100"][field] = value
    assert stored.parse(json.dumps(document), MODEL) == {}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
FIELDS = ("seed", "learned", "error", "dev", "logs", "cov", "n", "off", "used", "batch", "gpus")


WRITTEN = text()


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(FIELDS), ANY, min_size=1, max_size=3))
def test_whatever_is_read_can_be_gone_on_with(changes: dict[str, Any]) -> None:
    """Any value in any field: it is left out, or a state with finite step times that learns on."""
    document = json.loads(WRITTEN)
    document["by"]["H100"] |= changes
    for item in stored.parse(json.dumps(document), MODEL).values():
        assert isinstance(item.state, learning.State)
        state = learning.update(item.state, SEEN).state
        assert all(math.isfinite(value) and value >= 0 for value in state.parameters)
        assert state.latency.base_ms > 0


@pytest.mark.parametrize("written", ["", "{", "[]", "null", "7", '{"v":1}', "[" * 4000])
def test_what_is_no_document_is_not_read(written: str) -> None:
    """Any text is read without an error."""
    assert stored.parse(written, MODEL) == {}


def test_the_seed_tells_profiles_apart() -> None:
    """A profile that was rewritten has another seed."""
    seed = StepTimes(
        base_ms=14.123456, per_request_ms=0.1, per_prefill_token_ms=0.06, per_context_token_ms=0.0
    )
    state = learning.update(learning.start(seed), SEEN).state
    item = stored.parse(text(H100=Stored(state=state)), MODEL)["H100"]
    assert stored.learned_from(item.state, profile(seed))
    assert not stored.learned_from(item.state, profile(dataclasses.replace(seed, base_ms=14.5)))
    assert not stored.learned_from(item.state, profile(LINEAR))


def corrected(windows: int = 6) -> tuner.State:
    """Alpha to delta after some windows of one load."""
    state = tuner.start(LINEAR)
    for _ in range(windows):
        state = tuner.update(state, SHOWN).state
    return state


def test_corrections_of_decode_and_prefill_times_come_back() -> None:
    """Alpha to delta, their certainty and errors are read as written, and tuning goes on as before."""
    before = corrected()
    written = text(H100=Stored(state=before, gpus=2))
    item = stored.parse(written, MODEL)["H100"]
    after = item.state
    assert isinstance(after, tuner.State)
    assert (item.gpus, after.accepted, after.usable) == (2, 6, True)
    assert after.parameters == pytest.approx(before.parameters, rel=1e-3)
    one, other = (tuner.update(state, SHOWN).state for state in (before, after))
    assert other.parameters == pytest.approx(one.parameters, rel=1e-3)
    assert other.confidence == pytest.approx(one.confidence, rel=1e-2)
    assert stored.learned_from(after, profile(LINEAR))
    assert not stored.learned_from(after, profile(dataclasses.replace(LINEAR, alpha_ms=11.0)))
    # Lengths of the measurement turn the profile into step times, which are learned by another filter.
    assert not stored.learned_from(
        after, dataclasses.replace(profile(LINEAR), at_tokens=128, at_input_tokens=512)
    )
    assert stored.text(MODEL, {"H100": Stored(state=corrected(7), gpus=2)}, written) == written
    assert stored.text(MODEL, {"H100": Stored(state=corrected(12), gpus=2)}, written) != written
    assert len(written) < 400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", [0.0, 0.0, 0.0, 0.0]),
        ("seed", [10.0, 0.5, 20.0]),
        ("seed", [10.0, 0.5, 20.0, math.nan]),
        ("logs", [2.4, 0, 0, 0]),
        ("cov", [0.3] + [0.0] * 9),
        ("n", None),
        ("off", [0.0, 0.0, 0.0]),
        ("gpus", -1),
        ("form", "cubic"),
    ],
    ids=str,
)
def test_corrections_that_nobody_wrote_are_not_read(field: str, value: Any) -> None:
    """Out of the filter's bounds or of another form: tuning starts over."""
    document = json.loads(text(H100=Stored(state=corrected())))
    document["by"]["H100"][field] = value
    assert stored.parse(json.dumps(document), MODEL) == {}
