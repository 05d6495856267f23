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


MOST_INDEXED = 64
"""Most labels by which a pod is found: one with more is compared with every selector of its namespace."""


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
        self._apart: dict[str, list[Mapping[str, Any]]] = {}
        for pod in pods:
            namespace = pod["metadata"]["namespace"]
            self.by_namespace.setdefault(namespace, []).append(pod)
            labelled = pod["metadata"]["labels"]
            if len(labelled) > MOST_INDEXED:
                self._apart.setdefault(namespace, []).append(pod)
                continue
            for key, value in labelled.items():
                self._by_label.setdefault((namespace, key, value), []).append(pod)

    def among(self, namespace: str, selector: labels.Selector) -> list[Mapping[str, Any]]:
        """Few pods, among which are all that the selector matches."""
        among = [
            self._by_label.get((namespace, key, value), [])
            for key, value in selector.equalities().items()
        ]
        if not among:
            return self.by_namespace.get(namespace, [])
        apart = self._apart.get(namespace)
        fewest = min(among, key=len)
        return [*fewest, *apart] if apart else fewest


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
