"""Replicas with a role: prefill and decode are sized by the target that each decides."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.planning import fleet
from adapter.resources.serving import groups, roles

BOTH = fleet.Targets(itl_ms=24, ttft_ms=500, percentile=0.95)


def pod(**labels: str) -> dict[str, Any]:
    """A pod with these labels, whose keys have `_` for what names do not allow."""
    keys = {
        "role": roles.LABELS[0],
        "set_role": roles.LABELS[1],
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
    assert "time to first token" in roles.text("prefill")
    assert roles.text("") == ""


def test_replicas_of_a_role_are_groups() -> None:
    """Leaders count, workers do not; pods without an index are replicas of their own."""
    assert groups.leaders([pod(index="0"), pod(index="1"), pod(index="0"), pod(index="1")]) == 2
    assert groups.leaders([pod(), pod()]) == 2
    assert groups.of_pod(pod(of="g", group="1")) == groups.of_pod(pod(of="g", group="1", index="1"))
