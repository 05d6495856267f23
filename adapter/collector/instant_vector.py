"""The response to an instant query: a vector of samples, each with its labels.

    {"status": "success", "data": {"resultType": "vector", "result": [
        {"metric": {"__name__": "up", "pod": "p"}, "value": [1700000000.125, "1"]}, ...]}, "warnings": [...]}

https://prometheus.io/docs/prometheus/latest/querying/api/#expression-query-result-formats
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_CHUNK_CHARACTERS = 64 * 1024
_RESULT = re.compile(r'"result"\s*:\s*\[')
_BETWEEN_ELEMENTS = '"]},{"'
"""Text between the value of one element and the labels of the next. No string holds it."""
_DECODER = json.JSONDecoder()


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
    too, for a tenth of a second in a response about 3,000 pods.

    Raises:
        ValueError: it is not JSON (JSONDecodeError, UnicodeDecodeError), or a value is not a number.
        KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError: it is not a vector.

    """
    text = body.decode()
    start = _RESULT.search(text)
    samples: list[Sample] = []
    if start is None:
        envelope = json.loads(text)
    else:
        end = start.end()
        for elements, end in _chunks(text, start.end()):  # noqa: B007 - the last end is used below
            samples.extend(map(_sample, elements))
        envelope = json.loads(text[: start.end()] + text[end:])
    if not isinstance(envelope["data"]["result"], list):
        raise TypeError(type(envelope["data"]["result"]).__name__)
    warnings = envelope.get("warnings") or ()
    return InstantVector(samples=tuple(samples), warnings=tuple(str(item) for item in warnings))


def _chunks(text: str, start: int) -> Iterator[tuple[list[Any], int]]:
    """Elements of the list whose items begin at `start`, with where the rest of the text begins."""
    while (cut := text.find(_BETWEEN_ELEMENTS, start + _CHUNK_CHARACTERS)) >= 0:
        cut += len('"]}')
        yield json.loads(f"[{text[start:cut]}]"), cut
        start = cut + len(",")
    elements, length = _DECODER.raw_decode("[" + text[start:])
    yield elements, start + length - len("[]")


def _sample(element: Mapping[str, Any]) -> Sample:
    (evaluated_at, value), labels = element["value"], element["metric"]
    if not isinstance(labels, dict):
        raise TypeError(type(labels).__name__)
    return Sample(labels, float(value), float(evaluated_at))
