"""Objects of tenants joined: one that cannot be used costs the others nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import structlog

from adapter.kube import labels
from adapter.resources import inputs, pods
from adapter.resources.configuration.last_good import NOTHING
from adapter.resources.serving import monitors, pools, target_ports
from adapter.resources.watched.joining import Seen, join
from adapter.resources.watched.scope import Scope

LLM = {"app": "llm"}
ODD = labels.Selector((labels.Requirement("app", ">"),))
"""No text is read as it: a comparison with nothing, which is an IndexError where there is such a label."""


def pod(name: str, address: str, labelled: dict[str, str]) -> dict[str, Any]:
    """A ready pod."""
    document = {
        "metadata": {"name": name, "namespace": "n", "labels": labelled},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 8000}]}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return dict(pods.trimmed(document))


def read(
    *picked: pools.Picked,
    ported: tuple[pools.Pool, ...] = (),
    monitored: tuple[monitors.Monitor, ...] = (),
) -> inputs.Inputs:
    """One variant, its pod and a picker's, with these pools and monitors."""
    named = {"namespace": "n", "name": "w", "uid": "w"}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "w"}
    variant = {
        "apiVersion": "llmd.ai/v1alpha1",
        "kind": "VariantAutoscaling",
        "metadata": {"namespace": "n", "name": "v", "uid": "v"},
        "spec": {
            "modelID": "m", "scaleTargetRef": target, "sloClassRef": {"name": "c", "key": "c"},
        },
    }  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": named,
        "spec": {
            "replicas": 1, "selector": {"matchLabels": LLM},
            "template": {"metadata": {"labels": LLM}, "spec": {"containers": []}},
        },
        "status": {"replicas": 1},
    }  # fmt: skip
    running = [pod("w-0", "10.0.0.1", LLM), pod("epp-0", "10.0.0.2", {"app": "epp"})]
    seen = Seen(
        variants=[(("n", "v"), variant)],
        deployments=[(("n", "w"), deployment)],
        scalers=[],
        pods=[(("n", item["metadata"]["name"]), item) for item in running],
        configs=[],
        nodes={},
        rules=[],
        slices=[],
        claims=[],
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
