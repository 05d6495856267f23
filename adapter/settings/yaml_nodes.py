"""Nodes of a YAML text, before objects are made of them: what would take too long, and keys that repeat.

Nodes are those of PyYAML, known here by their attributes: settings are loaded by commands that need no YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NUMBERS = {
    "tag:yaml.org,2002:int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
}
_GUESSED = frozenset({*_NUMBERS, "tag:yaml.org,2002:timestamp"})


def read_plainly(loader: Any) -> None:
    """Let a class of loaders of PyYAML take plain values as YAML 1.2 does.

    `0500` is no octal number, `1:30` no 90, `yes` no truth and a date a text.
    """
    loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if tag not in _GUESSED]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    for tag, (form, first) in _NUMBERS.items():
        loader.add_implicit_resolver(tag, re.compile(rf"\A(?:{form})$"), list(first))


_MERGE = "tag:yaml.org,2002:merge"

MOST_MERGED = 20_000
"""Most entries, beside one for each character, that merge keys (`<<: *anchor`) of a text add to its mappings.

Of a text whose first half is a mapping and whose second merges it again and again there are as many as the
square of its length: of 128 KiB 70 million, which take minutes and gigabytes.
"""


def check_merges(root: Any, length: int) -> None:
    """Refuse merge keys that add too much to a text of that many characters.

    Raises:
        ValueError: they add more than `MOST_MERGED` entries, and one for each character.
        RecursionError: mappings merge others that merge others, hundreds of times.

    """
    sizes: dict[int, int] = {}
    most = left = MOST_MERGED + length

    def size(node: Any) -> int:
        """Entries of a mapping with those that it merges."""
        nonlocal left
        known = sizes.get(id(node))
        if known is not None:
            return known
        sizes[id(node)] = 0  # of one that merges itself
        own = merged = 0
        for key, value in node.value:
            if key.tag != _MERGE:
                own += 1
                continue
            for item in value.value if value.id == "sequence" else (value,):
                added = size(item) if item.id == "mapping" else 1
                merged += added
                left -= max(added, 1)
                if left < 0:
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: merge keys (<<) add more than {most} entries")
        sizes[id(node)] = own + merged
        return own + merged

    for node in _mappings(root):
        size(node)


MOST_ALIASED = 100_000
"""Most nodes, beside one for each character, that a text has with its aliases (`*anchor`) written out.

Each line may hold the one before it nine times: a few hundred characters then are billions of nodes to who
walks through them.
"""


def check_aliases(root: Any, length: int) -> None:
    """Refuse aliases that make too much of a text of that many characters.

    Raises:
        ValueError: written out it has more than `MOST_ALIASED` nodes, and one for each character, or an alias
            stands for what it stands in.
        RecursionError: aliases stand for others, hundreds of times.

    """
    most = MOST_ALIASED + length
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        """Nodes of a part, itself and what its aliases stand for included."""
        if node.id == "scalar":
            return 1
        known = sizes.get(id(node))
        if known is None:
            sizes[id(node)] = 0
            known = sizes[id(node)] = 1 + sum(map(size, _inner(node)))
        line = node.start_mark.line + 1
        if not known:
            raise ValueError(f"line {line}: an alias stands for what it stands in; write it out")
        if known > most:
            raise ValueError(f"line {line}: aliases (*) make more than {most} nodes of it")
        return known

    if root is not None:
        size(root)


def _inner(node: Any) -> Iterator[Any]:
    """Items of a list; keys and values of a mapping without those that it merges."""
    if node.id == "sequence":
        yield from node.value
        return
    for key, value in node.value:
        if key.tag != _MERGE:
            yield key
            yield value


def repeated_keys(root: Any) -> list[tuple[str, int]]:
    """Keys that one mapping of a text has twice, of which parsers keep the last, with their lines."""
    repeats = [item for node in _mappings(root) for item in repeated(node)]
    return sorted(repeats, key=lambda item: item[1])


def repeated(node: Any) -> Iterator[tuple[str, int]]:
    """Keys that a mapping has twice, with their lines."""
    names: set[str] = set()
    for key, _ in node.value:
        if key.id == "scalar":
            if key.value in names:
                yield key.value, key.start_mark.line + 1
            names.add(key.value)


def _mappings(root: Any) -> Iterator[Any]:
    """All mappings of a text, each once, however many aliases it has."""
    nodes, visited = [root], set[int]()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in visited:
            continue
        visited.add(id(node))
        if node.id == "sequence":
            nodes.extend(node.value)
        elif node.id == "mapping":
            yield node
            nodes.extend(value for _, value in node.value)
