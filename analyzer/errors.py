"""What the analyzer refuses, as one tree.

* AnalyzerError
  + InvalidParameterError: a parameter is not a number in its range; names the parameter
"""

from __future__ import annotations


class AnalyzerError(ValueError):
    """Base of all errors of this package."""


class InvalidParameterError(AnalyzerError):
    """A parameter is not a number in its range."""
