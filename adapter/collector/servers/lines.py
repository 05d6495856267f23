"""Lines of Prometheus text: selected by name, and parsed.

Errors quote nothing of a line: they end in conditions and logs, which others read.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from adapter.collector.servers import spelling

LINE_LIMIT = 16 * 1024
"""Most characters of a line that is read; others are skipped, whatever their length."""

LINES_LIMIT = 200_000
"""Most lines of a page."""

SERIES_LIMIT = 20_000
"""Most lines of a page that are read: those of some ten engines are a few thousand."""

Labels = Mapping[str, str]

Sample = tuple[str, Labels, float]
"""Name, labels and value."""

# Possessive throughout: what was read as one part is not tried again as another, so that no line takes more
# than linear time.
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*+"
_END = r"[ \t]++(?P<value>[0-9.eE+-]++|NaN|[+-]?Inf)(?:[ \t]++[0-9.eE+-]++)?+[ \t]*+(?:#.*+)?+"

_FIRST = re.compile(rf"[ \t]*+({_NAME})")
_BRACE = re.compile(r"[ \t]*+(?=\{)")
_QUOTED = re.compile(rf'[{{,][ \t]*+"({_NAME})"[ \t]*+(?=([,}}]))')
"""The name of a line that begins with a brace: in quotes among the labels, as names in UTF-8 are written."""

# What servers write, without escapes and blanks.
_PLAIN = re.compile(
    rf"(?P<name>{_NAME})(?:\{{(?P<labels>(?:{_LABEL_NAME}=\"[^\"\\]*+\",?+)*+)\}})?+{_END}"
)
_PLAIN_LABEL = re.compile(rf'({_LABEL_NAME})="([^"\\]*+)"')

# What the format allows.
_BLANK = r"[ \t]*+"
_START = re.compile(rf"(?P<name>{_NAME}){_BLANK}(?P<brace>\{{)?+")
_TEXT = r'"((?:[^"\\]++|\\.)*+)"'
_LABEL = re.compile(rf"{_BLANK}(?:({_LABEL_NAME})|{_TEXT}){_BLANK}={_BLANK}{_TEXT}{_BLANK}(,)?+")
"""Name, or name in quotes, and value of a label, and a comma behind it."""
_CLOSE = re.compile(rf"{_BLANK}\}}{_BLANK}")
_REST = re.compile(_END)
_ESCAPE = re.compile(r"\\(.)")

_CACHED_LABELS = 512
"""Longest text of labels that is kept parsed."""


class LineError(ValueError):
    """A page has a line that is no Prometheus text or too long, or too many of them; names its number."""


def buckets(lines: Iterable[str], model: str) -> tuple[list[str], list[float]]:
    """Bounds and values of the buckets of a model; of a series that is shown twice the first one.

    The lines of a histogram differ in `le` and their value: of the others only these are parsed.

    Raises:
        ValueError: a line is no sample, or too long.

    """
    bounds: list[str] = []
    values: list[float] = []
    seen: set[object] = set()
    around, served = ("", ""), False
    for line in lines:
        if len(line) > LINE_LIMIT:
            raise ValueError
        before, _, rest = line.partition('le="')
        bound, _, rest = rest.partition('"')
        after, _, value = rest.rpartition("} ")
        series: object = (before, bound, after)
        if (before, after) == around and value.replace(".", "", 1).isdigit():
            number = float(value)
        else:
            _, labels, number = sample(line.strip())
            served = labels.get("model_name", model) == model
            # Behind the value there may be an exemplar, which has braces and a value of its own.
            plain = before.endswith(("{", ",")) and labels.get("le") == bound and "}" not in after
            around = (before, after) if plain else ("", "")
            series = series if plain else frozenset(labels.items())
            bound = labels.get("le", "")
        if served and series not in seen:
            seen.add(series)
            bounds.append(bound)
            values.append(number)
    return bounds, values


def read(
    text: str, names: Container[str], aside: dict[str, list[str]] | None = None
) -> Iterator[Sample]:
    """Name, labels and value of the series with these names: some fifty lines of hundreds.

    Lines of latency buckets are put into `aside` unparsed, by name, where it is given.

    Raises:
        LineError: a line is no Prometheus text or too long, or there are too many; names its number.

    """
    lines = text.split("\n", LINES_LIMIT)
    if len(lines) > LINES_LIMIT:
        raise LineError(f"more than {LINES_LIMIT} lines of metrics")
    seen: set[object] = set()
    count = 0
    known, wanted, latency = "", False, False
    for number, line in enumerate(lines, 1):
        # Selecting lines costs less than parsing all.
        first = _FIRST.match(line)
        if first is None and _BRACE.match(line):
            line = _unquoted(line)  # noqa: PLW2901 - the same line, written otherwise
            first = _FIRST.match(line)
        if first is None:
            continue
        if (name := first[1]) != known:  # the lines of a series follow one another
            known, wanted = name, name in names
            latency = wanted and aside is not None and spelling.of_latency(name)
        if not wanted:
            continue
        count += 1
        if count > SERIES_LIMIT:
            raise LineError(f"more than {SERIES_LIMIT} lines of series that are read")
        if aside is not None and latency:
            aside.setdefault(name, []).append(line)
            continue
        if len(line) > LINE_LIMIT:
            raise LineError(f"line {number} has more than {LINE_LIMIT} characters")
        try:
            parsed = sample(line.strip())
        except ValueError:
            raise LineError(f"line {number} is not Prometheus text") from None
        text_of, _, _ = line.rpartition(" ")
        # Behind its value there may be a time or an exemplar, which are no part of the series.
        plain = text_of.endswith("}") and text_of.count("}") == 1
        series: object = text_of if plain else (parsed[0], frozenset(parsed[1].items()))
        if series in seen:
            continue  # shown twice; it is one series, of which Prometheus too takes the first value
        seen.add(series)
        yield parsed


def _unquoted(line: str) -> str:
    """A line whose name stands among its labels with the name before them; another one as it is."""
    quoted = _QUOTED.search(line)
    if quoted is None:
        return line
    # The first label has no comma before it, and each other has one.
    start, end = quoted.start(), quoted.end()
    first = line[start] == "{"
    before, after = line[: start + first], line[end + (first and quoted[2] == ",") :]
    return f"{quoted[1]}{before.lstrip()}{after}"


def sample(line: str) -> Sample:
    """Name, labels and value of one line.

    Thousands of pods are scraped every few seconds, so the plain form of a line, which servers write, is read
    at once; any other one part by part.

    Raises:
        ValueError: it is no sample.

    """
    form = _PLAIN.fullmatch(line)
    if form is not None:
        return form["name"], _plain_labels(form["labels"] or ""), float(form["value"])
    start = _START.match(line)
    if start is None:
        raise ValueError
    at = start.end()
    labels: dict[str, str] = {}
    if start["brace"]:
        at, labels = _escaped_labels(line, at)
    # The blank that separates name and value may have been read with the name.
    rest = _REST.fullmatch(f" {line[at:]}")
    if rest is None or (not start["brace"] and line[at - 1 : at] not in {" ", "\t"}):
        raise ValueError
    return start["name"], labels, float(rest["value"])


def _escaped_labels(line: str, at: int) -> tuple[int, dict[str, str]]:
    """Labels from that place on, and where what follows their closing brace begins."""
    labels: dict[str, str] = {}
    comma: str | None = ","
    while (close := _CLOSE.match(line, at)) is None:
        label = _LABEL.match(line, at)
        if label is None or not comma:
            raise ValueError
        name = label[1] or _ESCAPE.sub(_unescaped, label[2] or "")
        labels[name] = _ESCAPE.sub(_unescaped, label[3])
        at, comma = label.end(), label[4]
    return close.end(), labels


def _unescaped(escape: re.Match[str]) -> str:
    return {"n": "\n", "\\": "\\", '"': '"'}.get(escape[1], escape[0])


def _plain_labels(text: str) -> Labels:
    return _labels(text) if len(text) <= _CACHED_LABELS else dict(_PLAIN_LABEL.findall(text))


@lru_cache(maxsize=4096)
def _labels(text: str) -> Labels:
    """Labels by their text, which the lines and the pages of a model have in common."""
    return MappingProxyType(dict(_PLAIN_LABEL.findall(text)))
