"""Replicas with a role: prefill and decode are sized by the target that each decides."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.planning import fleet
from adapter.resources.pods import Serving
from adapter.resources.serving import command_lines, groups, roles

BOTH = fleet.Targets(itl_ms=24, ttft_ms=500, percentile=0.95)


def pod(**labels: str) -> dict[str, Any]:
    """A pod with these labels, whose keys have `_` for what names do not allow."""
    keys = {
        "role": roles.LABELS[0],
        "set_role": roles.LABELS[1],
        "of_kthena": "modelserving.volcano.sh/role",
        "of_rbg": "rbg.workloads.x-k8s.io/role-name",
        "of_aibrix": "role-name",
        "index": groups.WORKER_INDEX,
        "group": groups.GROUP_INDEX,
        "of": groups.NAME,
    }
    return {"metadata": {"name": "p", "labels": {keys[key]: text for key, text in labels.items()}}}


@pytest.mark.parametrize(
    ("pods", "role"),
    [
        ([pod(role="prefill"), pod(role="prefill")], "prefill"),
        ([pod(set_role="decode")], "decode"),
        ([pod(role="both")], ""),
        ([pod(role="prefill"), pod(role="decode")], ""),
        ([pod(role="prefill"), pod()], ""),
        ([pod(of_aibrix="prefill"), pod(of_kthena="Prefill")], "prefill"),
        ([pod(of_rbg="decode-large")], "decode"),
        ([pod(role="prefill-decode")], ""),
        ([{**pod(of_aibrix="worker"), "role": "decode"}], "decode"),
        ([{**pod(role="both"), "role": "decode"}], ""),
        ([], ""),
    ],
)
def test_a_role_is_one_that_all_pods_have(pods: list[dict[str, Any]], role: str) -> None:
    """Of llm-d and of DisaggregatedSets; pods that differ, or serve whole requests, have none."""
    assert roles.of_pods(pods) == role


def test_each_role_keeps_the_target_that_it_decides() -> None:
    """Prefill by time to first token, decode between tokens; a role without its target keeps all."""
    assert roles.targets("prefill", BOTH) == fleet.Targets(ttft_ms=500, percentile=0.95)
    assert roles.targets("decode", BOTH) == fleet.Targets(itl_ms=24, percentile=0.95)
    assert roles.targets("", BOTH) == BOTH
    only_itl = fleet.Targets(itl_ms=24)
    assert roles.targets("prefill", only_itl) == only_itl


def test_replicas_of_a_role_are_groups() -> None:
    """Leaders count, workers do not; pods without an index are replicas of their own."""
    assert groups.leaders([pod(index="0"), pod(index="1"), pod(index="0"), pod(index="1")]) == 2
    assert groups.leaders([pod(), pod()]) == 2
    assert groups.of_pod(pod(of="g", group="1")) == groups.of_pod(pod(of="g", group="1", index="1"))


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("python3 -m sglang.launch_server --disaggregation-mode prefill --port 30000", "prefill"),
        ("python3 -m dynamo.vllm --disaggregation-mode=decode", "decode"),
        ("python3 -m dynamo.vllm --model m --is-prefill-worker", "prefill"),
        ("python3 -m dynamo.vllm --is-prefill-worker=false", ""),
        ("python3 -m dynamo.vllm --is-prefill-worker=False --is-decode-worker=true", "decode"),
        ("python3 -m dynamo.vllm --is-prefill-worker --model false", "prefill"),
        ('vllm serve m --kv-transfer-config {"kv_role":"kv_producer"}', "prefill"),
        ("vllm serve m --kv-transfer-config {'kv_role': 'kv_consumer'}", "decode"),
        ('vllm serve m --kv-transfer-config {"kv_role":"kv_both"}', ""),
        (
            'vllm serve m --kv-transfer-config {"kv_role":"kv_both","of":[{"kv_role":"kv_producer"}]}',
            "",
        ),
        ('python3 -m dynamo.vllm --is-decode-worker {"kv_role":"kv_both"}', "decode"),
        ("python3 -m sglang.launch_server --disaggregation-mode null", ""),
        ("vllm serve m", ""),
    ],
)
def test_flags_say_what_labels_do_not(command: str, role: str) -> None:
    """A server that is started for one part of requests has that role."""
    assert command_lines.role([{"command": command.split()}]) == role


def test_prefill_pods_beside_decode_pods_of_one_target() -> None:
    """Their endpoints are told apart, so that a request at both counts once; alone they are all there is."""
    prefill = {**pod(of_aibrix="prefill"), "ready": True}
    decode = {**pod(of_aibrix="decode"), "metadata": {**pod(of_aibrix="decode")["metadata"]}}
    decode["metadata"]["name"] = "d"
    serving = Serving(endpoints=("http://p/", "http://p:1/", "http://d/"), names=("p", "p", "d"))
    both = roles.paired([prefill, decode], serving)
    assert both.prefilling == {"http://p/", "http://p:1/"}
    assert roles.paired([prefill], serving) == serving
