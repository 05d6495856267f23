"""Groups of pods of which one serves: what its workers' silence says while that one starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapter.collector import observation
from adapter.collector.observation import CollectedVariant
from adapter.collector.windows.paired import PairedWindow
from adapter.resources.serving import groups
from tests.adapter.collector.test_servers_in_prometheus import VARIANT
from tests.adapter.collector.test_traffic import page


def pod(name: str, group: str, *, ready: bool = True) -> dict[str, Any]:
    """A pod of a Ray cluster."""
    return {
        "metadata": {"name": name, "labels": {"ray.io/cluster": group}},
        "urls": (f"http://{name}/",),
        "ready": ready,
    }


def late(*pods: dict[str, Any], answering: str) -> tuple[str, ...]:
    """Endpoints that are missed of these pods, three replicas, of which one answers all the time."""
    known = [str(item["metadata"]["name"]) for item in pods if item["ready"]]
    source = replace(
        VARIANT,
        endpoints=tuple(f"http://{name}/" for name in known),
        pods=tuple(known),
        replicas=3,
        beside=groups.beside(pods),
    )
    window = PairedWindow(window_seconds=60)
    for now in (0.0, 30.0, 60.0):
        window.add(f"http://{answering}/", page(now), now=now)
    silent = {e: True for e in source.endpoints if e != f"http://{answering}/"}
    collected = CollectedVariant(source=source, window=window)
    return observation.coverage(
        source, collected, now=60.0, stale_after=40.0, failing=silent, scraped=True
    ).late


@pytest.mark.parametrize("ready", [True, False])
def test_workers_without_a_server_are_not_missed_while_a_head_starts(*, ready: bool) -> None:
    """Neither those of the head that answers, nor those of one that is not ready yet; another head is."""
    pods = [
        pod("head-0", "a"), pod("worker-0", "a"),
        pod("head-1", "b", ready=ready), pod("worker-1", "b"),
    ]  # fmt: skip
    missed = ("http://head-1/", "http://worker-1/") if ready else ()
    assert late(*pods, answering="head-0") == missed


def test_pods_of_no_group_are_missed() -> None:
    """A silent replica is a part of the load that is not known."""
    assert late(pod("one", "a"), pod("two", "b"), answering="one") == ("http://two/",)
