"""Objects of tenants joined: one that cannot be used costs the others nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import structlog

from adapter.installation import COSTS, NEEDED_CONFIG_MAPS
from adapter.kube import labels
from adapter.resources import gpus, inputs, pods
from adapter.resources.configuration.last_good import NOTHING
from adapter.resources.devices import dra, taints
from adapter.resources.serving import monitors, pools, target_ports
from adapter.resources.watched import trimming
from adapter.resources.watched.joining import Seen, join
from adapter.resources.watched.scope import Scope

LLM = {"app": "llm"}
ODD = labels.Selector((labels.Requirement("app", ">"),))
"""No text is read as it: a comparison with nothing, which is an IndexError where there is such a label."""


def pod(name: str, address: str, labelled: dict[str, str], **spec: Any) -> dict[str, Any]:
    """A ready pod."""
    document = {
        "metadata": {"name": name, "namespace": "n", "labels": labelled},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 8000}]}], **spec},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return dict(pods.trimmed(document))


def deployment(**spec: Any) -> dict[str, Any]:
    """The scale target, with this in its template."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "n", "name": "w", "uid": "w"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": LLM},
            "template": {"metadata": {"labels": LLM}, "spec": {"containers": [], **spec}},
        },
        "status": {"replicas": 1},
    }  # fmt: skip


def read(
    *picked: pools.Picked,
    ported: tuple[pools.Pool, ...] = (),
    monitored: tuple[monitors.Monitor, ...] = (),
    pod_spec: dict[str, Any] | None = None,
    nodes: dict[str, Any] | None = None,
    claims: tuple[dict[str, Any], ...] = (),
    slices: tuple[dict[str, Any], ...] = (),
    prices: Mapping[str, str] = MappingProxyType({}),
) -> inputs.Inputs:
    """One variant, its pod and a picker's, with these pools and monitors; the template has `pod_spec` too."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "w"}
    variant = {
        "apiVersion": "llmd.ai/v1alpha1",
        "kind": "VariantAutoscaling",
        "metadata": {"namespace": "n", "name": "v", "uid": "v"},
        "spec": {
            "modelID": "m", "scaleTargetRef": target, "sloClassRef": {"name": "c", "key": "c"},
        },
    }  # fmt: skip
    if pod_spec is not None:
        variant["spec"] = {"modelID": "m", "scaleTargetRef": target, "variantCost": "10"}
    own = pod("w-0", "10.0.0.1", LLM, **(pod_spec or {}))
    running = [own, pod("epp-0", "10.0.0.2", {"app": "epp"})]
    seen = Seen(
        variants=[(("n", "v"), variant)],
        deployments=[(("n", "w"), trimming.deployment(deployment(**(pod_spec or {}))))],
        scalers=[],
        pods=[(("n", item["metadata"]["name"]), item) for item in running],
        configs=[
            (
                ("system", name),
                {"metadata": {"name": name}, "data": prices if name == COSTS else {}},
            )
            for name in (NEEDED_CONFIG_MAPS if pod_spec else ())
        ],
        nodes={("", name): gpus.trimmed(item) for name, item in (nodes or {}).items()},
        rules=[],
        slices=[(("", str(at)), dra.trimmed_slice(item)) for at, item in enumerate(slices)],
        claims=[(("n", str(at)), dra.trimmed_claim(item)) for at, item in enumerate(claims)],
        pickers=list(picked),
        ported=[("n", pool) for pool in ported],
        monitors=[(("n", f"m{at}"), {"monitor": item}) for at, item in enumerate(monitored)],
        service_monitors=[],
        services=[],
        others={},
        configs_read=True,
        unread="",
        last_good=NOTHING,
    )
    with structlog.testing.capture_logs():
        return join(Scope(config_namespace="system"), seen)


def problems(known: inputs.Inputs) -> list[str]:
    """Problems of objects that cannot be joined."""
    return [problem for problem in known.problems if "cannot be used" in problem]


def test_a_deployment_that_cannot_be_read_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition does not ask to create it, and its pods count for no other workload."""

    def broken(_: object) -> None:
        raise KeyError

    monkeypatch.setattr(taints, "of_pod", broken)
    item = trimming.deployment(deployment())
    assert item["spec"]["replicas"] == 1
    monkeypatch.undo()
    monkeypatch.setattr(trimming, "deployment", lambda _: item)
    (refused,) = read(pod_spec={}).refused
    assert "Deployment w: cannot be read (KeyError)" in refused.message


def test_an_odd_pool_leaves_out_its_own_pickers_alone() -> None:
    """Whether its pods or those of its picker cannot be selected; the first and the last one are good."""
    own, epp = pools.Pool(labels.parse("app=llm"), "epp"), labels.parse("app=epp")
    good = pools.Picked("n", own, epp, "good")
    odd = [
        pools.Picked("n", pools.Pool(ODD, "epp"), epp, "odd"),
        pools.Picked("n", own, ODD, "odder"),
    ]
    for picked in ([*odd, good], [good, *odd]):
        known = read(*picked)
        assert known.gateways == (("n", "http://10.0.0.2:9090/metrics"),)
        assert problems(known) == [
            "InferencePool n/odd: cannot be used (IndexError)",
            "InferencePool n/odder: cannot be used (IndexError)",
        ]


def test_odd_pools_and_monitors_are_named_where_pods_are_joined() -> None:
    """Each is left out by itself, and said to be."""
    good = pools.Pool(labels.parse("app=llm"), "", (8000, 8001))
    known = read(ported=(pools.Pool(ODD, "", (8000, 8001)), good), monitored=(monitor(ODD),))
    assert problems(known) == [
        "a monitor in namespace n: cannot be used (IndexError)",
        "an InferencePool in namespace n: cannot be used (IndexError)",
    ]


def monitor(selector: labels.Selector) -> monitors.Monitor:
    """A monitor of another path, by its selector."""
    endpoint = monitors.Endpoint("8000", "http", "other")
    return monitors.Monitor("n", ("n",), selector, (endpoint,))


def apart(_: str) -> contextlib.AbstractContextManager[None]:
    """Where the error of one odd selector ends."""
    return contextlib.suppress(IndexError)


@pytest.mark.parametrize("first", [ODD, labels.parse("app=llm")], ids=["odd", "good"])
def test_odd_pools_and_monitors_leave_the_pods_to_others(first: labels.Selector) -> None:
    """Whether the odd one comes first or last."""
    running = [pod("w-0", "10.0.0.1", LLM)]
    both = sorted((ODD, labels.parse("app=llm")), key=lambda selector: selector != first)
    ported = [("n", pools.Pool(selector, "", (8000, 8001))) for selector in both]
    (changed,) = target_ports.applied(running, ported, apart=apart)
    assert changed["urls"] == tuple(f"http://10.0.0.1:{at}/metrics" for at in (8000, 8001))
    (changed,) = monitors.applied(running, map(monitor, both), trusted="system", apart=apart)
    assert changed["urls"] == ("http://10.0.0.1:8000/other",)


@pytest.mark.parametrize(
    ("resource", "end"),
    [
        ("nvidia.com/mig-3g.40gb", "-MIG-3g.40gb"),
        ("nvidia.com/mig-1g.10gb.me", "-MIG-1g.10gb.me"),
        ("nvidia.com/gpu.shared", "-SHARED"),
        ("nvidia.com/gpu", ""),
    ],
)
@pytest.mark.parametrize("by", ["selector", "node"])
def test_a_slice_is_not_the_gpu_that_its_node_is_labelled_by(
    resource: str, end: str, by: str
) -> None:
    """With MIG's strategy mixed, and shares that are renamed: the price of a whole GPU is not theirs."""
    label = {"nvidia.com/gpu.product": (whole := "NVIDIA-H100-80GB-HBM3")}
    server = {"name": "c", "resources": {"limits": {resource: "1"}}}
    spec = {
        "containers": [server],
        "nodeName": "node",
        "nodeSelector": label if by == "selector" else {},
    }
    node = {"metadata": {"name": "node", "labels": label}}
    (source,) = read(pod_spec=spec, nodes={"node": node}).variants
    assert source.device == f"{whole}{end}"


@pytest.mark.parametrize("product", ["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3-MIG-3g.40gb"])
def test_claims_say_what_a_pod_runs_on(product: str) -> None:
    """Where devices are claimed, a node need have no label of them."""
    device = {"name": "gpu-0", "attributes": {"productName": {"string": product}}}
    pool = {"name": "node", "generation": 1, "resourceSliceCount": 1}
    held = {"driver": "gpu.nvidia.com", "pool": "node", "device": "gpu-0", "request": "gpu"}
    claimed = {
        "metadata": {"namespace": "n", "name": "claim"},
        "status": {
            "allocation": {"devices": {"results": [held]}},
            "reservedFor": [{"resource": "pods", "name": "w-0", "uid": "u"}],
        },
    }
    spec = {"driver": "gpu.nvidia.com", "nodeName": "node", "pool": pool, "devices": [device]}
    server = {"name": "c", "resources": {"claims": [{"name": "gpu"}]}}
    (source,) = read(
        pod_spec={"containers": [server], "nodeName": "node"},
        nodes={"node": {"metadata": {"name": "node"}}},
        claims=(claimed,),
        slices=({"metadata": {"name": "s"}, "spec": spec},),
    ).variants
    assert source.device == product.replace(" ", "-")
    assert source.gpus == (0 if "MIG" in product else 1)


A100, H100 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3"


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ((A100, H100), H100),
        ((A100, "NVIDIA-A100-PCIE-40GB"), ""),
        ((A100,), ""),
        ((A100, "NVIDIA-RTX-6000-Ada-Generation"), ""),
    ],
)
def test_pods_on_another_chip_than_they_count_as_are_told(
    asked: tuple[str, ...], wrong: str
) -> None:
    """The variant is one of its first GPU; sizes and prices of the others are not those."""
    term = {"key": "nvidia.com/gpu.product", "operator": "In", "values": list(asked)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    server = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    spec = {"affinity": affinity, "containers": [server]}
    (source,) = read(pod_spec=spec).variants
    told = [text for text in source.warnings if "count as" in text]
    assert [text.split(",")[0] for text in told] == (
        [f"its pods ask for or run on {wrong}"] if wrong else []
    )
    # Without a price of its own it would be refused, for what is so.
    rows = {
        "A100": f'{{"device": "{A100}", "cost": 1}}',
        "H100": f'{{"device": "{H100}", "cost": 2}}',
    }
    (source,) = read(pod_spec=spec, prices=rows).variants
    assert source.accelerator == (f"{A100}@10" if wrong else "A100")
