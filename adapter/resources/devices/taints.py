"""Taints of nodes that keep the variants' pods away, and those that the pods tolerate.

https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LIFECYCLE = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
"""Keys of tolerations that every pod gets, and that admit it to no node that is ready."""


_OPERATORS = frozenset({None, "", "Equal", "Exists"})


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint that keeps new pods away; one of effect PreferNoSchedule does not."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        """Key, and its value where it has one."""
        return f"{self.key}={self.value}" if self.value else self.key


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration; an empty key or effect means every one."""

    key: str
    value: str | None
    effect: str

    def admits(self, taint: Taint) -> bool:
        """Whether a pod with it may go where the taint is; `value` None means any value."""
        return (
            self.key in {"", taint.key}
            and self.effect in {"", taint.effect}
            and self.value in {None, taint.value}
        )


Tolerations = frozenset[Toleration]
"""Tolerations of one pod."""

MOST_TOLERATIONS = 64
"""Most of a pod that are read: a template may list 20,000, and each of its pods has them all."""


def of_node(spec: Mapping[str, Any], tolerated: Collection[str]) -> tuple[Taint, ...]:
    """Taints of a node that keep pods away; keys in `tolerated` keep none away."""
    return tuple(
        Taint(str(item.get("key")), str(item.get("value") or ""), str(item.get("effect")))
        for item in spec.get("taints") or ()
        if item.get("effect") != "PreferNoSchedule" and item.get("key") not in tolerated
    )


def of_pod(spec: Mapping[str, Any]) -> Tolerations:
    """Tolerations of a pod or of a pod template, at most the first 64; of equal ones the same object.

    One for some seconds is of pods that are evicted then, which is no place to serve. One that compares
    numbers (`Gt`, `Lt`) admits nowhere, since no more is known of it.
    """
    blocking_taints = (
        Toleration(
            str(item.get("key") or ""),
            None if item.get("operator") == "Exists" else str(item.get("value") or ""),
            str(item.get("effect") or ""),
        )
        for item in spec.get("tolerations") or ()
        if item.get("key") not in _LIFECYCLE
        and item.get("tolerationSeconds") is None
        and item.get("operator") in _OPERATORS
    )
    return _shared(frozenset(itertools.islice(blocking_taints, MOST_TOLERATIONS)))


@functools.lru_cache(maxsize=4096)
def _shared(tolerations: Tolerations) -> Tolerations:
    """The object that stands for all that are equal: thousands of pods are of one template."""
    return tolerations


class Admission:
    """Taints that keep out even the pod that tolerates most of them, by the taints of a node.

    Nodes are many and so are the tolerations of pods, which say much of no node: of each pod counts which of
    the taints that there are it tolerates, and nodes with equal taints are compared once.
    """

    def __init__(self, nodes: Iterable[tuple[Taint, ...]], pods: Iterable[Tolerations]) -> None:
        """`nodes`: taints of each."""
        by_node = set(nodes)
        there = {taint for taints in by_node for taint in taints}
        self._admitting = admitting = dict[Toleration, set[Taint]]()
        for taint in there:
            for key, value, effect in itertools.product(
                ("", taint.key), (None, taint.value), ("", taint.effect)
            ):
                admitting.setdefault(Toleration(key, value, effect), set()).add(taint)
        admitted = {self.tolerated(tolerations) for tolerations in pods}
        self._blocking = {
            taints: min(
                [
                    taints,
                    *(tuple(item for item in taints if item not in each) for each in admitted),
                ],
                key=len,
            )
            for taints in by_node
        }

    def tolerated(self, tolerations: Tolerations) -> frozenset[Taint]:
        """The taints of these nodes that a pod tolerates."""
        return frozenset[Taint]().union(*(self._admitting.get(item, ()) for item in tolerations))

    def blocking(self, taints: tuple[Taint, ...]) -> tuple[Taint, ...]:
        """What keeps pods away from a node with these taints; none where a pod tolerates all."""
        return self._blocking[taints]
