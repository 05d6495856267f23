"""Nodes and pods as HAMi, Kueue and LeaderWorkerSet write them, by their published examples of 2026."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapter.kube import labels as selectors
from adapter.resources import pods
from adapter.resources.serving import groups
from tests.adapter.resources.gpu_nodes import node, take

MI300X = "AMD_Instinct_MI300X"
LWS = "leaderworkerset.sigs.k8s.io"
KUEUE = "kueue.x-k8s.io"


def listed(*counts: int, **more: object) -> str:
    """The list of devices that HAMi's plugin writes at a node, each with how often it is given."""
    return json.dumps(
        [
            {"id": f"GPU-{index}", "index": index, "count": count, "devmem": 81920, "devcore": 100,
             "type": "NVIDIA-A100", "mode": "hami-core", "health": True, **more}
            for index, count in enumerate(counts)
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("annotations", "shared"),
    [
        pytest.param({"hami.io/node-nvidia-register": listed(10, 10)}, True, id="ten-times"),
        pytest.param({"hami.io/node-nvidia-register": listed(1, 1)}, False, id="once"),
        pytest.param({"hami.io/node-nvidia-register": listed(1, 10)}, True, id="unlike"),
        pytest.param({"hami.io/node-nvidia-register": listed(7, mode="mig")}, True, id="mig"),
        pytest.param({"hami.io/node-handshake": "Requesting_2026-11-28"}, True, id="no-list"),
        pytest.param({"hami.io/node-nvidia-register": "GPU-1,1,8,100:"}, True, id="older"),
        pytest.param({"hami.io/node-nvidia-register": "[1, 2]"}, True, id="no-devices"),
        pytest.param({"hami.io/mutex.lock": "x"}, False, id="another"),
    ],
)
@pytest.mark.parametrize(
    ("resource", "label", "product"),
    [
        ("nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-A100-PCIE-80GB"),
        ("amd.com/gpu", "amd.com/gpu.product-name", MI300X),
    ],
)
def test_gpus_that_hami_gives_several_times(
    annotations: dict[str, str], resource: str, label: str, product: str, *, shared: bool
) -> None:
    """Of each vendor: shares are a type of their own, and a GPU that is given once is a whole one."""
    item = node(gpus={resource: "20"}, labels={label: product})
    item["metadata"]["annotations"] = annotations
    assert take([item]).total == {f"{product}-SHARED" if shared else product: 20}


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        ({"nvidia.com/gpu": "8", "nvidia.com/hostdev": "8"}, 8),
        ({"nvidia.com/gpu": "8", "nvidia.com/mlnxnics": "4", "nvidia.com/priority": "1"}, 8),
        ({"amd.com/gpu": "8", "amd.com/vnic": "8"}, 8),
        ({"intel.com/gpu": "2"}, 2),
        ({"nvidia.com/hostdev": "1"}, None),
        ({"nvidia.com/gpu": "1", "nvidia.com/gpucores": "30"}, 0),
        ({"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-memory": "3000"}, 0),
        ({"amd.com/cpx_nps4": "1"}, 0),
    ],
)
def test_network_cards_are_neither_gpus_nor_shares_of_them(
    limits: dict[str, str], gpus: int | None
) -> None:
    """NVIDIA's and AMD's network operators give cards under the names of their vendors."""
    container = {"name": "vllm", "resources": {"limits": limits}}
    assert pods.gpus_of({"containers": [container]}) == gpus


def group_pod(group: int, worker: int, *gates: str, **annotations: str) -> dict[str, Any]:
    """A pod of a LeaderWorkerSet with three pods a group, which a queue of Kueue admits."""
    name = f"vllm-{group}" if worker == 0 else f"vllm-{group}-{worker}"
    status: dict[str, Any] = {"phase": "Pending"}
    if not gates:
        status = {
            "phase": "Running",
            "podIP": f"10.0.{group}.{worker + 1}",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
    return {
        "metadata": {
            "namespace": "n",
            "name": name,
            "labels": {
                f"{LWS}/name": "vllm",
                f"{LWS}/group-index": str(group),
                f"{LWS}/worker-index": str(worker),
                f"{LWS}/group-key": f"key-{group}",
                f"{LWS}/template-revision-hash": "5c8",
                f"{LWS}/subgroup-index": str(worker // 2),
                f"{LWS}/subgroup-key": f"sub-{group}-{worker // 2}",
                f"{KUEUE}/queue-name": "queue",
                f"{KUEUE}/managed": "true",
                f"{KUEUE}/podset": "leader" if worker == 0 else "worker",
                f"{KUEUE}/pod-group-name": f"leaderworkerset-vllm-{group}",
            },
            "annotations": {f"{LWS}/size": "3", f"{KUEUE}/pod-group-total-count": "3"},
        },
        "spec": {
            "schedulingGates": [{"name": f"{KUEUE}/{gate}"} for gate in gates],
            "containers": [
                {
                    "name": "vllm",
                    "command": ["vllm", "serve", "m"] if worker == 0 else ["sleep"],
                    "ports": [{"containerPort": 8000}] if worker == 0 else [],
                    "resources": {"limits": {"nvidia.com/gpu": "8"}},
                }
            ],
        },
        "status": status,
    }


@pytest.mark.parametrize("gates", [("admission",), ("admission", "topology"), ("topology",)])
def test_a_group_that_kueue_holds_back_is_no_replica_that_starts(gates: tuple[str, ...]) -> None:
    """Its pods are gated until quota or a topology is assigned; a replica is the group, with all GPUs."""
    running = [group_pod(0, worker) for worker in range(3)]
    held = [group_pod(1, worker, *gates) for worker in range(3)]
    seen = [pods.trimmed(item) for item in (*running, *held)]
    leaders = selectors.parse_lenient(f"{LWS}/name=vllm,{LWS}/worker-index=0")
    serving = pods.ByLabel(seen).serving("n", groups.members(leaders))
    assert groups.leaders(seen) == 2
    assert serving.gated == 3
    assert serving.gpus == 24
    assert [url for url in serving.endpoints if "10.0.0.1:" in url] != []
    assert all("10.0.1." not in url for url in serving.endpoints)
