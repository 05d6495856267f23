"""Percentiles as users write them: 95, not 0.95."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

ERROR_TYPE = "percentile_as_share"


def _percent(value: float) -> float:
    if value < 1.0:
        raise PydanticCustomError(
            ERROR_TYPE,
            "is in percent: write {percent}, not {share}",
            {"percent": f"{100.0 * value:g}", "share": f"{value:g}"},
        )
    return value


Percentile = Annotated[float, Field(gt=0, lt=100, allow_inf_nan=False), AfterValidator(_percent)]
"""A percentile in percent, at least 1 and below 100; a share such as 0.95 is refused with the fix."""
