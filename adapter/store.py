"""The published targets: an immutable snapshot, encoded once when it is published.

A request reads the snapshot and nothing else: no lock, no optimizer, no Prometheus. The controller
publishes, the API server reads; neither knows the other.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from adapter.kube import labels as selectors
from adapter.kube import quantity

INDEXED_LABEL = "variant_name"
"""Label that HPAs select by; a selector of one value of it reads an index."""

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
"""Metrics of every variant, under the old and the new names of the workload-variant-autoscaler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One item of an `ExternalMetricValueList`.

    Attributes:
        metric: Metric name, such as `inferno_desired_replicas`.
        namespace: Namespace that it is served in; None serves it in every namespace.
        labels: Metric labels that selectors match.
        value: Canonical quantity, such as `3` or `3500m`; never negative.
        decided_at: Unix time of the decision; becomes the item's `timestamp`.
        valid_until: Unix time after which the item is left out of answers; None: no end.

    """

    metric: str
    namespace: str | None
    labels: Mapping[str, str]
    value: str
    decided_at: float
    valid_until: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as it is sent.

    Attributes:
        labels: Metric labels that selectors match.
        decided_at: Unix time of the decision.
        valid_until: Unix time after which the item is left out of answers; None: no end.
        encoded: The item as compact JSON.

    """

    labels: Mapping[str, str]
    decided_at: float
    valid_until: float | None
    encoded: bytes


_Labels = tuple[tuple[str, str], ...]
"""What tells the items of a metric apart: its labels, sorted."""

_Key = tuple[str | None, str]
"""Namespace and metric."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Items of one metric of a namespace: all, and those of each value of the indexed label."""

    entries: Mapping[_Labels, Entry]
    by_variant: Mapping[str, Mapping[_Labels, Entry]]


_Tables = Mapping[_Key, _Table]
_EMPTY = _Table({}, {})


class Changes:
    """Wakes all who wait for a change; who looks and waits without an `await` between misses none."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake everybody who waits now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for the next change, or at most so many seconds."""
        event = self._event
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return


class TargetStore:
    """Holds the current snapshot; `publish` replaces it as a whole. A provider of external metrics.

    Attributes:
        changes: Tells of every new snapshot, and of demand that wakes a variant.

    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        """`now`: Unix time, by which items expire."""
        self._now = now
        self.changes = Changes()
        self._tables: _Tables = MappingProxyType({})
        self._names: tuple[str, ...] = ()
        self._groups: Mapping[str, tuple[Series, ...]] = {}

    def publish(self, series: Iterable[Series]) -> None:
        """Serve exactly these series from now on.

        Raises:
            ValueError: as `publish_groups`.

        """
        self.publish_groups({"": tuple(series)})

    def publish_groups(self, groups: Mapping[str, tuple[Series, ...]]) -> None:
        """Serve exactly the series of these groups; what has not changed costs nothing.

        Raises:
            ValueError: a value is negative or not a quantity, or two series are the same item, which the HPA
                would sum. The last snapshot then stays.

        """
        last = self._groups
        changed = [key for key, items in groups.items() if last.get(key) != items]
        stale = [*changed, *(key for key in last if key not in groups)]
        self._replace(stale, {key: groups[key] for key in changed}, dict(groups))

    def replace_groups(self, groups: Mapping[str, tuple[Series, ...]]) -> None:
        """Serve these groups instead of those of the same names; all others stay, and cost nothing.

        Raises:
            ValueError: as `publish_groups`.

        """
        last = self._groups
        changed = {key: items for key, items in groups.items() if last.get(key) != items}
        if changed:
            self._replace(list(changed), changed, {**last, **changed})

    def _replace(
        self,
        stale: Iterable[str],
        changed: Mapping[str, tuple[Series, ...]],
        groups: Mapping[str, tuple[Series, ...]],
    ) -> None:
        """Serve these groups, which differ from the last ones in what is stale and what has changed."""
        removed: dict[_Key, list[_Labels]] = {}
        for name in stale:
            forms = _Forms()
            for item in self._groups.get(name, ()):
                removed.setdefault((item.namespace, item.metric), []).append(forms.of(item)[0])
        added: dict[_Key, dict[_Labels, Entry]] = {}
        for items in changed.values():
            forms = _Forms()
            for item in items:
                entries = added.setdefault((item.namespace, item.metric), {})
                labels, shown, text = forms.of(item)
                if labels in entries:
                    raise _twice(item.metric, item.labels)
                entries[labels] = Entry(
                    shown, item.decided_at, item.valid_until, _encoded(item, text)
                )
        tables = dict(self._tables)
        for key in removed.keys() | added.keys():
            table = _replaced(
                key[1], tables.get(key, _EMPTY), removed.get(key, ()), added.get(key, {})
            )
            tables[key] = table
            if not table.entries:
                del tables[key]
        self._groups = groups
        self._names = tuple(sorted({metric for _, metric in tables}))
        self._tables = MappingProxyType(tables)
        self.changes.notify()

    def list_external_metrics(self) -> tuple[str, ...]:
        """Names of all published metrics, sorted."""
        return self._names

    async def get_external_metric(
        self, namespace: str, name: str, selector: selectors.Selector
    ) -> list[Entry]:
        """Items of a metric that match and are valid now."""
        return self.answer(
            namespace, name, selector if selector.requirements else None, now=self._now()
        )

    def answer(
        self, namespace: str, metric: str, selector: selectors.Selector | None, *, now: float
    ) -> list[Entry]:
        """Items that match and are valid at Unix time `now`; without a selector all match."""
        tables = self._tables
        variant = selector.equality(INDEXED_LABEL) if selector else None
        items: list[Entry] = []
        for key in ((namespace, metric), (None, metric)):
            table = tables.get(key, _EMPTY)
            entries = table.entries if variant is None else table.by_variant.get(variant, {})
            items.extend(
                entry
                for entry in entries.values()
                if (entry.valid_until is None or now < entry.valid_until)
                and (selector is None or selector.matches(entry.labels))
            )
        return items


def encode(item: Series) -> bytes:
    """One item of an ExternalMetricValueList as compact JSON.

    Raises:
        ValueError: the value is negative or not a quantity.

    """
    return _encoded(item, _json(dict(item.labels)))


def _encoded(item: Series, labels: str) -> bytes:
    """The same, from its labels as JSON."""
    if quantity.parse(item.value) < 0:
        raise ValueError(
            f"{item.metric}: {item.value} is negative; the HPA would scale to its maximum"
        )
    stamp, value = _stamp(int(item.decided_at)), quantity.canonical(item.value)
    name = _json(item.metric)
    return (
        f'{{"metricName":{name},"metricLabels":{labels},"timestamp":"{stamp}","value":"{value}"}}'
    ).encode()


@functools.lru_cache(maxsize=256)
def _stamp(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: object) -> str:
    """Compact JSON as Go writes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character, escaped in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(character, escaped)
    return text


class _Forms:
    """Labels of the series of one group in the forms that are kept; mostly they are one object."""

    def __init__(self) -> None:
        self._forms: dict[int, tuple[_Labels, Mapping[str, str], str]] = {}

    def of(self, item: Series) -> tuple[_Labels, Mapping[str, str], str]:
        """Sorted, as a copy, and as JSON."""
        form = self._forms.get(id(item.labels))
        if form is None:
            labels = dict(item.labels)
            form = tuple(sorted(labels.items())), labels, _json(labels)
            self._forms[id(item.labels)] = form
        return form


def _twice(metric: str, labels: Mapping[str, str]) -> ValueError:
    return ValueError(f"{metric}: published twice with labels {dict(labels)}")


def _replaced(
    metric: str, table: _Table, removed: Iterable[_Labels], added: Mapping[_Labels, Entry]
) -> _Table:
    """The table without some of its items and with others, which must not be there already."""
    entries = dict(table.entries)
    by_variant = dict(table.by_variant)
    renewed: dict[str, dict[_Labels, Entry]] = {}

    def of_variant(entry: Entry) -> dict[_Labels, Entry] | None:
        name = entry.labels.get(INDEXED_LABEL)
        if name is None:
            return None
        if name not in renewed:
            renewed[name] = by_variant[name] = dict(by_variant.get(name, {}))
        return renewed[name]

    for labels in removed:
        indexed = of_variant(entries.pop(labels))
        if indexed is not None:
            del indexed[labels]
    for labels, entry in added.items():
        if labels in entries:
            raise _twice(metric, entry.labels)
        entries[labels] = entry
        indexed = of_variant(entry)
        if indexed is not None:
            indexed[labels] = entry
    for name, items in renewed.items():
        if not items:
            del by_variant[name]
    return _Table(entries, by_variant)
