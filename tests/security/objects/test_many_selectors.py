"""Thousands of selectors about the same thousands of pods: what is compared grows with the objects."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.serving import pools, selection

MANY = 300


class Labels(dict[str, str]):
    """Labels that count the looks at them."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        Labels.looks += 1
        return super().get(key, default)


def pod(number: int, owner: tuple[str, str] | None, namespace: str = "n") -> Mapping[str, Any]:
    """A pod that the selector of every workload of its namespace matches."""
    return {
        "metadata": {
            "namespace": namespace,
            "name": f"p{number}",
            "labels": Labels(app="v", pod=f"{number}"),
        },
        "owner": owner,
    }


def test_pods_of_other_workloads_are_not_looked_at() -> None:
    """Deployments may have one selector where each has pods of its own: by owner references."""
    names = [("Deployment", f"d{number}") for number in range(MANY)]
    index = pods.ByLabel(pod(number, owner) for number, owner in enumerate(names))
    Labels.looks = 0
    for number, owner in enumerate(names):
        (one,) = index.of_workload("n", labels.parse("app=v"), owner)
        assert one["metadata"]["name"] == f"p{number}"
    assert Labels.looks <= 2 * MANY


def test_selectors_about_everybodys_pods_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selectors of one namespace are compared up to the bound; those of another namespace all are."""
    monkeypatch.setattr(selection, "LOOKS", 100 * MANY)
    every = [pod(number, None) for number in range(MANY)]
    index = pods.ByLabel([*every, pod(0, None, "other")])
    Labels.looks = 0

    def compare(number: int) -> int:
        # No two selectors are equal.
        selector = labels.parse(f"app=v,pod!=x{number}")
        return len(index.of_workload("n", selector, ("Deployment", f"d{number}")))

    compared = 0
    with contextlib.suppress(selection.OverlapError):
        while compared < MANY:
            assert compare(compared) == MANY
            compared += 1
    assert 1 < compared < MANY
    with pytest.raises(selection.OverlapError, match="namespace n match"):
        compare(MANY)
    assert Labels.looks <= 100 * MANY + 50 * MANY
    assert index.matching("other", labels.parse("app=v"))


def test_pools_look_for_their_pods_by_label() -> None:
    """Each of hundreds was compared with the pods of all variants of its namespace."""
    labelled = {"n": [Labels(pod=f"{number}") for number in range(MANY)]}
    picked = [
        pools.Picked("n", pools.Pool(labels.parse(f"pod=none-{number}"), "s"), labels.parse("a=b"))
        for number in range(MANY)
    ]
    Labels.looks = 0
    assert pools.endpoints(picked, pods.ByLabel([]), labelled) == ()
    assert Labels.looks <= MANY
