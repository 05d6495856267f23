"""Pages of one layout, which differ in their numbers alone: lines are selected once for all of them.

A server shows the same lines again and again, and all pods of one model show alike ones. A layout is
a digest of everything on a page but the last word of each line. What a parser selects does not depend on
numbers, so once a layout was seen twice, its pages need none of the parser's work but the numbers themselves.
Whatever is written in another way than servers do is left to the parser each time.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from operator import itemgetter

from adapter.collector.servers import lines

PAGE_CHARACTERS = 128 * 1024
"""Longest page whose layout is kept: those of some engines on one page are as long."""

MOST_PARTS = 400_000
"""Numbers, labels and pieces of `_PIECE` characters of their text that all layouts keep together, each some
hundred bytes: 50 MB in all. A page of one engine has some four hundred."""

MOST_SEEN = 4096
"""Layouts of which one page was read that are remembered."""

_PIECE = 64

_UNUSED = 16
"""What a layout counts as that is not used."""

_HEAD_CHARACTERS = 4096
"""Longest line; the one with the configuration of vLLM's cache has more than a thousand."""

_SERIES = re.compile(
    r"[a-zA-Z_:][a-zA-Z0-9_:]*+(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*+=\"[^\"\\]*+\",?+)*+\})?+"
)
"""A line without its number, as servers write it."""

_NUMBERS = re.compile(r"(?:[0-9.eE+-]{1,32}+ )*+")
"""Numbers with a blank behind each. Longer ones count for the limit on lines."""

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


class _Layout:
    """Where the numbers of a page go."""

    def __init__(self, numbered: Selected, read: Collection[int]) -> None:
        """Take the places from a page whose numbers are those of its lines; `read`: all that are read."""
        places = [int(value) for _, _, value in numbered.series]
        for _, values in numbered.latencies:
            places += map(int, values)
        self._started = numbered.started_at is not None
        if self._started:
            places.append(int(numbered.started_at or 0))
        # What is read and not selected, such as lines of another model, may be no number all the same.
        places += sorted(set(read) - set(places))
        self._pick = itemgetter(*places, 0)
        self._names = [(name, labels) for name, labels, _ in numbered.series]
        self._bounds = [(tuple(bounds), len(bounds)) for bounds, _ in numbered.latencies]
        self.parts = len(places) + sum(
            len(labels) + (len(name) + sum(map(len, (*labels, *labels.values())))) // _PIECE
            for name, labels in self._names
        )

    def filled(self, page: Sequence[str]) -> Selected | None:
        """What the lines of a page show; None where one of their numbers is not plainly written."""
        words = [line.rpartition(" ")[2] for line in self._pick(page)[:-1]]
        if not _NUMBERS.fullmatch(" ".join((*words, ""))):
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


@dataclass(slots=True)
class _LayoutUse:
    """A layout, None where its pages are parsed, and the number of the page that used it last."""

    layout: _Layout | None
    used: int

    @property
    def parts(self) -> int:
        """What it counts as."""
        return _UNUSED if self.layout is None else self.layout.parts


class Layouts:
    """Layouts of the pages that were read last."""

    def __init__(self, names: Container[str]) -> None:
        """`names`: those of the lines that are selected."""
        self._names = names
        self._known: OrderedDict[tuple[bytes, str], _LayoutUse] = OrderedDict()
        self._seen: OrderedDict[tuple[bytes, str], int] = OrderedDict()
        self._parts = self._pages = 0

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
        self._pages += 1
        kept = self._known.get(key)
        if kept is not None:
            self._known.move_to_end(key)
            kept.used = self._pages
            selection = None if kept.layout is None else kept.layout.filled(page)
            return parse(text) if selection is None else selection
        parsed = parse(text)
        before = self._seen.pop(key, None)
        if before is not None and not self._lacks(page, heads) and self._room(before):
            layout = self._layout(page, heads, parse) if parsed.by_lines else None
            self._known[key] = kept = _LayoutUse(layout, self._pages)
            self._parts += kept.parts
        else:
            self._seen[key] = self._pages
            if len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
        return parsed

    def _lacks(self, page: Sequence[str], heads: Sequence[str]) -> bool:
        """Whether a number that is read is not there.

        That says nothing of other pages of this layout, which may be another tenant's.
        """
        return any(
            line == head and self._read(head) for line, head in zip(page, heads, strict=True)
        )

    def _read(self, head: str) -> bool:
        first = _FIRST.match(head)
        return first is not None and first[1] in self._names

    def _layout(
        self, page: Sequence[str], heads: Sequence[str], parse: Callable[[str], Selected]
    ) -> _Layout | None:
        """The layout of a page; None where it is written in another way than servers do."""
        read = []
        for number, head in enumerate(heads):
            # Where a line's name is not in its head, another page may have another one.
            if head.isspace() or head.lstrip().startswith("{"):
                return None
            if not self._read(head):
                continue
            if len(head) > _HEAD_CHARACTERS or not _SERIES.fullmatch(head):
                return None
            read.append(number)
        numbered = (
            line if line == head else f"{head} {number}"
            for number, (line, head) in enumerate(zip(page, heads, strict=True))
        )
        return _Layout(parse("\n".join(numbered)), read)

    def _room(self, since: int) -> bool:
        """Make room for a layout that was seen at that page too; whether there is.

        Where more layouts take turns than there is room for, those that are kept stay: each would be dropped
        before its next page otherwise, and none be of use.
        """
        while self._parts >= MOST_PARTS:
            key, oldest = next(iter(self._known.items()))
            if oldest.used >= since:
                return False
            del self._known[key]
            self._parts -= oldest.parts
        return True
