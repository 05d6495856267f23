"""Pods by label, and how many of them the selectors of one namespace may be compared with.

Everybody's objects are joined at once: a namespace whose thousands of selectors are all about the same
thousands of pods would take minutes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from adapter import errors
from adapter.kube import labels

LOOKS, LOOKS_PER_POD, LOOKS_PER_MATCH = 500_000, 40, 10
"""Comparisons of selectors with pods of one namespace: at most so many, and some for each pod there; a match
counts more. Selectors that are each about pods of their own take far fewer."""


class OverlapError(errors.InputError):
    """The selectors of one namespace are about so many pods that further ones are not compared."""

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"the selectors of namespace {namespace} match the same pods too often, and this one was not"
            " compared; let each select its own pods"
        )


class Index:
    """Pods by namespace and label."""

    def __init__(self, pods: Iterable[Mapping[str, Any]]) -> None:
        self.by_namespace: dict[str, list[Mapping[str, Any]]] = {}
        self._by_label: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for pod in pods:
            namespace = pod["metadata"]["namespace"]
            self.by_namespace.setdefault(namespace, []).append(pod)
            for key, value in pod["metadata"]["labels"].items():
                self._by_label.setdefault((namespace, key, value), []).append(pod)

    def among(self, namespace: str, selector: labels.Selector) -> list[Mapping[str, Any]]:
        """Few pods, among which are all that the selector matches."""
        among = self.by_namespace.get(namespace, [])
        for key, value in selector.equalities().items():
            labelled = self._by_label.get((namespace, key, value), [])
            among = min(among, labelled, key=len)
        return among


class Looks:
    """Comparisons of selectors with pods, by namespace."""

    def __init__(self) -> None:
        self._spent: Counter[str] = Counter()

    def check(self, namespace: str, *, pods: int) -> None:
        """Whether the next selector may be compared; `pods`: those of the namespace.

        Raises:
            OverlapError: it may not.

        """
        if self._spent[namespace] > LOOKS + LOOKS_PER_POD * pods:
            raise OverlapError(namespace)

    def note(self, namespace: str, *, compared: int, matching: int) -> None:
        """Count the comparisons of a selector."""
        self._spent[namespace] += compared + LOOKS_PER_MATCH * matching
