"""Which addresses of pods are servers: ports as people declare them, and groups of pods."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.serving import command_lines, groups

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
INJECTED = {**ISTIO, "env": [{"name": "PILOT_CERT_PROVIDER", "value": "istiod"}]}
MERGING = {**ISTIO, "env": [{"name": "ISTIO_PROMETHEUS_ANNOTATIONS", "value": "{}"}]}
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
            pod(MERGING, container("vllm", ("", 8000)), notes=MERGED),
            [":15020/stats/prometheus"],
            id="Istio-merges",
        ),
        pytest.param(
            pod(INJECTED, container("vllm", ("", 8000)), notes=MERGED),
            [":8000"],
            id="Istio-has-its-own-alone",
        ),
        pytest.param(
            pod(ISTIO, container("vllm", ("", 8000)), notes=MERGED),
            [":15020/stats/prometheus"],
            id="Istio-says-nothing-of-merging",
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


TGI = "ghcr.io/huggingface/text-generation-inference:3.3.4"
LLAMA, PORT = "ghcr.io/ggml-org/llama.cpp:server-cuda", "LLAMA_ARG_PORT"
TRITON = "nvcr.io/nvidia/tritonserver:25.05-trtllm-python-py3"
SIDECAR = container("routing-proxy", ("http", 8000), restartPolicy="Always")


RAY_HEAD = (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001), ("service", 8000))
"""Ports of a head of Ray, which people list in this order."""


def probed(port: int | str, scheme: str = "HTTPS") -> dict[str, Any]:
    """A probe by that scheme."""
    return {"readinessProbe": {"httpGet": {"path": "/health", "port": port, "scheme": scheme}}}


def shell(text: str, *ports: Port, gpus: int = 1, **env: str) -> dict[str, Any]:
    """A container that a shell starts, with variables."""
    variables = [{"name": name, "value": value} for name, value in env.items()]
    return container("vllm", *ports, gpus=gpus, command=["sh", "-c"], args=[text], env=variables)


@pytest.mark.parametrize(
    ("item", "numbers"),
    [
        (container("vllm", ("http", 8000), args=["--port", "8080"], gpus=1), [8080]),
        (container("vllm", ("", 8000), args=["--port=8080"], gpus=1), [8080]),
        (container("vllm", ("metrics", 9100), args=["--port=8080"], gpus=1), [9100]),
        (shell("exec vllm serve m --port ${PORT}", PORT="9001"), [9001]),
        (shell("exec vllm serve m --port $PORT", PORT="9001"), [9001]),
        (shell("vllm serve m --port ${PORT:-9002}"), [9002]),
        (shell("PORT=9003; vllm serve m --port $PORT"), [9003]),
        (shell('vllm serve m --port "$PORT"', PORT="9001"), [9001]),
        (shell("vllm serve a --port 8001 & vllm serve b --port 8002 & wait"), [8001, 8002]),
        (shell("python3 proxy.py --port 8000 & vllm serve m --port 8100"), [8100]),
        (shell("ray start --head --port=6379; vllm serve m --port 8080"), [8080]),
        (
            shell("for i in 0 1 2 3; do vllm serve m --port $((8000 + i)) & done; wait", gpus=4),
            [8000, 8001, 8002, 8003],
        ),
        (container("v", ("port-8000", 8000), ("port-8001", 8001), gpus=1), [8000, 8001]),
        (container("v", ("", 8000), ("grpc", 8001), gpus=1), [8000]),
        (container("v", ("", 8000), ("grpc", 8001), args=["--port=8000"], gpus=1), [8000]),
        (container("v", ("dp0", 8000), ("dp1", 8001), ("nixl0", 5600), gpus=1), [8000, 8001]),
        (container("t", image=TGI, gpus=1), [80]),
        (container("t", image=TGI, gpus=1, env=[{"name": "PORT", "value": "8088"}]), [8088]),
        (container("t", image=TGI, gpus=1, args=["--model-id", "m", "-p", "3001"]), [3001]),
        (container("l", image="ghcr.io/ggml-org/llama.cpp:server-cuda", gpus=1), [8080]),
        (container("l", image=LLAMA, gpus=1, env=[{"name": PORT, "value": "9100"}]), [9100]),
        (
            container(
                "l",
                image=LLAMA,
                gpus=1,
                args=["--port=9200"],
                env=[{"name": PORT, "value": "9100"}],
            ),
            [9200],
        ),
        (container("k", image="kserve/huggingfaceserver:v0.15", gpus=1), [8080]),
        (container("t", ("http", 8000), ("grpc", 8001), image=TRITON, gpus=1), [8002]),
        (container("t", ("http-t", 8000), ("metrics-t", 9002), image=TRITON, gpus=1), [9002]),
        (container("t", image=TRITON, args=["--metrics-port=9002"], gpus=1), [9002]),
        (container("t", image=TRITON, args=["--model-repository=/m/vllm"], gpus=1), [8002]),
        (
            container("t", image=TRITON, command=["vllm", "serve", "m", "--port=9000"], gpus=1),
            [9000],
        ),
        (container("t", ("", 8000), image=TRITON, command=["vllm", "serve", "m"], gpus=1), [8000]),
        (shell("ray start --head; vllm serve m", *RAY_HEAD), [8000]),
        (container("h", *RAY_HEAD, **probed("dashboard", "HTTP")), [8265]),
        (container("d", env=[{"name": "DYN_SYSTEM_PORT", "value": "9090"}], gpus=1), [9090]),
        (container("d", env=[{"name": "P", "valueFrom": {}}], args=["--port", "$(P)"]), [8000]),
    ],
)
def test_a_server_listens_where_it_is_told_to(item: dict[str, Any], numbers: list[int]) -> None:
    """Declared ports are information only; each kind of server has a default of its own."""
    expected = tuple(f"http://10.0.0.1:{number}/metrics" for number in numbers)
    assert pods.trimmed(pod(item))["urls"] == expected


def test_variables_of_a_command_line_take_bounded_memory() -> None:
    """However often a long value is named."""
    item = shell("$(A)" * 10_000, A="x" * 100_000)
    assert len(command_lines.text_of(item)) <= 2 * 64 * 1024


def test_containers_that_stay_from_the_start_are_containers() -> None:
    """A proxy as init container that is restarted always is no server; a server there is one."""
    behind = pod(container("vllm", ("http", 8200), gpus=1))
    behind["spec"]["initContainers"] = [SIDECAR]
    assert pods.trimmed(behind)["urls"] == ("http://10.0.0.1:8200/metrics",)
    before = pod(container("app", ("http", 80)))
    server = container("vllm", ("api", 8300), gpus=1, restartPolicy="Always")
    before["spec"]["initContainers"] = [server, container("copy", ("http", 1))]
    assert pods.trimmed(before)["urls"] == ("http://10.0.0.1:8300/metrics",)
    assert pods.trimmed({**before, "metadata": {
        **before["metadata"], "annotations": {"prometheus.io/port": "api"}
    }})["urls"] == ("http://10.0.0.1:8300/metrics",)  # fmt: skip


def test_without_gpus_the_container_of_a_known_server_serves() -> None:
    """Whatever a collector beside it calls its port."""
    item = pod(
        container("otel-collector", ("metrics", 8888)),
        container("watcher", ("metrics", 9999)),
        container("main", ("http", 8000), image="vllm/vllm-openai-cpu:v0.12"),
    )
    assert pods.trimmed(item)["urls"] == ("http://10.0.0.1:8000/metrics",)


RUNTIME = container(
    "runtime",
    ("", 8100),
    args=["--port", "8100", "--engine", "vllm", "--engine-base-url", "http://localhost:8000"],
)
"""A container beside the server that shows the server's metrics by other names."""


@pytest.mark.parametrize(
    "server",
    [
        {"image": "engine:1", "resources": {"limits": {"huawei.com/ascend-1980": "4"}}},
        {"image": "quay.io/ascend/vllm-ascend:v0.13"},
        {"image": "engine:1", "command": ["python3", "-m", "vllm.entrypoints.openai.api_server"]},
    ],
    ids=["other-vendor", "image", "command"],
)
def test_what_only_names_a_server_in_its_arguments_is_none(server: dict[str, Any]) -> None:
    """The server itself holds accelerators, or is known by its image or command."""
    item = pod(RUNTIME, container("vllm", ("", 8000), **server))
    assert pods.trimmed(item)["urls"] == ("http://10.0.0.1:8000/metrics",)


FLEET = "orchestration.aibrix.ai/raycluster-fleet-name"


def test_the_workers_of_groups_are_their_servers_too() -> None:
    """A LeaderWorkerSet's selector has leaders only; other selectors stay as they are."""
    leaders = labels.parse(f"{groups.NAME}=set,{groups.WORKER_INDEX}=0")
    everyone = groups.members(leaders)
    assert everyone.matches({groups.NAME: "set", groups.WORKER_INDEX: "1"})
    assert not everyone.matches({groups.NAME: "other", groups.WORKER_INDEX: "0"})
    other = labels.parse("app=set")
    assert groups.members(other) == other
    heads = labels.parse(f"{FLEET}=f,ray.io/node-type=head")
    assert groups.members(heads) == labels.parse(f"{FLEET}=f")


@pytest.mark.parametrize(
    "common",
    [
        {groups.NAME: "set", groups.GROUP_INDEX: "1"},
        {FLEET: "f", "ray.io/cluster": "f-5d8c"},
        {"modelserving.volcano.sh/name": "m", "modelserving.volcano.sh/group-name": "m-0"},
        {"storm-service-name": "s", "roleset-name": "s-roleset-abc"},
        {
            "grove.io/podcliquescalinggroup": "d-0-decode",
            "grove.io/podcliquescalinggroup-replica-index": "0",
        },
        {"inferenceset.kaito.sh/created-by": "phi", "kaito.sh/workspace": "phi-x2b"},
    ],
    ids=["LeaderWorkerSet", "RayClusterFleet", "ModelServing", "StormService", "Grove", "KAITO"],
)
def test_a_group_holds_the_gpus_of_all_of_its_pods(common: dict[str, str]) -> None:
    """By the labels that its controller gives them."""
    members = [pod(container("vllm", gpus=8), name=name) for name in ("leader", "worker")]
    for item in members:
        item["metadata"]["labels"] = {"app": "a", **common}
    assert pods.ByLabel(map(pods.trimmed, members)).serving("n", labels.parse("app=a")).gpus == 16


def test_each_server_of_a_pod_has_its_pods_name() -> None:
    """Endpoints and names stay in step, so that a pod's servers count as one replica."""
    index = pods.ByLabel([pods.trimmed(pod(container("vllm", *ROW), a="b"))])
    serving = index.serving("n", labels.parse("a=b"))
    assert len(serving.endpoints) == 4
    assert serving.names == ("p",) * 4


REWRITTEN = {"readinessProbe": {"httpGet": {"path": "/app-health/main/readyz", "port": 15020}}}
"""A probe as Istio's webhook leaves it."""

CERTIFICATE = ["--ssl-certfile", "/certs/tls.crt"]


@pytest.mark.parametrize(
    ("item", "url"),
    [
        (pod(container("main", ("", 8000), **probed(8000))), "https://10.0.0.1:8000/metrics"),
        (pod(container("main", ("http", 8000), **probed("http"))), "https://10.0.0.1:8000/metrics"),
        (pod(container("main", ("", 8000), **probed(8000, "HTTP"))), "http://10.0.0.1:8000/metrics"),
        (pod(container("main", **probed(8080, "HTTP"))), "http://10.0.0.1:8080/metrics"),
        (
            pod(container("main", ("", 5557), ("", 8200), **probed(8200, "HTTP"))),
            "http://10.0.0.1:8200/metrics",
        ),
        (pod(ISTIO, container("main", gpus=1, **REWRITTEN)), "http://10.0.0.1:8000/metrics"),
        (pod(container("t", image=TRITON, **probed(8000, "HTTP"))), "http://10.0.0.1:8002/metrics"),
        (pod(container("vllm", args=CERTIFICATE)), "https://10.0.0.1:8000/metrics"),
        (pod(container("vllm", args=["--ssl_certfile=/tls.crt"])), "https://10.0.0.1:8000/metrics"),
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
    """KServe's pods have no annotation; a probe at the server's port says port and HTTPS, annotations win."""
    assert pods.trimmed(item)["urls"] == (url,)


@pytest.mark.parametrize("how", [{"args": CERTIFICATE}, probed(8000)], ids=["started", "probed"])
def test_servers_of_a_pod_answer_each_in_its_own_way(how: dict[str, Any]) -> None:
    """One without a certificate answers by http beside a container whose servers answer by https."""
    row, other = (("", 8000), ("", 8001)), container("vllm-b", ("", 9000), gpus=1)
    item = pods.trimmed(pod(container("vllm-a", *row, gpus=1, **how), other))
    assert item["urls"] == tuple(
        f"{scheme}://10.0.0.1:{number}/metrics"
        for scheme, number in (("https", 8000), ("https", 8001), ("http", 9000))
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ["--port", "8000", "--port=8080"]},
        {"command": ["sh", "-c"], "args": ["vllm serve m --port 8000 $MORE"]},
    ],
    ids=["arguments", "shell"],
)
def test_the_last_port_of_a_command_counts(fields: dict[str, Any]) -> None:
    """Charts append what users add to their own arguments, and a parser takes the last of a flag."""
    env = [{"name": "MORE", "value": "--port 8080"}]
    item = pods.trimmed(pod(container("vllm", ("", 8000), gpus=1, env=env, **fields)))
    assert item["urls"] == ("http://10.0.0.1:8080/metrics",)
