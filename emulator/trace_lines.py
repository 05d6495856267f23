"""Lines of the files from which requests of a trace come, in bounded memory, and errors that name them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

MOST_LINE = 2**20
"""Most characters of a line: those of public traces have 100,000 at most, and a device has no end of its."""

MOST_TEXT = 512 * 2**20
"""Most characters of a file that is read as a whole."""

_SHOWN = 80
"""Most characters of a value that an error quotes."""


class LongLineError(ValueError):
    """A line is longer than `MOST_LINE`; `number`: of it, from 1."""

    def __init__(self, number: int) -> None:
        super().__init__(f"longer than {MOST_LINE} characters; is it a trace file?")
        self.number = number


def bounded(file: TextIO) -> Iterator[str]:
    """The lines of a file.

    Raises:
        LongLineError: one is longer than any of a trace.

    """
    number = 0
    while line := file.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            raise LongLineError(number)
        yield line


def whole(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, or longer than `MOST_TEXT`.

    """
    with path.open(encoding="utf-8") as file:
        text = file.read(MOST_TEXT + 1)
    if len(text) > MOST_TEXT:
        raise ValueError(f"longer than {MOST_TEXT} characters")
    return text


def not_json(error: Exception) -> str:
    """What is wrong with a text that `json.loads` refuses, by the error that it raises."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    # Python converts no integer of more: the one other reason there is.
    return "a number has more than 4,300 digits"


def shown(value: Any) -> str:
    """A value as errors quote it: the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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
