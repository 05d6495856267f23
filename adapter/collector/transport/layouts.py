"""Pages of one layout, which differ in their numbers alone: lines are selected once for all of them.

A server shows the same lines again and again, and all pods of one model show alike ones. A layout is
a digest of everything on a page but the last word of each line. What a parser selects does not depend on
numbers, so from its second page on, a layout needs none of the parser's work but the numbers themselves.
Whatever is written in another way than servers do is left to the parser each time.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from operator import itemgetter

from adapter.collector.servers import lines

PAGE_CHARACTERS = 128 * 1024
"""Longest page whose layout is kept: those of some engines on one page are as long."""

MOST_BYTES = 64 * 1024 * 1024
"""Memory that all layouts take together, as it is estimated: that of a page of one engine is some 60 KiB,
and owners of pods decide how many labels its lines have."""

MOST_SEEN = 4096
"""Layouts of which one page was read that are remembered."""

_HEAD_CHARACTERS = 1024

_OF_LAYOUT, _OF_NUMBER, _OF_LABEL = 512, 256, 128
"""Bytes of one layout, of each of its numbers, and of each label, beside those of their texts."""

_SERIES = re.compile(
    r"[a-zA-Z_:][a-zA-Z0-9_:]*+(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*+=\"[^\"\\]*+\",?+)*+\})?+"
)
"""A line without its number, as servers write it."""

_NUMBERS = re.compile(r"(?:[0-9.eE+-]{1,32}+ ?+)*+")

_FIRST = re.compile(r"[ \t]*+([a-zA-Z_:][a-zA-Z0-9_:]*+)")


@dataclass(frozen=True, slots=True)
class Selected:
    """What of a page is read.

    Attributes:
        series: Samples of the model.
        latencies: Bounds and values of the buckets of each latency; empty where they cannot be read.
        started_at: When the process started, Unix seconds; None where it is not shown.
        by_lines: Whether every number is that of a line, and none is computed from several.

    """

    series: list[lines.Sample]
    latencies: tuple[tuple[Sequence[str], Sequence[float]], ...]
    started_at: float | None
    by_lines: bool = True

    @property
    def size(self) -> int:
        """Bytes that a layout of it takes, at most some; labels that lines share are counted for each."""
        texts = [text for bounds, _ in self.latencies for text in bounds]
        size = _OF_NUMBER * (len(texts) + 1)
        for name, labels, _ in self.series:
            size += _OF_NUMBER + _OF_LABEL * len(labels)
            texts += (name, *labels, *labels.values())
        return _OF_LAYOUT + size + sum(map(len, texts))


class _Layout:
    """Where the numbers of a page go."""

    def __init__(self, numbered: Selected) -> None:
        """`numbered`: of a page whose numbers are those of their lines."""
        places = [int(value) for _, _, value in numbered.series]
        for _, values in numbered.latencies:
            places += map(int, values)
        self._started = numbered.started_at is not None
        places.append(int(numbered.started_at or 0))
        self._pick = itemgetter(*places, 0)
        self._names = [(name, labels) for name, labels, _ in numbered.series]
        self._bounds = [(tuple(bounds), len(bounds)) for bounds, _ in numbered.latencies]
        self.size = numbered.size

    def filled(self, page: Sequence[str]) -> Selected | None:
        """What the lines of a page show; None where one of their numbers is not plainly written."""
        words = [line.rpartition(" ")[2] for line in self._pick(page)[:-1]]
        if not self._started:
            words.pop()
        if not _NUMBERS.fullmatch(" ".join(words)):
            return None
        try:
            numbers = list(map(float, words))
        except ValueError:
            return None
        at = len(self._names)
        series = [
            (name, labels, value)
            for (name, labels), value in zip(self._names, numbers[:at], strict=True)
        ]
        latencies = []
        for bounds, count in self._bounds:
            latencies.append((bounds, numbers[at : at + count]))
            at += count
        return Selected(series, tuple(latencies), numbers[at] if self._started else None)


class Layouts:
    """Layouts of the pages that were read last."""

    def __init__(self, names: Container[str]) -> None:
        """`names`: those of the lines that are selected."""
        self._names = names
        self._known: OrderedDict[tuple[bytes, str], _Layout | None] = OrderedDict()
        self._seen: OrderedDict[tuple[bytes, str], None] = OrderedDict()
        self._bytes = 0

    def selected(self, text: str, model: str, parse: Callable[[str], Selected]) -> Selected:
        """What a parser selects of a page for a model; raises what it raises.

        Args:
            text: The page.
            model: The model.
            parse: Selects it, whatever the numbers are; a page is parsed again with other numbers.

        """
        if len(text) > PAGE_CHARACTERS:
            return parse(text)
        page = text.split("\n")
        heads = [line.rpartition(" ")[0] or line for line in page]
        digest = hashlib.sha256("\n".join(heads).encode("utf-8", "surrogatepass"))
        key = (digest.digest(), model)
        if key in self._known:
            self._known.move_to_end(key)
            layout = self._known[key]
            selection = None if layout is None else layout.filled(page)
            return parse(text) if selection is None else selection
        parsed = parse(text)
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
        # A number that this page lacks says nothing of others of its layout, which may be another tenant's.
        elif not any(
            line == head and self._selects(head) for line, head in zip(page, heads, strict=True)
        ):
            del self._seen[key]
            self._keep(key, self._layout(page, heads, parse) if parsed.by_lines else None)
        return parsed

    def _selects(self, head: str) -> bool:
        first = _FIRST.match(head)
        return first is not None and first[1] in self._names

    def _layout(
        self, page: Sequence[str], heads: Sequence[str], parse: Callable[[str], Selected]
    ) -> _Layout | None:
        """The layout of a page; None where it is written in another way than servers do."""
        for head in heads:
            # Where a line's name is not in its head, another page may have another one.
            if head.isspace() or head.startswith('{"'):
                return None
            if self._selects(head) and (
                len(head) > _HEAD_CHARACTERS or not _SERIES.fullmatch(head)
            ):
                return None
        numbered = (
            line if line == head else f"{head} {number}"
            for number, (line, head) in enumerate(zip(page, heads, strict=True))
        )
        return _Layout(parse("\n".join(numbered)))

    def _keep(self, key: tuple[bytes, str], layout: _Layout | None) -> None:
        self._known[key] = layout
        self._bytes += _size(layout)
        while self._bytes > MOST_BYTES:
            _, dropped = self._known.popitem(last=False)
            self._bytes -= _size(dropped)


def _size(layout: _Layout | None) -> int:
    # One that is not used takes room too.
    return _OF_LAYOUT if layout is None else layout.size
