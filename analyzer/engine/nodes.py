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


def below(score: FloatArray) -> FloatArray:
    """Share of a normal distribution below the score, within 1e-7 (Abramowitz and Stegun, 26.2.17).

    SciPy's takes long to load, and means do without it.
    """
    size = np.abs(score)
    t = 1.0 / (1.0 + 0.2316419 * size)
    series = t * (
        0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))
    )
    beyond = np.exp(-0.5 * np.minimum(size, 38.0) ** 2) * series / np.sqrt(2.0 * np.pi)
    return np.asarray(np.where(score > 0.0, 1.0 - beyond, beyond))
