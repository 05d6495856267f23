"""How far step times may be from their seed: the prior of an unknown model, an estimate, a profile."""

from __future__ import annotations

import numpy as np

from analyzer.replicas import FloatArray

PRIOR_DEVIATIONS = (0.8, 1.0, 0.8, 1.0)
"""Standard deviations of the logarithms of an unknown model's step times: a factor of 2 to 3 each way."""

PROFILE_DEVIATIONS = (0.4, 0.5, 0.4, 0.5)
"""The same of a profile that was measured."""

ESTIMATE_DEVIATION = (0.2, 0.8)
"""Least and largest standard deviation of an estimate's logarithms, between which its error sets it: servers
of one model and GPU differ by version and settings, however well the estimate was measured."""

CORRELATION = 0.5
"""Correlation between the logarithms of unknown step times: a larger model is slower in all of them."""

PROFILE_CORRELATION = 0.25
"""The same of the errors of a profile: a server with less power or an older version than the one that was
measured is slower in all of its step times, but a measurement errs in each of them by itself too."""


def first_covariance(deviations: tuple[float, ...], *, learned: bool) -> FloatArray:
    """Covariance of the seed's logarithms, shape (4, 4): of an unknown model or of a profile."""
    wide = np.array(deviations)
    shared = CORRELATION if learned else PROFILE_CORRELATION
    return np.outer(wide, wide) * (shared + (1.0 - shared) * np.eye(wide.size))
