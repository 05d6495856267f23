"""Pods that a selector matches and another workload has: they are the other one's alone."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.kube import labels
from adapter.kube.scale import Reference
from adapter.resources import pods
from adapter.resources.pods import ByLabel
from adapter.resources.serving import groups, owners


def pod(name: str, owner: tuple[str, str] | None, **more: str) -> dict[str, Any]:
    """A ready pod with label `app=llm`."""
    number = sum(map(ord, name)) % 250 + 1
    references = [] if owner is None else [
        {"kind": "Extra", "name": "no-controller"},
        {"kind": owner[0], "name": owner[1], "controller": True},
    ]  # fmt: skip
    return {
        "metadata": {
            "namespace": "n",
            "name": name,
            "labels": {"app": "llm", **{key.replace("_", "-"): value for key, value in more.items()}},
            "ownerReferences": references,
        },
        "spec": {"containers": [{"name": "vllm"}]},
        "status": {
            "phase": "Running",
            "podIP": f"10.0.0.{number}",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }  # fmt: skip


ALL = (
    pod("own", ("ReplicaSet", "llm-5d9"), pod_template_hash="5d9"),
    pod("canary", ("ReplicaSet", "llm-canary-7f6"), pod_template_hash="7f6"),
    pod("set", ("StatefulSet", "llm")),
    pod("job", ("Job", "llm")),
    pod("bare", None),
    pod("odd", ("ReplicaSet", "llm-x")),
    pod("custom", ("Ranked", "llm")),
)


@pytest.mark.parametrize(
    ("workload", "names"),
    [
        (("Deployment", "llm"), {"own", "bare", "odd", "custom"}),
        (("Deployment", "llm-canary"), {"canary", "bare", "odd", "custom"}),
        (("StatefulSet", "llm"), {"set", "bare", "odd", "custom"}),
        (("LeaderWorkerSet", "llm"), {"own", "canary", "set", "job", "bare", "odd", "custom"}),
    ],
)
def test_pods_of_other_workloads_are_theirs(workload: tuple[str, str], names: set[str]) -> None:
    """By the controller of the pod; one that is not known, and kinds that group pods, leave none out."""
    by_label = ByLabel(pods.trimmed(item) for item in ALL)
    selector = labels.parse_lenient("app=llm")
    serving = by_label.serving("n", selector, workload)
    assert set(serving.names) == names
    assert len(by_label.of_workload("n", selector, workload)) == len(names) == serving.existing


@pytest.mark.parametrize("there", [False, True])
def test_pods_of_a_replica_set_that_another_deployment_adopted_are_its_own(*, there: bool) -> None:
    """A Deployment renamed without its pods: the ReplicaSet keeps the name that the first one gave it."""
    every = {("n", "llm-new"), ("other", "llm")} | ({("n", "llm")} if there else set())
    by_label = ByLabel(map(pods.trimmed, ALL[:2]), deployments=[*every, ("n", "llm-canary")])
    selector = labels.parse_lenient("app=llm")
    names = by_label.serving("n", selector, ("Deployment", "llm-new")).names
    assert set(names) == (set() if there else {"own"})


@pytest.mark.parametrize(
    ("kind", "name", "selector", "owner"),
    [
        ("ReplicaSet", "llm-5d9", "pod-template-hash=5d9", ("Deployment", "llm")),
        ("ReplicaSet", "orphan-5d9", "pod-template-hash=5d9", None),
        ("ReplicaSet", "llm", "app=llm", None),
        ("ReplicaSet", "r-5d9", "rollouts-pod-template-hash=5d9", ("Rollout", "r")),
        ("StatefulSet", "l", "leaderworkerset.sigs.k8s.io/name=l", ("LeaderWorkerSet", "l")),
        ("StatefulSet", "llm-5d9", "pod-template-hash=5d9", None),
    ],
)
def test_the_selector_of_a_part_names_what_made_it(
    kind: str, name: str, selector: str, owner: tuple[str, str] | None
) -> None:
    """A ReplicaSet whose Deployment is gone stands alone, as one that nothing made."""
    reference = Reference(name=name, kind=kind)
    stated = labels.parse_lenient(selector)
    assert owners.made_by("n", reference, stated, {("n", "llm")}) == owner


def test_one_role_of_an_object_with_several_is_one_target() -> None:
    """Its scaler and the set that its controller makes have the same pods; other pods are of none."""
    of = "disaggregatedset.x-k8s.io"
    first = {"metadata": {"labels": {f"{of}/name": "ds", f"{of}/role": "decode"}}}
    second = {"metadata": {"labels": {f"{of}/name": "ds", f"{of}/role": "prefill"}}}
    assert owners.of_role([first, first]) == "DisaggregatedSet ds, role decode"
    assert owners.of_role([first, second]) == ""
    assert owners.of_role([first, {"metadata": {"labels": {}}}]) == ""
    assert owners.of_role([]) == ""


def test_leaders_of_a_role_stand_for_their_groups() -> None:
    """Its scaler's selector names the set of all roles, and the leaders of all of its groups."""
    text = "disaggregatedset.x-k8s.io/name=ds,leaderworkerset.sigs.k8s.io/worker-index=0"
    selector, _ = labels.explained_text(text)
    assert str(groups.members(selector).equalities()) == "{'disaggregatedset.x-k8s.io/name': 'ds'}"
