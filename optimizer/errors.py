"""What the optimizer refuses, as one tree.

* OptimizerError
  + InvalidProblemError: something in the problem has no meaning; names the object and the field
"""

from __future__ import annotations


class OptimizerError(ValueError):
    """Base of all errors of this package."""


class InvalidProblemError(OptimizerError):
    """Something in the problem has no meaning.

    Attributes:
        subject: the object, such as `variant ns/a` or `capacity A100`.
        variant: its name where it is a variant that could be left out, else empty.

    """

    def __init__(self, subject: str, problem: str, *, variant: str = "") -> None:
        self.subject = subject
        self.problem = problem
        self.variant = variant
        super().__init__(f"{subject}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross the border of the worker process."""
        return _again, (self.subject, self.problem, self.variant)


def _again(subject: str, problem: str, variant: str) -> InvalidProblemError:
    return InvalidProblemError(subject, problem, variant=variant)
