"""Endpoint pickers that InferencePools name: which pods they are, and whose requests they count."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.serving import pools

NEW = {
    "selector": {"matchLabels": {"app": "llm"}},
    "endpointPickerRef": {"kind": "Service", "name": "epp", "port": {"number": 9002}},
}
OLD = {"selector": {"app": "llm"}, "extensionRef": {"name": "epp"}}


def pool(spec: dict[str, Any]) -> pools.Pool:
    """A pool as it is kept."""
    item: pools.Pool = pools.trimmed({"metadata": {"namespace": "n", "name": "p"}, "spec": spec})[
        "pool"
    ]
    return item


def picker(
    name: str,
    address: str,
    *,
    ready: bool = True,
    ports: Any = (),
    args: Any = (),
    beside: Any = (),
    **notes: str,
) -> dict[str, Any]:
    """A pod of an endpoint picker, and containers beside it."""
    own = {"name": "epp", "ports": list(ports), "args": list(args)}
    return dict(
        pods.trimmed(
            {
                "metadata": {
                    "name": name,
                    "namespace": "n",
                    "labels": {"app": "epp"},
                    "annotations": {f"prometheus.io/{key}": value for key, value in notes.items()},
                },
                "spec": {"containers": [own, *beside]},
                "status": {
                    "podIP": address,
                    "conditions": [{"type": "Ready", "status": str(ready)}],
                },
            }
        )
    )


def urls(*running: dict[str, Any], spec: Any = None, served: Any = None) -> list[str]:
    """Metrics URLs of the pickers of one pool."""
    picked = pools.Picked("n", pool(spec or NEW), labels.parse("app=epp"))
    where = {"n": [{"app": "llm"}]} if served is None else served
    return [url for _, url in pools.endpoints([picked], pods.ByLabel(running), where)]


@pytest.mark.parametrize("spec", [NEW, OLD], ids=["v1", "v1alpha2"])
def test_both_published_shapes_name_pods_and_picker(spec: dict[str, Any]) -> None:
    """Selector and picker of `inference.networking.k8s.io/v1`, and of the version before."""
    assert pool(spec) == pools.Pool(labels.parse("app=llm"), "epp")


@pytest.mark.parametrize(
    "spec", [{}, {"selector": {}}, {**NEW, "endpointPickerRef": {"kind": "X", "name": "epp"}}]
)
def test_a_pool_without_pods_or_picker_has_no_endpoint(spec: dict[str, Any]) -> None:
    """A reference that is optional and absent, or of another kind than a Service, names no picker."""
    item = pool(spec)
    assert not item.service or not item.selector.requirements


def test_the_metrics_port_is_9090_unless_the_pods_say_otherwise() -> None:
    """The port of the reference is that of the gateway's calls, which has no metrics."""
    grpc = {"name": "grpc", "containerPort": 9002}
    assert urls(picker("a", "10.0.0.1", ports=[grpc])) == ["http://10.0.0.1:9090/metrics"]
    named = [grpc, {"name": "metrics", "containerPort": 9091}]
    assert urls(picker("a", "10.0.0.1", ports=named)) == ["http://10.0.0.1:9091/metrics"]
    assert urls(picker("a", "10.0.0.1", port="7", scheme="https")) == ["https://10.0.0.1:7/metrics"]
    assert urls(picker("a", "fd00::1")) == ["http://[fd00::1]:9090/metrics"]


def test_a_picker_says_by_its_flags_where_its_metrics_are_and_how_it_serves_them() -> None:
    """The chart declares 9090 whatever the flag is; certificates of its calls are not those of metrics."""
    declared = [{"name": "metrics", "containerPort": 9090}]

    def url(*args: str) -> str:
        (only,) = urls(picker("a", "10.0.0.1", ports=declared, args=args))
        return only

    assert url("--metrics-port=9191") == "http://10.0.0.1:9191/metrics"
    assert url("--metrics-port", "9191") == "http://10.0.0.1:9191/metrics"
    assert url("-metrics-port", "9191") == url("-metricsPort", "9191") == url("--metrics-port=9191")
    assert url("--metrics-cert-dir=/certs") == "https://10.0.0.1:9090/metrics"
    assert url("--metrics-cert-dir", "/certs") == "https://10.0.0.1:9090/metrics"
    assert url("--metrics-cert-dir=", "--tracing=false") == "http://10.0.0.1:9090/metrics"
    assert url("--secure-serving=true", "--cert-path=/tls") == "http://10.0.0.1:9090/metrics"


def test_only_pools_that_route_to_pods_of_variants_count() -> None:
    """Pools of others, and those of another namespace, are not ours."""
    one = picker("a", "10.0.0.1")
    assert urls(one, served={"n": [{"app": "other"}]}) == []
    assert urls(one, served={"m": [{"app": "llm"}]}) == []
    assert urls(one, spec={**NEW, "selector": {}}) == []


def test_of_several_pickers_those_that_are_ready_count() -> None:
    """One leads where there are several; while none is ready, all are asked."""
    lead, spare = picker("a", "10.0.0.1"), picker("b", "10.0.0.2", ready=False)
    assert urls(lead, spare) == ["http://10.0.0.1:9090/metrics"]
    assert len(urls(spare)) == 1


def test_the_certificate_of_a_container_beside_a_picker_is_not_the_pickers() -> None:
    """A renderer of prompts in its pod serves by https at a port of its own."""
    render = {
        "name": "prompts",
        "command": ["vllm", "launch", "render", "m", "--port=8000", "--ssl-certfile=/tls.crt"],
        "ports": [{"name": "render-http", "containerPort": 8000}],
    }
    declared = [{"name": "metrics", "containerPort": 9090}]
    assert urls(picker("a", "10.0.0.1", ports=declared, beside=[render])) == [
        "http://10.0.0.1:9090/metrics"
    ]
