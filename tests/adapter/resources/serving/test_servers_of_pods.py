"""Which addresses of pods are servers: ports as people declare them, and groups of pods."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.serving import groups

Port = tuple[str, int]


def container(name: str, *ports: Port, gpus: int = 0, **fields: Any) -> dict[str, Any]:
    """A container with ports by name, which may be empty, and number."""
    declared = [
        {"containerPort": number, **({"name": text} if text else {})} for text, number in ports
    ]
    held = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    return {"name": name, "ports": declared, **held, **fields}


def pod(
    *containers: dict[str, Any], notes: dict[str, str] | None = None, name: str = "p", **named: str
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "n", "labels": named, "annotations": notes or {}},
        "spec": {"containers": list(containers)},
        "status": {
            "podIP": "10.0.0.1",
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


ROW = tuple(("", number) for number in range(8000, 8004))
ISTIO = container("istio-proxy", ("http-envoy-prom", 15090))
MERGED = {"prometheus.io/port": "15020", "prometheus.io/path": "/stats/prometheus"}


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        pytest.param(pod(container("vllm", *ROW)), [":8000", ":8001", ":8002", ":8003"], id="dp"),
        pytest.param(pod(container("vllm", ("", 8000), ("", 29500))), [":8000"], id="other-port"),
        pytest.param(
            pod(container("vllm", ("http-0", 8000), ("http-1", 8001), ("nixl-0", 5600), gpus=1)),
            [":8000", ":8001"],
            id="dp-by-name",
        ),
        pytest.param(
            pod(container("vllm", ("http", 8000), ("http-rank1", 8001), ("http2", 8002), gpus=1)),
            [":8000", ":8001"],
            id="dp-beside-the-first",
        ),
        pytest.param(
            pod(container("vllm", ("", 8202), ("", 8200), ("", 8201), gpus=1)),
            [":8200", ":8201", ":8202"],
            id="dp-in-any-order",
        ),
        pytest.param(
            pod(
                container("a", ("http", 8000), gpus=1),
                container("b", ("http", 8001), gpus=1),
                container("proxy", ("http", 9000)),
            ),
            [":8000", ":8001"],
            id="two-servers",
        ),
        pytest.param(
            pod(
                container("proxy", ("", 8000)),
                container("vllm", ("", 8200), resources={"claims": [{"name": "gpu"}]}),
            ),
            [":8200"],
            id="claimed-devices",
        ),
        pytest.param(
            pod(
                container(
                    "vllm",
                    env=[{"name": "PORT", "value": "9000"}, {"name": "OTHER"}],
                    args=["serve", "m", "--port=$(PORT)", "$(OTHER)", "$(NONE)"],
                )
            ),
            [":9000"],
            id="port-of-a-variable",
        ),
        pytest.param(
            pod(
                container(
                    "s",
                    ("dist", 5000),
                    ("", 30000),
                    command=["python3", "-m", "sglang.launch_server"],
                    gpus=1,
                )
            ),
            [":30000"],
            id="SGLang-beside-another-port",
        ),
        pytest.param(
            pod(container("t", ("", 8000), ("", 8001), ("", 8002), args=["tritonserver"], gpus=1)),
            [":8002"],
            id="Triton",
        ),
        pytest.param(
            pod(container("routing-proxy", ("", 8000)), container("vllm", ("", 8200))),
            [":8200"],
            id="proxy-first",
        ),
        pytest.param(
            pod(container("mesh", ("http", 80)), container("main", ("", 8200), gpus=1)),
            [":8200"],
            id="the-one-with-GPUs",
        ),
        pytest.param(pod(container("kserve-container", ("http1", 8080))), [":8080"], id="KServe"),
        pytest.param(
            pod(
                container("kserve-container", ("user-port", 8080)),
                container("queue-proxy", ("http-autometric", 9090), ("queue-port", 8012)),
            ),
            [":8080"],
            id="Knative",
        ),
        pytest.param(
            pod(ISTIO, container("vllm", ("", 8000)), notes=MERGED),
            [":15020/stats/prometheus"],
            id="Istio-merges",
        ),
        pytest.param(pod(ISTIO, container("vllm", ("http", 8000))), [":8000"], id="Istio"),
        pytest.param(
            pod(container("s", command=["python3", "-m", "sglang.launch_server"])),
            [":30000"],
            id="SGLang",
        ),
        pytest.param(
            pod(container("vllm", args=["--model", "m", "--port", "9000"])), [":9000"], id="flag"
        ),
        pytest.param(
            pod(container("vllm", command=["sh", "-c", "vllm serve m --port=9001 -tp 2"])),
            [":9001"],
            id="flag-in-a-shell",
        ),
        pytest.param(
            pod(container("vllm", ("http", 8000)), container("dcgm", ("metrics", 9400))),
            [":8000"],
            id="DCGM",
        ),
        pytest.param(
            pod(container("x", ("", 1)), notes={"prometheus.kserve.io/port": "8080"}),
            [":8080"],
            id="KServe's-annotation",
        ),
    ],
)
def test_the_servers_of_a_pod(item: dict[str, Any], wanted: list[str]) -> None:
    """Sidecars are left out, every data-parallel engine is there."""
    paths = [text if "/" in text else f"{text}/metrics" for text in wanted]
    assert list(pods.trimmed(item)["urls"]) == [f"http://10.0.0.1{text}" for text in paths]


def test_the_workers_of_groups_are_their_servers_too() -> None:
    """A LeaderWorkerSet's selector has leaders only; other selectors stay as they are."""
    leaders = labels.parse(f"{groups.NAME}=set,{groups.WORKER_INDEX}=0")
    everyone = groups.members(leaders)
    assert everyone.matches({groups.NAME: "set", groups.WORKER_INDEX: "1"})
    assert not everyone.matches({groups.NAME: "other", groups.WORKER_INDEX: "0"})
    other = labels.parse("app=set")
    assert groups.members(other) == other


def test_each_server_of_a_pod_has_its_pods_name() -> None:
    """Endpoints and names stay in step, so that a pod's servers count as one replica."""
    index = pods.ByLabel([pods.trimmed(pod(container("vllm", *ROW), a="b"))])
    serving = index.serving("n", labels.parse("a=b"))
    assert len(serving.endpoints) == 4
    assert serving.names == ("p",) * 4


def probed(port: int | str, scheme: str = "HTTPS") -> dict[str, Any]:
    """A probe by that scheme."""
    return {"readinessProbe": {"httpGet": {"path": "/health", "port": port, "scheme": scheme}}}


CERTIFICATE = ["--ssl-certfile", "/certs/tls.crt"]


@pytest.mark.parametrize(
    ("item", "url"),
    [
        (pod(container("main", ("", 8000), **probed(8000))), "https://10.0.0.1:8000/metrics"),
        (pod(container("main", ("http", 8000), **probed("http"))), "https://10.0.0.1:8000/metrics"),
        (pod(container("main", ("", 8000), **probed(8000, "HTTP"))), "http://10.0.0.1:8000/metrics"),
        (pod(container("vllm", args=CERTIFICATE)), "https://10.0.0.1:8000/metrics"),
        (
            pod(container("vllm", ("", 8200)), container("routing-proxy", ("", 8000), **probed(8000))),
            "http://10.0.0.1:8200/metrics",
        ),
        (
            pod(container("main", ("", 8000), **probed(8000)), notes={"prometheus.io/port": "9400"}),
            "http://10.0.0.1:9400/metrics",
        ),
        (
            pod(container("main", ("", 8000), **probed(8000)), notes={"prometheus.io/scheme": "http"}),
            "http://10.0.0.1:8000/metrics",
        ),
    ],
)  # fmt: skip
def test_https_by_the_probes_of_a_server(item: dict[str, Any], url: str) -> None:
    """KServe's pods have no annotation; a probe by HTTPS at the server's port says it, annotations win."""
    assert pods.trimmed(item)["urls"] == (url,)
