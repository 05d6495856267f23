"""Strategies and helpers that the analyzer's tests share."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from analyzer.queueing import Replica

settings.register_profile("analyzer", deadline=None)
settings.load_profile("analyzer")

PUBLISHED: dict[str, Any] = {
    "alpha_ms": 20.58,
    "beta_ms": 0.41,
    "gamma_ms": 5.2,
    "delta_ms": 0.01,
    "input_tokens": 128,
    "output_tokens": 178,
    "max_batch": 8,
    "max_queue": 80,
}


@pytest.fixture
def published() -> dict[str, Any]:
    """Parameters of one ordinary replica, as keyword arguments."""
    return dict(PUBLISHED)


@pytest.fixture
def replica() -> Replica:
    """One ordinary replica."""
    return Replica(**PUBLISHED)
