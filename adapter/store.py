"""The published targets, each encoded once when it is published.

A request reads them and nothing else: no lock, no optimizer, no Prometheus. What is published is replaced in
one turn of the event loop, which reads too. The controller publishes, the API server reads; neither knows the
other.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

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


class _Table:
    """Items of one metric of a namespace: all, and those of each value of the indexed label."""

    def __init__(self) -> None:
        self.entries: dict[_Labels, Entry] = {}
        self.by_variant: dict[str, dict[_Labels, Entry]] = {}

    def add(self, labels: _Labels, entry: Entry) -> None:
        self.entries[labels] = entry
        name = entry.labels.get(INDEXED_LABEL)
        if name is not None:
            self.by_variant.setdefault(name, {})[labels] = entry

    def remove(self, labels: _Labels) -> None:
        name = self.entries.pop(labels).labels.get(INDEXED_LABEL)
        if name is not None:
            of_variant = self.by_variant[name]
            del of_variant[labels]
            if not of_variant:
                del self.by_variant[name]


_EMPTY = _Table()


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
    """Holds what is served; `publish` replaces it as a whole. A provider of external metrics.

    Attributes:
        changes: Tells of everything new that is served, and of demand that wakes a variant.

    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        """`now`: Unix time, by which items expire."""
        self._now = now
        self.changes = Changes()
        self._tables: dict[_Key, _Table] = {}
        self._names: tuple[str, ...] = ()
        self._groups: dict[str, tuple[Series, ...]] = {}

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
                would sum. What was published before then stays.

        """
        gone = [key for key in self._groups if key not in groups]
        self._replace({**dict.fromkeys(gone, ()), **groups})
        for key in gone:
            del self._groups[key]
        self.changes.notify()

    def replace_groups(self, groups: Mapping[str, tuple[Series, ...]]) -> None:
        """Serve these groups instead of those of the same names; all others stay, and cost nothing.

        Raises:
            ValueError: as `publish_groups`.

        """
        if self._replace(groups):
            self.changes.notify()

    def _replace(self, groups: Mapping[str, tuple[Series, ...]]) -> bool:
        """Serve these groups; whether any of them has changed. Nothing is changed in an error."""
        last = self._groups
        changed = {key: items for key, items in groups.items() if last.get(key) != items}
        removed: dict[_Key, set[_Labels]] = {}
        added: dict[_Key, dict[_Labels, Entry]] = {}
        for name, items in changed.items():
            forms = _Forms()
            for item in last.get(name, ()):
                removed.setdefault((item.namespace, item.metric), set()).add(forms.labels(item))
            for item in items:
                entries = added.setdefault((item.namespace, item.metric), {})
                labels, shown, text = forms.of(item)
                if labels in entries:
                    raise _twice(item.metric, item.labels)
                entries[labels] = Entry(
                    shown, item.decided_at, item.valid_until, _encoded(item, text)
                )
        for key, entries in added.items():
            table, gone = self._tables.get(key, _EMPTY), removed.get(key, ())
            for labels, entry in entries.items():
                if labels in table.entries and labels not in gone:
                    raise _twice(key[1], entry.labels)
        self._change(removed, added)
        self._groups.update(changed)
        return bool(changed)

    def _change(
        self,
        removed: Mapping[_Key, Iterable[_Labels]],
        added: Mapping[_Key, Mapping[_Labels, Entry]],
    ) -> None:
        for key, items in removed.items():
            for labels in items:
                self._tables[key].remove(labels)
        for key, entries in added.items():
            table = self._tables.setdefault(key, _Table())
            for labels, entry in entries.items():
                table.add(labels, entry)
        for key in removed:
            if not self._tables[key].entries:
                del self._tables[key]
        self._names = tuple(sorted({metric for _, metric in self._tables}))

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
    return (
        f'{{"metricName":{_name(item.metric)},"metricLabels":{labels},"timestamp":"{stamp}","value":"{value}"}}'
    ).encode()


@functools.lru_cache(maxsize=256)
def _stamp(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.lru_cache(maxsize=256)
def _name(metric: str) -> str:
    return _json(metric)


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def _json(value: object) -> str:
    """Compact JSON as Go writes it."""
    text = _ENCODER.encode(value)
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
        self._sorted: dict[int, _Labels] = {}
        self._forms: dict[int, tuple[_Labels, Mapping[str, str], str]] = {}

    def labels(self, item: Series) -> _Labels:
        """Sorted."""
        labels = self._sorted.get(id(item.labels))
        if labels is None:
            labels = self._sorted[id(item.labels)] = tuple(sorted(item.labels.items()))
        return labels

    def of(self, item: Series) -> tuple[_Labels, Mapping[str, str], str]:
        """Sorted, as a copy, and as JSON."""
        form = self._forms.get(id(item.labels))
        if form is None:
            labels = dict(item.labels)
            form = self.labels(item), labels, _json(labels)
            self._forms[id(item.labels)] = form
        return form


def _twice(metric: str, labels: Mapping[str, str]) -> ValueError:
    return ValueError(f"{metric}: published twice with labels {dict(labels)}")
