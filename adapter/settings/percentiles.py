"""Percentiles as users write them: 95, the share 0.95, p95 or 95%."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

LEAST = 50.0
"""Smallest percentile that is accepted. Whoever writes 1 or 5 means that 1 or 5 % of the requests may miss
the target, not that 99 or 95 % may."""

_TEXT = re.compile(r"\s*(?:[pP](?P<after_p>\d+(?:\.\d+)?)|(?P<percent>\d+(?:\.\d+)?)\s*%)\s*")


def plain(value: Any) -> Any:
    """The number in percent of p95 and 95%; anything else as it is."""
    written = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if written is None:
        return value
    # Written so it is no share: below 1 it would be read as one.
    number = float(written["after_p"] or written["percent"])
    return number if number >= 1.0 else value


def _percent(value: float) -> float:
    # Both spellings are in use.
    percent = round(100.0 * value, 10) if value < 1.0 else value
    if percent < LEAST:
        raise ValueError(
            f"{value:g} lets {100.0 - percent:.4g} % of the requests miss the targets, and at most"
            f" {100.0 - LEAST:g} % may: write 99 (or 0.99) where 1 in 100 may"
        )
    return percent


Percentile = Annotated[
    float,
    BeforeValidator(plain),
    Field(gt=0, lt=100, allow_inf_nan=False),
    AfterValidator(_percent),
]
"""A percentile in percent, at least 50 and below 100; below 1 it is a share: 0.95, p95 and 95% mean 95."""
