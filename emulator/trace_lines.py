"""Lines of the file from which the requests of a trace come, for errors that name them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """The file of a trace, and the line of each of its requests.

    Attributes:
        path: Name of the file.
        numbers: Line of each request, from 1.

    """

    path: str
    numbers: npt.NDArray[np.int64]

    def taken(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Lines:
        """The lines of some requests: of a mask, or by their indices."""
        return replace(self, numbers=self.numbers[which])

    def where(self, index: int) -> str:
        """FILE:LINE of a request."""
        return f"{self.path}:{self.numbers[index]}"


def also(left_out: Iterable[str]) -> str:
    """Wrong lines of a file, to go on with the sentence of an error that they may explain."""
    return "".join(f"; left out: {line}" for line in left_out)
