"""Annotations of variants: the same values as those of the flags that they override."""

from __future__ import annotations

import pytest

from adapter import errors
from adapter.planning.fleet import ROUTINGS
from adapter.resources.annotations import (
    ACTUATE,
    ACTUATORS,
    KEEP_ACCELERATOR,
    METRICS_SOURCE,
    RETENTION,
    ROUTING,
    SCALE_TO_ZERO,
    STARTUP,
    TUNE,
    parse_flag,
    parse_number,
    parse_one_of,
)
from adapter.resources.model_groups.membership import INTERRUPTIBLE
from adapter.settings.control import SOURCES
from adapter.settings.groups import all_declarations

BOUNDS = {
    STARTUP: "a duration from 1s to 24h",
    RETENTION: "a duration from 1s to 168h",
}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("text", ["0", "500ms", "1000h", "600000000", "soon", ""])
def test_durations_have_the_bounds_of_the_flag(name: str, text: str) -> None:
    """A value in the wrong unit is refused; the error names the annotation, the flag and what is accepted."""
    with pytest.raises(errors.InputError) as caught:
        parse_number({name: text}, name)
    assert str(caught.value).startswith(f"metadata.annotations[{name}]: must be {BOUNDS[name]}")
    (declared,) = [item for item in all_declarations() if item.annotation == name]
    assert str(caught.value).endswith(f"; the setting is {declared.flag} / {name}")


@pytest.mark.parametrize("name", BOUNDS)
def test_durations_within_the_bounds(name: str) -> None:
    """In all ways to write one; without the annotation there is none."""
    assert parse_number({name: "1m30s"}, name) == 90
    assert parse_number({name: "1"}, name) == 1
    assert parse_number({}, name) is None


WORDS = {ACTUATE: ACTUATORS, METRICS_SOURCE: SOURCES, ROUTING: ROUTINGS}


@pytest.mark.parametrize("name", [*WORDS, KEEP_ACCELERATOR, SCALE_TO_ZERO, TUNE])
def test_words_name_all_spellings_of_the_setting(name: str) -> None:
    """As numbers do: the annotation, what is accepted, the flag and the key."""
    with pytest.raises(errors.InputError) as caught:
        parse_one_of({name: "foo"}, name, WORDS[name]) if name in WORDS else parse_flag(
            {name: "foo"}, name
        )
    accepted = f"one of {', '.join(WORDS[name])}" if name in WORDS else '"true" or "false"'
    (declared,) = [item for item in all_declarations() if item.annotation == name]
    assert str(caught.value) == (
        f"metadata.annotations[{name}]: must be {accepted}, not 'foo'"
        f"; the setting is {declared.spellings}"
    )
    assert declared.flag in declared.spellings


def test_an_annotation_without_a_flag_names_itself() -> None:
    """There is no other spelling."""
    with pytest.raises(errors.InputError, match=r"must be \"true\" or \"false\", not 'foo'$"):
        parse_flag({INTERRUPTIBLE: "foo"}, INTERRUPTIBLE)
