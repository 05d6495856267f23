"""What the analyzer refuses, as one tree.

* AnalyzerError
  + InvalidParameterError: a parameter is not a number in its range; names it and its index in the batch
  + FitError: benchmark rows from which no parameters follow
    - SaturatedRowsError: because in most of them requests waited; names those
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class AnalyzerError(ValueError):
    """Base of all errors of this package."""


class InvalidParameterError(AnalyzerError):
    """A parameter is not a number in its range.

    Attributes:
        parameter: its name.
        index: its index in the batch; None for a single replica.

    """

    def __init__(self, parameter: str, problem: str, *, index: int | None = None) -> None:
        self.parameter = parameter
        self.problem = problem
        self.index = index
        where = parameter if index is None else f"{parameter}[{index}]"
        super().__init__(f"{where}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross the border of the worker process."""
        return _again, (self.parameter, self.problem, self.index)


class FitError(AnalyzerError):
    """Benchmark rows from which no parameters follow."""


class SaturatedRowsError(FitError):
    """Too few benchmark rows remain without those in which requests waited.

    Attributes:
        rows: index and reason of each saturated row.

    """

    def __init__(self, problem: str, rows: tuple[tuple[int, str], ...]) -> None:
        self.rows = rows
        super().__init__(problem)

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross the border of the worker process."""
        return SaturatedRowsError, (str(self), self.rows)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Errors of a batch of one name the parameter without its index."""
    try:
        yield
    except InvalidParameterError as error:
        raise InvalidParameterError(error.parameter, error.problem) from None


def _again(parameter: str, problem: str, index: int | None) -> InvalidParameterError:
    return InvalidParameterError(parameter, problem, index=index)
