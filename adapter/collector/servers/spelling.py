"""Spellings of one series: `vllm:num_requests_running` is also `vllm_num_requests_running`, or has a prefix.

Client libraries replace the colon where OpenMetrics was negotiated, Prometheus does where its
`metric_name_escaping_scheme` says so, and platforms put prefixes of their own before all names by relabelling
(KServe `kserve_`, Ray `ray_`). Scheme `dots` doubles all underscores, and `values` writes `U__vllm_3a_` for
`vllm:`; neither has to touch a name with a colon, and not every library knows that. A server shows all of its
series in one spelling.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from adapter.collector import model_servers
from adapter.collector.servers import engines

_LATENCIES = model_servers.LATENCY_BUCKETS | frozenset(model_servers.TPOT_BUCKETS)

READ = (
    model_servers.SERIES
    | model_servers.BUCKETS
    | _LATENCIES
    | {model_servers.STARTED, *model_servers.INFOS}
)
"""Names that are read, as `model_servers` has them."""

_PREFIX = r"(?:[a-zA-Z0-9_:]*[_:])?"
_FORM = re.compile(rf"({_PREFIX})(vllm|sglang)([:_])([a-zA-Z0-9_]+)")
_STYLE_FORM = re.compile(rf"{_PREFIX}(vllm|sglang)(?:[:_]|(?::|__|_3a_)__)")
_STARTED_FORM = re.compile(rf"({_PREFIX}){model_servers.STARTED}")

_DOUBLED = "__"
"""Underscore of escaped names, and the end of the style of such names."""
_ESCAPED_FORM = re.compile(
    r"((?:[a-zA-Z0-9_:]*[a-zA-Z0-9:][_:])?)(vllm|sglang)(:|__|_3a_)([a-zA-Z0-9]+(?:__[a-zA-Z0-9]+)+)"
)
"""Prefix, kind, what stands for the colon, and the rest of an escaped name."""

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""


class Spelled(NamedTuple):
    """A series by the name that `model_servers` has for it.

    Attributes:
        name: Its name there.
        style: What all series of its server have in common: prefix, kind of server and separator.

    """

    name: str
    style: str


LONGEST_NAME = 512
"""Most characters of a name that is read: looking for its parts takes longer than linear time."""


def spelled(name: str) -> Spelled | None:
    """The series that a name stands for; None where it is not read."""
    return _spelled(name) if len(name) <= LONGEST_NAME else None


@lru_cache(maxsize=8192)
def _spelled(name: str) -> Spelled | None:
    form = _FORM.fullmatch(name)
    if form is not None and _DOUBLED in name:
        return _unescaped(name)
    if form is not None:
        prefix, kind, separator, rest = form.groups()
        plain = f"{kind}:{rest}"
        return Spelled(plain, f"{prefix}{kind}{separator}") if plain in READ else None
    if _STARTED_FORM.fullmatch(name.replace(_DOUBLED, "_")):
        return Spelled(model_servers.STARTED, "")
    return None


def _unescaped(name: str) -> Spelled | None:
    """The series that an escaped name stands for; None where it is none, or not read."""
    form = _ESCAPED_FORM.fullmatch(name.removeprefix("U__"))
    if form is None:
        return None
    prefix, kind, separator, rest = form.groups()
    plain = f"{kind}:{rest.replace(_DOUBLED, '_')}"
    marked = "U__" if name.startswith("U__") else ""
    style = f"{marked}{prefix}{kind}{separator}{_DOUBLED}"
    return Spelled(plain, style) if plain in READ else None


@lru_cache(maxsize=8192)
def of_latency(name: str) -> bool:
    """Whether it is a bucket of a latency, in any spelling."""
    spelling = spelled(name)
    return spelling is not None and spelling.name in _LATENCIES


class Names:
    """All spellings of the names that are read, as a set that only knows what it contains."""

    def __contains__(self, name: object) -> bool:
        """Whether it is read."""
        return isinstance(name, str) and (spelled(name) is not None or engines.reads(name))


def style_of(names: Iterable[tuple[str, str]]) -> str:
    """The style to read of those that one page has, by pairs of name and style; empty without any.

    A page may show the series of one server in two spellings, which must not count twice: the one with the
    gauges that every server has, then the one with more series, then the shorter.
    """
    by_style: dict[str, set[str]] = {}
    for name, style in names:
        by_style.setdefault(style, set()).add(name)
    return min(
        by_style,
        key=lambda style: (
            -len(by_style[style] & model_servers.STOCK_SERIES),
            -len(by_style[style]),
            len(style),
            style,
        ),
        default="",
    )


def kind_of(style: str) -> str:
    """The kind of server of a style: vllm or sglang."""
    form = _STYLE_FORM.fullmatch(style)
    return form[1] if form else ""


def restyled(name: str, style: str) -> str:
    """A name of `model_servers` in a style of its kind of server."""
    rest = name.partition(":")[2]
    if style.endswith(_DOUBLED):
        return style.removesuffix(_DOUBLED) + rest.replace("_", _DOUBLED)
    return style + rest


def selector(names: Collection[str], more: str = "") -> str:
    """A PromQL selector of all spellings of these series; `more`: further label matchers."""
    by_kind: dict[str, list[str]] = {}
    plain = []
    for name in sorted(names):
        kind, colon, rest = name.partition(":")
        if colon:
            by_kind.setdefault(kind, []).append(rest.replace("_", "__?"))
        else:
            plain.append(name)
    parts = [f"{kind}(?::|__?|_3a_)({'|'.join(rests)})" for kind, rests in by_kind.items()]
    matchers = f", {more}" if more else ""
    return f'{{__name__=~"{_PREFIX}({"|".join((*parts, *plain))})"{matchers}}}'
