"""Base class and types of the fields of a scenario file."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from adapter import errors
from adapter.kube import duration
from analyzer.latency import unit_problem


def seconds(value: Any) -> float:
    """Seconds of a duration such as 15s; unlike elsewhere, 0 is allowed."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    if str(value).strip() in {"0", "0s"}:
        return 0.0
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        problem = f"must be a duration such as 60s, 1m30s or 24h, not {errors.shown(value)}"
        raise ValueError(problem)  # noqa: TRY004 - as pydantic wants it
    return duration.seconds(str(value))


Seconds = Annotated[float, BeforeValidator(seconds)]
Period = Annotated[float, BeforeValidator(seconds), Field(gt=0)]


def _without_unit(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"must be a number, in ms, not {value!r}") from None


Milliseconds = Annotated[float, BeforeValidator(_without_unit), Field(gt=0)]
"""A time in ms, > 0. Unlike a duration it is written without a unit: 0.5s is an error that says so."""


class Part(BaseModel):
    """An object of a scenario file: immutable, in camel case, without unknown fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
    )


Timed = TypeVar("Timed", bound=Part)


def in_ms(part: Timed, *times: float) -> Timed:
    """The part, whose steps take these times, see `unit_problem`; raises ValueError where they are no ms."""
    if problem := unit_problem(*times):
        raise ValueError(problem)
    return part


FORM = "<form>"
"""Beginning of the name of one form of a field that has several; left out of the paths in errors."""


def path(location: tuple[int | str, ...]) -> str:
    """Path of a field, from the location that pydantic gives."""
    return ".".join(str(part) for part in location if not str(part).startswith(FORM))
