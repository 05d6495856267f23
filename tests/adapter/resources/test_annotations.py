"""Annotations of variants: the same values as those of the flags that they override."""

from __future__ import annotations

import pytest

from adapter import errors
from adapter.resources.annotations import RETENTION, STARTUP, parse_number
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
