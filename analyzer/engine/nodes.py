"""Functions of numbers beside the elementary ones: sums over nodes, the normal distribution, log gamma."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from analyzer.replicas import FloatArray

_Of = TypeVar("_Of")


def normal(score: FloatArray) -> FloatArray:
    """Share of a normal distribution below the score."""
    from scipy import special  # noqa: PLC0415 - takes long to load, and means do without

    return np.asarray(special.ndtr(score))


def log_gamma(value: FloatArray) -> FloatArray:
    """Logarithm of the gamma function."""
    from scipy import special  # noqa: PLC0415 - as above

    return np.asarray(special.gammaln(value))


def at_nodes(function: Callable[[FloatArray], _Of], nodes: FloatArray) -> _Of:
    """Values of a function at nodes, which lie along the first axis."""
    return function(nodes)


def weighted(function: Callable[[_Of], FloatArray], weights: FloatArray, nodes: _Of) -> FloatArray:
    """Sum of a function's values at K nodes, which have shape (K, M), times their weights; shape (M,)."""
    return np.asarray(weights @ function(nodes))
