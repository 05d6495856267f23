"""Pods as llm-d, KServe, Dynamo, Ray, Grove and RoleBasedGroup make them: servers, roles and groups."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapter.resources import pods
from adapter.resources.serving import groups, roles
from tests.adapter.resources.serving.test_servers_of_pods import container, pod

DYNAMO = {"env": [{"name": "DYN_SYSTEM_PORT", "value": "9090"}]}
SIDECAR = {
    "name": "routing-proxy", "image": "ghcr.io/llm-d/llm-d-routing-sidecar",
    "args": ["--port=8000", "--vllm-port=8200"], "ports": [{"containerPort": 8000}],
    "restartPolicy": "Always",
}  # fmt: skip


def of(command: str, **fields: Any) -> dict[str, Any]:
    """A pod with one server, and `labels`, `init` containers."""
    labels, init = fields.pop("labels", {}), fields.pop("init", [])
    made = pod(container("main", gpus=8, command=command.split(), **fields))
    made["metadata"]["labels"] = labels
    made["spec"]["initContainers"] = init
    return made


@pytest.mark.parametrize(
    ("item", "url", "role"),
    [
        pytest.param(
            of("vllm serve m --port 8200", labels={"llm-d.ai/role": "decode"}, init=[SIDECAR]),
            "http://10.0.0.1:8200/metrics", "decode", id="llm-d behind its proxy",
        ),
        pytest.param(
            of(
                "vllm serve m --port 8000 --ssl-certfile /var/run/kserve/tls/tls.crt",
                labels={"llm-d.ai/role": "prefill"},
            ),
            "https://10.0.0.1:8000/metrics", "prefill", id="kserve",
        ),
        pytest.param(
            of("python3 -m dynamo.vllm --is-prefill-worker", **DYNAMO),
            "http://10.0.0.1:9090/metrics", "prefill", id="dynamo, older flags",
        ),
        pytest.param(
            of("python3 -m dynamo.trtllm --disaggregation-mode decode", **DYNAMO),
            "http://10.0.0.1:9090/metrics", "decode", id="dynamo",
        ),
        pytest.param(
            of("", image="nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8"),
            "http://10.0.0.1:8000/v1/metrics", "", id="nim",
        ),
        pytest.param(
            of("", image="harbor.corp:5000/nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8"),
            "http://10.0.0.1:8000/v1/metrics", "", id="nim of a mirror",
        ),
        pytest.param(
            of("", image="corp/llama:1", env=[{"name": "NIM_CACHE_PATH", "value": "/model-store"}]),
            "http://10.0.0.1:8000/v1/metrics", "", id="nim by its variables",
        ),
        pytest.param(
            of("", image="quay.io/ascend/vllm-ascend", args=["vllm", "serve", "m"]),
            "http://10.0.0.1:8000/metrics", "", id="ascend",
        ),
        pytest.param(
            of(
                "python3 -m sglang.launch_server --port 40000 --node-rank $(LWS_WORKER_INDEX)",
                labels={groups.NAME: "s", groups.GROUP_INDEX: "0", groups.WORKER_INDEX: "1"},
            ),
            "http://10.0.0.1:40000/metrics", "", id="sglang of several nodes",
        ),
        pytest.param(
            of(
                "vllm serve m --kv-transfer-config "
                + json.dumps({"kv_connector": "P2p", "kv_role": "kv_producer"}, separators=(",", ":"))
            ),
            "http://10.0.0.1:8000/metrics", "prefill", id="vllm that sends its cache",
        ),
    ],
)  # fmt: skip
def test_servers_and_roles(item: dict[str, Any], url: str, role: str) -> None:
    """Where the metrics are, and which part of requests the pod does."""
    trimmed = pods.trimmed(item)
    assert trimmed["urls"] == (url,)
    assert roles.of_pod(trimmed) == role


@pytest.mark.parametrize(
    "common",
    [
        {
            "grove.io/podcliquescalinggroup": "g",
            "grove.io/podcliquescalinggroup-replica-index": "1",
        },
        {
            "rbg.workloads.x-k8s.io/group-name": "g",
            "rbg.workloads.x-k8s.io/role-instance-name": "i",
        },
        {"disaggregatedset.x-k8s.io/name": "d", groups.NAME: "d-0-a", groups.GROUP_INDEX: "0"},
    ],
)
def test_groups(common: dict[str, str]) -> None:
    """What their pods have in common makes them one replica."""
    other = {"metadata": {"name": "q", "labels": {**common, "role": "worker"}}}
    assert groups.of_pod({"metadata": {"name": "p", "labels": common}}) == groups.of_pod(other)


def test_an_annotation_counts_before_the_path_of_the_image() -> None:
    """NIM behind a proxy of its own."""
    item = of("", image="nvcr.io/nim/meta/llama:1")
    item["metadata"]["annotations"] = {"prometheus.io/path": "/metrics"}
    assert pods.trimmed(item)["urls"] == ("http://10.0.0.1:8000/metrics",)


@pytest.mark.parametrize(
    ("first", "others"),
    [("http", "rank"), ("prefill-http", "prefill-rank"), ("http", "http-rank-")],
)
def test_ports_of_further_ranks(first: str, others: str) -> None:
    """Each engine of llm-d's data-parallel pods has one; the first has a name of its own."""
    named = [(first, 8200), *((f"{others}{rank}", 8200 + rank) for rank in (1, 2)), ("nixl", 8203)]
    server = container("vllm", *named, command=["vllm", "serve", "m", "--port=8200"])
    assert pods.trimmed(pod(server))["urls"] == tuple(
        f"http://10.0.0.1:{number}/metrics" for number in (8200, 8201, 8202)
    )


def test_a_tokenizer_beside_a_simulator_is_no_server() -> None:
    """Its image names vLLM, or is vLLM's, which renders prompts; the simulator's image does not."""
    simulator = container("sim", ("http", 8000), image="ghcr.io/llm-d/llm-d-inference-sim:v0.10")
    for name in ("tokenizer", "tokenizer-uds", "uds-tokenizer", "vllm-render"):
        image = "ghcr.io/llm-d/llm-d-uds-tokenizer:vllm-v0.19.1"
        beside = container(name, ("health", 8082), image=image)
        made = pods.trimmed(pod(simulator, beside))
        assert made["urls"] == ("http://10.0.0.1:8000/metrics",)


@pytest.mark.parametrize("port", ["http", "render-http"])
@pytest.mark.parametrize("image", ["ghcr.io/llm-d/llm-d-inference-sim:v0.10", "vllm/vllm-openai"])
def test_what_renders_prompts_is_no_server_by_any_name(port: str, image: str) -> None:
    """Its image is that of servers; what is scraped is the server, which has no GPU here."""
    server = container("main", ("http", 8000), image=image)
    command = ["vllm", "launch", "render", "m", "--port=8001"]
    beside = container("prompts", (port, 8001), image="vllm/vllm-openai", command=command)
    made = pods.trimmed(pod(server, beside))
    assert made["urls"] == ("http://10.0.0.1:8000/metrics",)


SUPERVISED = """START=$(( ${LWS_WORKER_INDEX:-0} * DP_SIZE_LOCAL ))
exec vllm serve m \\
  --port=8200 \\
  --data-parallel-multi-port-external-lb \\
  --data-parallel-supervisor-port=8208 \\
  --data-parallel-size $((LWS_GROUP_SIZE * DP_SIZE_LOCAL)) \\
  {local}"""
"""llm-d's servers of one rank each, which one process of vLLM starts."""


@pytest.mark.parametrize(
    ("text", "first", "count"),
    [
        (SUPERVISED.replace("{local}", "--data-parallel-size-local $DP_SIZE_LOCAL"), 8200, 4),
        (SUPERVISED.replace("{local}", "--data-parallel-start-rank $START"), 8200, 8),
        ("vllm serve m -dpm -dpl 2 -dp 4", 8000, 2),
        ("vllm serve m --data_parallel_multi_port_external_lb --data_parallel_size 4", 8000, 4),
        ("vllm serve m -dpm -dp=4 --port 9000", 9000, 4),
        ("vllm serve m -dpm -dp 16 --data-parallel-start-rank 8", 8000, 8),
        ("vllm serve m --port 9000 --data-parallel-size 4", 9000, 1),
        ("vllm serve m --port 9000 -dpm -dpl 99999", 9000, 16),
    ],
)
def test_a_server_of_each_rank_of_a_node(text: str, first: int, count: int) -> None:
    """Their ports follow the first one, whether or not the pod declares them."""
    env = [{"name": "DP_SIZE_LOCAL", "value": "4"}]
    server = container("vllm", gpus=8, command=["sh", "-c"], args=[text], env=env)
    assert pods.trimmed(pod(server))["urls"] == tuple(
        f"http://10.0.0.1:{first + rank}/metrics" for rank in range(count)
    )


@pytest.mark.parametrize(("port", "count"), [("8200", 3), ("modelserver", 3), ("8201", 1)])
def test_an_annotation_at_the_first_of_a_row_stands_for_all(port: str, count: int) -> None:
    """It has room for one port; any other is the one that it says."""
    named = [("modelserver", 8200), ("rank1", 8201), ("rank2", 8202)]
    server = container("vllm", *named, command=["vllm", "serve", "m", "--port=8200"])
    assert len(pods.trimmed(pod(server, notes={"prometheus.io/port": port}))["urls"]) == count


@pytest.mark.parametrize(("flags", "count"), [((), 1), (("-dpm", "-dpl", "2"), 2)])
def test_an_annotated_port_without_a_name_is_one_server(flags: tuple[str, ...], count: int) -> None:
    """Unless flags say more: a port of gRPC after it never answers, and held the target for ever."""
    server = container("vllm", ("", 8000), ("", 8001), command=["vllm", "serve", "m", *flags])
    assert len(pods.trimmed(pod(server, notes={"prometheus.io/port": "8000"}))["urls"]) == count
