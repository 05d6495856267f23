"""Percentiles as users write them: 95, or the share 0.95."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def _percent(value: float) -> float:
    # Both spellings are in use, and nobody sizes for a percentile below the first.
    return round(100.0 * value, 10) if value < 1.0 else value


Percentile = Annotated[float, Field(gt=0, lt=100, allow_inf_nan=False), AfterValidator(_percent)]
"""A percentile in percent, at least 1 and below 100; below 1 it is a share: 0.95 means 95."""
