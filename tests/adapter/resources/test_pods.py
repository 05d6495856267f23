"""Pods by what selectors demand, and where their metrics are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter.kube import labels as selectors
from adapter.resources import pods


def pod(name: str = "p", *, ready: bool = True, **more: Any) -> dict[str, Any]:
    """A running pod; `more` goes over its metadata, spec and status."""
    return {
        "metadata": {
            "namespace": "n",
            "name": name,
            "labels": {"app": "v"},
            **more.get("metadata", {}),
        },
        "spec": {"containers": [{"name": "c"}], **more.get("spec", {})},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            **more.get("status", {}),
        },
    }


def ports(*named: tuple[str, int]) -> dict[str, Any]:
    listed = [{"name": name, "containerPort": number} for name, number in named]
    return {"containers": [{"name": "c", "ports": listed}]}


@pytest.mark.parametrize(
    ("item", "url"),
    [
        (pod(), "http://10.0.0.1:8000/metrics"),
        (pod(spec=ports(("x", 9000))), "http://10.0.0.1:9000/metrics"),
        (pod(spec=ports(("grpc", 1), ("http", 8080))), "http://10.0.0.1:8080/metrics"),
        (pod(spec=ports(("http", 8080), ("metrics", 9))), "http://10.0.0.1:9/metrics"),
        (pod(metadata={"annotations": {pods.PORT: "7"}}), "http://10.0.0.1:7/metrics"),
        (
            pod(
                spec=ports(("web", 5)), metadata={"annotations": {pods.PORT: "web", pods.PATH: "m"}}
            ),
            "http://10.0.0.1:5/m",
        ),
        (pod(metadata={"annotations": {pods.SCHEME: "https"}}), "https://10.0.0.1:8000/metrics"),
        (pod(status={"podIP": "fd00::1"}), "http://[fd00::1]:8000/metrics"),
        (pod(status={"podIP": ""}), ""),
    ],
)
def test_where_metrics_are(item: dict[str, Any], url: str) -> None:
    """By annotation, else the port with a telling name, else the only one, else vLLM's default."""
    assert pods.trimmed(item)["url"] == url


def test_pods_that_are_not_ready_or_end_are_not_scraped() -> None:
    """Neither takes requests, and a pod without an address cannot be asked."""
    ending = pod("b", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    items = [pod("a"), pod("c", ready=False), ending, pod("d", status={"podIP": ""})]
    index = pods.ByLabel(pods.trimmed(item) for item in items)
    serving = index.serving("n", selectors.parse("app=v"))
    assert serving.endpoints == ("http://10.0.0.1:8000/metrics",)
    assert serving.names == ("a",)


labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)


@given(
    items=st.lists(st.tuples(st.sampled_from(["n", "m"]), labels), max_size=12),
    wanted=st.lists(
        st.sampled_from(["a=x", "b in (x,y)", "c", "!a", "b!=z", "c notin (x)"]), min_size=1
    ),
)
def test_the_index_finds_what_a_look_at_each_finds(
    items: list[tuple[str, dict[str, str]]], wanted: list[str]
) -> None:
    """Pods that match, and only those of the namespace."""
    selector = selectors.parse(",".join(wanted))
    listed = [
        pods.trimmed(pod(str(number), metadata={"namespace": space, "labels": own_labels}))
        for number, (space, own_labels) in enumerate(items)
    ]
    fast = pods.ByLabel(listed).matching("n", selector)
    slow = [
        item
        for item in listed
        if item["metadata"]["namespace"] == "n" and selector.matches(item["metadata"]["labels"])
    ]
    assert sorted(map(str, fast)) == sorted(map(str, slow))


def test_selectors_of_objects() -> None:
    """All four operators; one that is not known selects nothing rather than everything."""
    selector = selectors.selector_of(
        {
            "matchLabels": {"a": "x"},
            "matchExpressions": [
                {"key": "b", "operator": "In", "values": ["x", "y"]},
                {"key": "c", "operator": "DoesNotExist"},
                {"key": "d", "operator": "Exists"},
                {"key": "e", "operator": "NotIn", "values": ["z"]},
            ],
        }
    )
    assert selector.matches({"a": "x", "b": "y", "d": "1"})
    assert not selector.matches({"a": "x", "b": "y", "d": "1", "e": "z"})
    unknown = selectors.selector_of(
        {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}
    )
    everything = pods.ByLabel([pods.trimmed(pod())])
    assert everything.matching("n", unknown) == []
    assert everything.matching("n", selectors.selector_of({})) == []
    assert everything.matching("n", selectors.parse_lenient("=")) == []


GPU = "nvidia.com/gpu"


def gpus(
    count: object, more: Mapping[str, object] | None = None, *, always: bool = False
) -> dict[str, Any]:
    """A container that asks for GPUs; `always` makes a sidecar of an init container."""
    container: dict[str, Any] = {"resources": {"limits": {GPU: count, "cpu": "1", **(more or {})}}}
    return {**container, "restartPolicy": "Always"} if always else container


@pytest.mark.parametrize(
    ("containers", "first", "held"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param([{}, {"resources": {}}], [], {}, id="no resources"),
        pytest.param([gpus(2), gpus("3")], [], {GPU: 5}, id="containers add up"),
        pytest.param([gpus(1)], [gpus(4), gpus(3)], {GPU: 4}, id="the largest init container"),
        pytest.param([gpus(4)], [gpus(1)], {GPU: 4}, id="or all containers"),
        pytest.param([gpus(1)], [gpus(2, always=True)], {GPU: 3}, id="sidecars stay"),
        pytest.param(
            [gpus(1)],
            [gpus(2, always=True), gpus(4)],
            {GPU: 6},
            id="an init container beside the sidecars before it",
        ),
        pytest.param(
            [gpus(1)],
            [gpus(4), gpus(2, always=True)],
            {GPU: 4},
            id="but not beside those after it",
        ),
        pytest.param(
            [gpus(0, {"amd.com/gpu": 1})],
            [gpus(2, {"amd.com/gpu": 0})],
            {GPU: 2, "amd.com/gpu": 1},
            id="each resource by itself",
        ),
        pytest.param([{"resources": {"requests": {GPU: "1"}}}], [], {GPU: 1}, id="requests"),
        pytest.param(
            [{"resources": {"requests": {GPU: "1"}, "limits": {GPU: "1"}}}],
            [],
            {GPU: 1},
            id="requests and limits are the same",
        ),
        pytest.param([gpus("1k")], [], {GPU: 1000}, id="a quantity with a suffix"),
        pytest.param([gpus("many")], [], {}, id="no quantity"),
    ],
)
def test_what_a_pod_holds(
    containers: list[dict[str, Any]], first: list[dict[str, Any]], held: dict[str, int]
) -> None:
    """Extended resources, as the scheduler counts them for containers, init containers and sidecars."""
    item = pod(spec={"containers": containers, "initContainers": first})
    assert pods.trimmed(item)["requests"] == held


def test_gated_pods_are_not_starting() -> None:
    """What Kueue holds is counted apart, and its wait is no part of a start."""
    labels = {"app": "v", "kueue.x-k8s.io/queue-name": "q"}
    gated = pods.trimmed(
        {
            "metadata": {"namespace": "n", "name": "waits", "labels": labels},
            "spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]},
            "status": {"phase": "Pending"},
        }
    )
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T01:00:00Z"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T01:02:00Z"},
    ]
    created = "2026-01-01T00:00:00Z"
    item: dict[str, Any] = {
        "metadata": {
            "namespace": "n",
            "name": "runs",
            "labels": labels,
            "creationTimestamp": created,
        },
        "status": {"podIP": "10.0.0.1", "conditions": conditions},
    }
    runs = pods.trimmed(item)
    serving = pods.ByLabel([gated, runs]).serving("n", selectors.parse_lenient("app=v"))
    assert (serving.gated, len(serving.endpoints), serving.startup_seconds) == (1, 1, 120)
    del item["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert pods.trimmed(item)["startup_seconds"] == 3720
