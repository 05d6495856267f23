"""ServiceMonitors say where the pods behind a Service are scraped, as PodMonitors do of pods."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.resources.serving import monitors
from tests.adapter.resources.serving.test_monitors import pod


def service(*ports: dict[str, Any], **selector: str) -> monitors.Service:
    """A Service of the pods with `app: llm`."""
    document = {
        "metadata": {"namespace": "n", "name": "s", "labels": {"scraped": "yes"}},
        "spec": {"selector": selector or {"app": "llm"}, "ports": list(ports)},
    }
    item: monitors.Service = monitors.trimmed_service(document)["service"]
    return item


def monitor(*endpoints: dict[str, Any], namespace: str = "n", **spec: Any) -> monitors.Monitor:
    """A ServiceMonitor as it is kept."""
    document = {
        "metadata": {"namespace": namespace, "name": "m"},
        "spec": {
            "selector": {"matchLabels": {"scraped": "yes"}}, "endpoints": list(endpoints), **spec,
        },
    }  # fmt: skip
    item: monitors.Monitor = monitors.trimmed_of_services(document)["monitor"]
    return item


def urls(
    scraped: monitors.Monitor, behind: monitors.Service, *, namespace: str = "n"
) -> tuple[str, ...]:
    """URLs of a pod in `namespace` with the monitor and a Service there."""
    by_service = monitors.of_services([scraped], [(namespace, behind)], trusted="adapter")
    (changed,) = monitors.applied([pod(namespace=namespace)], by_service, trusted="adapter")
    listed: tuple[str, ...] = changed["urls"]
    return listed


PLAIN = ("http://10.0.0.1:8080/metrics",)
NAMED = {"name": "web", "port": 80, "targetPort": "srv"}
KSERVE = {"port": "web", "scheme": "HTTPS", "tlsConfig": {"insecureSkipVerify": True}}


@pytest.mark.parametrize(
    ("endpoint", "port", "url"),
    [
        pytest.param({"port": "web"}, NAMED, "http://10.0.0.1:8443/metrics", id="name of a port"),
        pytest.param(KSERVE, NAMED, "https://10.0.0.1:8443/metrics", id="https"),
        pytest.param(
            {"port": "web", "path": "/v1/m"}, {"name": "web", "port": 80, "targetPort": 9001},
            "http://10.0.0.1:9001/v1/m", id="number and path",
        ),
        pytest.param({"port": "web"}, {"name": "web", "port": 92}, "http://10.0.0.1:92/metrics", id="same"),
        pytest.param({"targetPort": "srv"}, NAMED, "http://10.0.0.1:8443/metrics", id="port of pods"),
        pytest.param({"targetPort": 9003}, NAMED, "http://10.0.0.1:9003/metrics", id="its number"),
        pytest.param({"port": "other"}, NAMED, PLAIN[0], id="no such port of the Service"),
        pytest.param({"port": "srv"}, NAMED, PLAIN[0], id="a port of pods is none of the Service"),
        pytest.param({"port": "web"}, {**NAMED, "targetPort": "gone"}, PLAIN[0], id="none of the pods"),
        pytest.param({"port": "web", "scheme": "ftp"}, NAMED, PLAIN[0], id="scheme"),
    ],
)  # fmt: skip
def test_ports_of_services_are_ports_of_pods(
    endpoint: dict[str, Any], port: dict[str, Any], url: str
) -> None:
    """By the Service's name, or the pods' own; what does not fit changes nothing."""
    assert urls(monitor(endpoint), service(port)) == (url,)


def test_services_and_pods_are_selected() -> None:
    """Another label of the Service, other pods, and a Service or monitor without a selector fit nothing."""
    endpoint = {"port": "web"}
    assert urls(monitor(endpoint), service(NAMED)) != PLAIN
    assert urls(monitor(endpoint), service(NAMED, app="x")) == PLAIN
    others = monitor(endpoint, selector={"matchLabels": {"scraped": "no"}})
    assert urls(others, service(NAMED)) == PLAIN
    assert urls(monitor(endpoint, selector={}), service(NAMED)) == PLAIN
    bare = monitors.trimmed_service({"metadata": {"labels": {"scraped": "yes"}}, "spec": {}})
    assert urls(monitor(endpoint), bare["service"]) == PLAIN


def test_namespaces_are_as_of_pod_monitors() -> None:
    """Those that it names count, but of another tenant's pods only a monitor of the adapter's namespace."""
    reaching: dict[str, Any] = {"namespaceSelector": {"any": True}}
    endpoint = {"port": "web"}
    assert urls(monitor(endpoint), service(NAMED), namespace="o") == PLAIN
    assert urls(monitor(endpoint, **reaching), service(NAMED), namespace="o") == PLAIN
    trusted = monitor(endpoint, namespace="adapter", **reaching)
    assert urls(trusted, service(NAMED), namespace="o") == ("http://10.0.0.1:8443/metrics",)
