"""The response to an instant query: a vector of samples, each with its labels.

    {"status": "success", "data": {"resultType": "vector", "result": [
        {"metric": {"__name__": "up", "pod": "p"}, "value": [1700000000.125, "1"]}, ...]}, "warnings": [...]}

https://prometheus.io/docs/prometheus/latest/querying/api/#expression-query-result-formats
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_CHUNK_BYTES = 64 * 1024
_RESULT = re.compile(rb'"result"\s*:\s*\[')
_BETWEEN_ELEMENTS = re.compile(rb'"\s*\]\s*\}(\s*,)\s*\{\s*"')
"""Text between the value of one element and the labels of the next. No string holds it."""
_DECODER = json.JSONDecoder()

PARTS = 5_000_000
"""Labels of all elements together at most, each element counting as ten more: some 300 MB as objects. Real
answers have fewer in the longest response that is read."""

ELEMENT_BYTES = 256 * 1024
"""Longest element; what is decoded at once ends after one, since as objects it may be 25 times as large."""

ENVELOPE_BYTES = 4 * 2**20
"""Most bytes beside the elements: statistics and warnings."""


class FailedError(Exception):
    """The response says that the query failed, though its HTTP status is that of success.

    Attributes:
        kind: Kind of error as it says it, whatever that is.

    """

    def __init__(self, kind: object) -> None:
        super().__init__("the query failed")
        self.kind = kind


class OversizedError(ValueError):
    """The response has more than is read; the message says of what, and quotes nothing."""


class Sample(NamedTuple):
    """One element of an instant vector. A tuple, since a response has tens of thousands of them.

    Attributes:
        labels: Labels by name.
        value: Value; may be NaN or infinite.
        evaluated_at: When the query was evaluated, Unix seconds by the clock of Prometheus.

    """

    labels: Mapping[str, str]
    value: float
    evaluated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InstantVector:
    """Response to an instant query; with warnings it may be incomplete."""

    samples: tuple[Sample, ...]
    warnings: tuple[str, ...] = ()


def parse(body: bytes) -> InstantVector:
    """Read the response to an instant query.

    The result is decoded in chunks: `json.loads` of the whole would hold all threads, the event loop's
    too, for a tenth of a second in a response about 3,000 pods. Whatever the response is, no more becomes
    objects than a real one has.

    Raises:
        FailedError: it says that the query failed.
        ValueError: it is not JSON (JSONDecodeError, UnicodeDecodeError), a value is not a number, or it has
            more than an instant vector.
        KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError: it is not a vector.

    """
    start = _RESULT.search(body)
    samples: list[Sample] = []
    if start is None:
        envelope = _envelope(body)
    else:
        end, left = start.end(), PARTS
        for elements, end in _chunks(body, start.end()):  # noqa: B007 - the last end is used below
            chunk = list(map(_sample, elements))
            samples.extend(chunk)
            left -= 10 * len(chunk) + sum(len(sample.labels) for sample in chunk)
            if left < 0:
                raise OversizedError("more series than are read")
        envelope = _envelope(body[: start.end()], body[end:])
    if envelope.get("status", "success") != "success":
        raise FailedError(envelope.get("errorType"))
    if not isinstance(envelope["data"]["result"], list):
        raise TypeError(type(envelope["data"]["result"]).__name__)
    warnings = envelope.get("warnings") or ()
    if not isinstance(warnings, list | tuple):
        raise TypeError(type(warnings).__name__)
    return InstantVector(samples=tuple(samples), warnings=tuple(str(item) for item in warnings))


def _envelope(*parts: bytes) -> Any:
    """What is around the elements."""
    if sum(map(len, parts)) > ENVELOPE_BYTES:
        raise OversizedError("too much beside its series")
    return json.loads(b"".join(parts).decode())


def _chunks(body: bytes, start: int) -> Iterator[tuple[list[Any], int]]:
    """Elements of the list whose items begin at `start`, with where the rest of the text begins."""
    most = _CHUNK_BYTES + ELEMENT_BYTES
    while between := _BETWEEN_ELEMENTS.search(body, start + _CHUNK_BYTES, start + most):
        end = between.start(1)
        yield json.loads(f"[{body[start:end].decode()}]"), end
        start = between.end(1)
    # A character may be cut in two; where the list goes on behind it, it has no end, and is no JSON.
    piece = codecs.getincrementaldecoder("utf-8")().decode(body[start : start + most])
    elements, length = _DECODER.raw_decode("[" + piece)
    yield elements, start + len(piece[: length - len("[]")].encode())


def _sample(element: Mapping[str, Any]) -> Sample:
    (evaluated_at, value), labels = element["value"], element["metric"]
    if not isinstance(labels, dict):
        raise TypeError(type(labels).__name__)
    "".join(labels.values()).encode()  # raises TypeError where one is no text, or ValueError
    return Sample(labels, float(value), float(evaluated_at))
