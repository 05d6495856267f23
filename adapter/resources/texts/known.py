"""What parsing a text gave: each cycle reads the same texts, and a long one takes a second."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")

MOST_CHARACTERS = 4 * 1024 * 1024
"""Characters of the texts whose results are kept: more than the ConfigMaps of one kind can have, of which a
number of texts would keep none where one more is read in every cycle."""

OF_EACH, OF_TEXT = 256, 64
"""Characters that a result counts for beside those of its texts, and that each of its texts does."""


class Known(Generic[Result]):
    """A parser whose results are kept by their texts; the least recently used are dropped first."""

    def __init__(self, parse: Callable[..., Result]) -> None:
        """`parse`: gives the same for the same texts, and raises nothing."""
        self._parse = parse
        self._results: OrderedDict[tuple[str, ...], Result] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()  # objects are joined in threads

    def __call__(self, *texts: str) -> Result:
        """What the parser says of these texts."""
        with self._lock:
            if texts in self._results:
                self._results.move_to_end(texts)
                return self._results[texts]
        result = self._parse(*texts)
        with self._lock:
            if texts not in self._results:
                self._results[texts] = result
                self._characters += _size(texts)
            while self._characters > MOST_CHARACTERS:
                oldest, _ = self._results.popitem(last=False)
                self._characters -= _size(oldest)
        return result


def _size(texts: tuple[str, ...]) -> int:
    return OF_EACH + sum(OF_TEXT + len(text) for text in texts)
