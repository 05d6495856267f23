"""PodMonitors say where pods are scraped that do not say so themselves."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from adapter.resources import pods
from adapter.resources.serving import monitors


def pod(name: str = "p", *, namespace: str = "n", **notes: str) -> dict[str, Any]:
    """A pod of one server whose port is named."""
    ports = [{"name": "srv", "containerPort": 8443}, {"name": "http", "containerPort": 8080}]
    document = {
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app": "llm"},
            "annotations": {f"prometheus.io/{key}": value for key, value in notes.items()},
        },
        "spec": {"containers": [{"name": "c", "ports": ports}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip
    return dict(pods.trimmed(document))


def monitor(*endpoints: dict[str, Any], **spec: Any) -> monitors.Monitor:
    """A PodMonitor of namespace `n`, which is the adapter's, as it is kept."""
    document = {
        "metadata": {"namespace": "n", "name": "m"},
        "spec": {
            "selector": {"matchLabels": {"app": "llm"}},
            "podMetricsEndpoints": list(endpoints),
            **spec,
        },
    }
    item: monitors.Monitor = monitors.trimmed(document)["monitor"]
    return item


def urls(item: dict[str, Any], *scraped: monitors.Monitor) -> tuple[str, ...]:
    """URLs of a pod with these PodMonitors."""
    (changed,) = monitors.applied([item], scraped, trusted="n")
    scraped_urls: tuple[str, ...] = changed["urls"]
    return scraped_urls


KSERVE = {"targetPort": 8000, "scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}


@pytest.mark.parametrize(
    ("endpoints", "wanted"),
    [
        pytest.param([{"port": "srv", "scheme": "https"}], ["https://10.0.0.1:8443/metrics"], id="name"),
        pytest.param([KSERVE], ["https://10.0.0.1:8000/metrics"], id="KServe"),
        pytest.param([{"portNumber": 9, "path": "/v1/metrics"}], ["http://10.0.0.1:9/v1/metrics"], id="path"),
        pytest.param(
            [{"port": "8000"}, {"port": "8001"}, {"port": "8000"}],
            ["http://10.0.0.1:8000/metrics", "http://10.0.0.1:8001/metrics"],
            id="several",
        ),
        pytest.param([{"port": "none"}], ["http://10.0.0.1:8080/metrics"], id="no-such-port"),
        pytest.param([{"port": "srv", "scheme": "ftp"}], ["http://10.0.0.1:8080/metrics"], id="scheme"),
        pytest.param([{"port": "srv", "path": "a b"}], ["http://10.0.0.1:8080/metrics"], id="blank"),
        pytest.param([{"targetPort": 70000}], ["http://10.0.0.1:8080/metrics"], id="too-large"),
        pytest.param([], ["http://10.0.0.1:8080/metrics"], id="none"),
    ],
)  # fmt: skip
def test_port_scheme_and_path_are_those_of_the_endpoint(
    endpoints: list[dict[str, Any]], wanted: list[str]
) -> None:
    """By name or number, as published monitors have them; one that does not fit changes nothing."""
    assert list(urls(pod(), monitor(*endpoints))) == wanted


def test_annotations_of_the_pod_come_first() -> None:
    """What the pod says of itself is not overruled."""
    scraped = monitor({"port": "srv"})
    assert urls(pod(port="7"), scraped) == ("http://10.0.0.1:7/metrics",)
    assert urls(pod(scheme="https"), scraped) == ("https://10.0.0.1:8080/metrics",)


@pytest.mark.parametrize(
    ("endpoints", "ports"),
    [
        ([{"port": "rank0"}], (8200, 8201, 8202)),
        ([{"port": "rank0"}, {"port": "rank1"}], (8200, 8201, 8202)),
        ([{"port": "rank1"}], (8201,)),
        ([{"port": "rank0"}, {"port": "9"}], (8200, 9)),
        ([{"port": "rank0", "path": "/m"}], (8200,)),
    ],
)
def test_an_endpoint_at_the_first_of_a_row_stands_for_all(
    endpoints: list[dict[str, Any]], ports: tuple[int, ...]
) -> None:
    """Data-parallel engines of one pod, of which the monitor names some; other ports are as it says."""
    ranks = [{"name": f"rank{rank}", "containerPort": 8200 + rank} for rank in range(3)]
    document = {
        "metadata": {"name": "p", "namespace": "n", "labels": {"app": "llm"}},
        "spec": {
            "containers": [{"name": "c", "ports": ranks, "args": ["vllm", "serve", "--port=8200"]}]
        },
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    scraped = urls(dict(pods.trimmed(document)), monitor(*endpoints))
    assert tuple(urlsplit(url).port for url in scraped) == ports


def test_a_monitor_selects_pods_of_its_namespaces() -> None:
    """Its own, those that it names, or all; another selector is of other pods."""
    endpoint = {"port": "srv"}
    plain, changed = ("http://10.0.0.1:8080/metrics",), ("http://10.0.0.1:8443/metrics",)
    other = pod(namespace="other")
    assert urls(other, monitor(endpoint)) == plain
    assert urls(other, monitor(endpoint, namespaceSelector={"any": True})) == changed
    assert urls(other, monitor(endpoint, namespaceSelector={"matchNames": ["other"]})) == changed
    assert urls(pod(), monitor(endpoint, selector={"matchLabels": {"app": "x"}})) == plain
    assert urls(pod(), monitor(endpoint, selector={})) == plain
