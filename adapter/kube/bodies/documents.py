"""JSON that goes to the API server and comes from it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

_ESCAPED = re.compile("[^\\x00-\\x7e\\U00010000-\\U0010ffff]")
"""Characters that are escaped in what is sent; JSON itself escapes those below a blank."""

_LINE_BYTES = 32 * 2**20
"""Most bytes of an event of a watch: an object as JSON is some times as long as in etcd."""


def encoded(document: object) -> bytes:
    """A JSON document that the API server also reads as YAML, which server-side apply is.

    YAML knows no surrogate pairs: characters beyond the BMP are sent as they are, and half a pair as U+FFFD;
    all others beyond ASCII are escaped, because YAML takes some of them for the end of a line.
    """
    return _ESCAPED.sub(_escape, json.dumps(document, ensure_ascii=False)).encode()


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{0xFFFD if 0xD800 <= code <= 0xDFFF else code:04x}"


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a watch that are not empty; what follows the last end of a line is none.

    Raises:
        ValueError: a line is longer than an event may be.

    """
    begun = bytearray()
    async for piece in content.iter_any():
        *complete, rest = piece.split(b"\n")
        for line in complete:
            begun += line
            if begun:
                yield bytes(begun)
            begun.clear()
        begun += rest
        if len(begun) > _LINE_BYTES:
            raise ValueError(f"a line of the watch is longer than {_LINE_BYTES // 2**20} MiB")


def event(document: Any) -> dict[str, Any]:
    """The event of a line of a watch.

    Raises:
        ValueError: it is not an object with a type and an object.

    """
    if not (
        isinstance(document, dict)
        and isinstance(document.get("type"), str)
        and isinstance(document.get("object"), dict)
    ):
        raise ValueError("a line of the watch is not an event")  # noqa: TRY004 - as any bad line
    return document
