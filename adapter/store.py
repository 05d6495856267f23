"""The targets that are served: an immutable snapshot, encoded once when published.

A GET reads the snapshot and nothing else: no lock, no optimizer, no Prometheus.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from adapter.kube import labels as selectors
from adapter.kube import quantity

INDEXED_LABEL = "variant_name"


DESIRED, CURRENT, RATIO = (
    "inferno_desired_replicas",
    "inferno_current_replicas",
    "inferno_desired_ratio",
)

OWN_METRICS = frozenset(
    name.replace("inferno_", prefix)
    for name in (DESIRED, CURRENT, RATIO)
    for prefix in ("inferno_", "wva_")
)
"""What this adapter publishes for every variant, under the reference's old and new names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One item of an `ExternalMetricValueList`.

    Attributes:
        metric: metric name, such as `inferno_desired_replicas`.
        namespace: namespace it is served in; None serves it in every namespace.
        labels: metric labels that selectors match on.
        value: a canonical quantity, such as `3` or `3500m`; never negative.
        decided_at: when the value was decided, Unix seconds; becomes the item's `timestamp`.
        valid_until: Unix seconds after which the item is left out of answers; None: no end.

    """

    metric: str
    namespace: str | None
    labels: Mapping[str, str]
    value: str
    decided_at: float
    valid_until: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One item, ready to be sent."""

    labels: Mapping[str, str]
    decided_at: float
    valid_until: float | None
    encoded: bytes


@dataclass(frozen=True, slots=True)
class _Table:
    entries: tuple[Entry, ...]
    by_variant: Mapping[str, tuple[Entry, ...]]


_Tables = Mapping[tuple[str | None, str], _Table]
_EMPTY = _Table((), {})


class TargetStore:
    """Holds the current snapshot; `publish` swaps it whole."""

    def __init__(self) -> None:
        self._tables: _Tables = MappingProxyType({})
        self._names: tuple[str, ...] = ()

    def publish(self, series: Iterable[Series]) -> None:
        """Serve exactly these series from now on.

        Raises:
            ValueError: a value is negative or no quantity, or two series are the same item; the HPA
                would sum them. The former snapshot then stays.

        """
        found: dict[tuple[str | None, str], list[Entry]] = {}
        seen: set[object] = set()
        for item in series:
            identity = (item.namespace, item.metric, tuple(sorted(item.labels.items())))
            if identity in seen:
                raise ValueError(f"{item.metric}: published twice with labels {dict(item.labels)}")
            seen.add(identity)
            entry = Entry(dict(item.labels), item.decided_at, item.valid_until, encode(item))
            found.setdefault((item.namespace, item.metric), []).append(entry)
        tables = {key: _table(entries) for key, entries in found.items()}
        self._names = tuple(sorted({metric for _, metric in tables}))
        self._tables = MappingProxyType(tables)

    def metric_names(self) -> tuple[str, ...]:
        """Names of all published metrics, sorted."""
        return self._names

    def answer(
        self, namespace: str, metric: str, selector: selectors.Selector | None, *, now: float
    ) -> list[Entry]:
        """Items that match and are still valid at Unix time `now`."""
        tables = self._tables
        wanted = selector.equality(INDEXED_LABEL) if selector else None
        items: list[Entry] = []
        for key in ((namespace, metric), (None, metric)):
            table = tables.get(key, _EMPTY)
            entries = table.entries if wanted is None else table.by_variant.get(wanted, ())
            items.extend(
                entry
                for entry in entries
                if (entry.valid_until is None or now < entry.valid_until)
                and (selector is None or selector.matches(entry.labels))
            )
        return items


def encode(item: Series) -> bytes:
    """One item of an ExternalMetricValueList as compact JSON.

    Raises:
        ValueError: the value is negative or no quantity.

    """
    if quantity.parse(item.value) < 0:
        raise ValueError(
            f"{item.metric}: {item.value} is negative; the HPA would scale to its maximum"
        )
    stamp = datetime.fromtimestamp(int(item.decided_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "metricName": item.metric,
        "metricLabels": dict(item.labels),
        "timestamp": stamp,
        "value": quantity.canonical(item.value),
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    for character, escaped in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(character, escaped)
    return text.encode()


def _table(entries: list[Entry]) -> _Table:
    by_variant: dict[str, list[Entry]] = {}
    for entry in entries:
        if INDEXED_LABEL in entry.labels:
            by_variant.setdefault(entry.labels[INDEXED_LABEL], []).append(entry)
    return _Table(tuple(entries), {name: tuple(found) for name, found in by_variant.items()})
