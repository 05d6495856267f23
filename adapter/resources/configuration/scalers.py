"""HPAs by what they scale and by the series that they read, so that no variant looks at those of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from adapter.kube.scale import Reference
from adapter.resources import hpa

MOST_SERIES = 16
"""Most values of a label in a selector for which an HPA is looked up: none names more series by mistake."""

_LABELS = tuple(hpa.served_labels(namespace="", name="", model="", accelerator=""))
"""Names of the labels that series are served with."""

_Identity = tuple[str, str, str]
"""Group, kind and name of a scale target, in whatever version it is named."""

_Names = tuple[str, ...]
_Key = tuple[str, _Names, tuple[str, ...]]
"""Namespace, names of labels and their values."""


class Scalers:
    """HPAs of all namespaces, in the order in which they were given."""

    def __init__(self, scalers: Iterable[hpa.Scaler] = ()) -> None:
        self._by_target: dict[tuple[str, _Identity], list[hpa.Scaler]] = {}
        self._by_series: dict[_Key, list[tuple[int, hpa.Scaler]]] = {}
        self._names: dict[str, set[_Names]] = {}
        for place, item in enumerate(scalers):
            target = (item.namespace, item.reference.identity)
            self._by_target.setdefault(target, []).append(item)
            if not item.by_keda:
                for names, values in dict.fromkeys(_series_of(item)):
                    self._names.setdefault(item.namespace, set()).add(names)
                    key = (item.namespace, names, values)
                    self._by_series.setdefault(key, []).append((place, item))

    def of_target(self, namespace: str, reference: Reference) -> Sequence[hpa.Scaler]:
        """Those that scale a target."""
        return self._by_target.get((namespace, reference.identity), ())

    def of_another_target(
        self, namespace: str, reference: Reference, served: Mapping[str, str]
    ) -> hpa.Scaler | None:
        """The first that reads the series with these labels and scales another target; None without any.

        KEDA's do not count: they read the series of the target that they scale.
        """
        own = reference.identity
        first: tuple[int, hpa.Scaler] | None = None
        for names in self._names.get(namespace, ()):
            values = tuple(served[name] for name in names)
            for place, item in self._by_series.get((namespace, names, values), ()):
                if first is not None and place > first[0]:
                    break
                if item.reference.identity != own and item.reads(served):
                    first = (place, item)
                    break
        return None if first is None else first[1]


def _series_of(scaler: hpa.Scaler) -> Iterator[tuple[_Names, tuple[str, ...]]]:
    """Labels and values of all series that an HPA may read; further terms of its selectors exclude some.

    A selector that lists several values of a label stands under each of them; one that lists very many does
    not, as an entry for each would take memory without bound.
    """
    for reading in scaler.readings:
        allowed = {
            item.key: item.values
            for item in reversed(reading.selector.requirements)
            if item.operator in {"=", "in"}
        }
        if reading.unread or not allowed.keys() <= set(_LABELS):
            continue  # no selector, or a label that is not served: it reads nothing
        if any(len(values) > MOST_SERIES for values in allowed.values()):
            continue
        several = next((name for name in _LABELS if len(allowed.get(name, "-")) > 1), None)
        names = tuple(
            name
            for name in _LABELS
            if name in allowed and (name == several or len(allowed[name]) == 1)
        )
        for value in allowed.get(several or "", ("",)):
            yield names, tuple(value if name == several else allowed[name][0] for name in names)
