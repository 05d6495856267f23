"""How a wrong field of a file or object is told: in this program's words, with what was given."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapter.errors import field_problem


class Inner(BaseModel):
    """A part."""

    size: int = 1


class Document(BaseModel):
    """One field of each kind."""

    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1)] = 1
    rate: Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)] = 1.0
    on: bool = False
    name: Annotated[str, Field(min_length=1)] = "a"
    way: Literal["up", "down"] = "up"
    parts: tuple[int, ...] = ()
    inner: Inner = Inner()
    table: dict[str, int] = {}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("count", 0, "must be >= 1, not 0"),
        ("count", 1.5, "must be a whole number, not 1.5"),
        ("count", "four", "must be a whole number, not 'four'"),
        ("rate", 0, "must be > 0, not 0"),
        ("rate", 9.0, "must be <= 8, not 9"),
        ("rate", float("nan"), "must be a finite number, not nan"),
        ("rate", None, "must be a number, not null"),
        ("rate", "x" * 500, f"must be a number, not '{'x' * 59}…"),
        ("rate", [1], "must be a number, not a list"),
        ("on", "maybe", "must be true or false, not 'maybe'"),
        ("name", 3, "must be text, not 3"),
        ("name", "", "must not be empty"),
        ("way", True, "must be 'up' or 'down', not true"),
        ("parts", {}, "must be a list, not a mapping"),
        ("inner", "vllm", "must be a mapping of fields, not 'vllm'"),
        ("table", [], "must be a mapping of fields, not a list"),
        ("other", 1, "is not known"),
    ],
)
def test_a_problem_says_what_must_be_and_what_is(field: str, value: Any, said: str) -> None:
    """No word of the schema library is in it, and a long value is cut."""
    with pytest.raises(ValidationError) as raised:
        Document.model_validate({field: value})
    assert field_problem(dict(raised.value.errors()[0])) == said
