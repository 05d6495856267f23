"""Events of a tenant's variants: changes or names without end do not fill the cluster's storage."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import structlog

from adapter.controller.live import events
from adapter.controller.live.events import EventWriter
from adapter.kube.client import Cluster
from adapter.kube.errors import Forbidden

pytestmark = pytest.mark.virtual_time


class Counting(Cluster):
    """An API server that counts Events by the variant that they are about."""

    def __init__(self) -> None:
        self.number = Counter[str]()

    async def request(
        self, method: str, path: str, *, body: Any = None, **more: Any
    ) -> dict[str, Any]:
        assert (method, path.rpartition("/")[2], more) == ("POST", "events", {})
        self.number["/".join(body["regarding"][name] for name in ("namespace", "name"))] += 1
        return {}


def status(replicas: int) -> dict[str, Any]:
    condition = {"type": "OptimizationReady", "status": "True", "reason": "-", "message": "-"}
    allocation = {"numReplicas": replicas, "accelerator": "a"}
    return {"desiredOptimizedAlloc": allocation, "conditions": [condition]}


async def test_a_variant_that_changes_in_every_cycle_has_few_events() -> None:
    """Each cycle wrote one, for an hour in etcd; an Event of another variant is written all the same."""
    api = Counting()
    writer = EventWriter(api, identity="a", now=lambda: 1.0)
    for turn in range(600):
        writer.add("t/v", "u", status(turn), status(turn + 1))
        await writer.write()
        await asyncio.sleep(1.0)
    writer.add("t/w", "u", status(1), status(2))
    writer.add("m/v", "u", status(1), status(2))
    await writer.write()
    assert api.number["t/v"] <= events.BURST + events.PER_SECOND * 600 + 1
    assert api.number["t/v"] >= events.BURST
    assert (api.number["t/w"], api.number["m/v"]) == (1, 1)


async def test_variants_that_are_made_anew_share_the_events_of_their_namespace() -> None:
    """Each name had Events of its own."""
    api = Counting()
    writer = EventWriter(api, identity="a", now=lambda: 1.0)
    for turn in range(30):
        for number in range(100):
            writer.add(f"t/v{turn}-{number}", "u", {}, status(1))
        await writer.write()
        await asyncio.sleep(1.0)
    writer.add("m/v", "u", {}, status(1))
    await writer.write()
    theirs = api.number.total() - 1
    assert theirs <= events.NAMESPACE_BURST + events.NAMESPACE_PER_SECOND * 30 + 1
    assert api.number["m/v"] == 1


class Refusing(Cluster):
    """An API server that takes no Events."""

    def __init__(self) -> None:
        pass

    async def request(
        self, method: str, path: str, *, body: Any = None, **more: Any
    ) -> dict[str, Any]:
        raise Forbidden(f"{method} of {body['kind']} is forbidden", path=path, **more)


async def test_a_refused_event_is_said_of_its_variant() -> None:
    """One tenant's refused Events took the lines of all: the log counts them by namespace."""
    writer = EventWriter(Refusing(), identity="a", now=lambda: 1.0)
    writer.add("m/v", "u", {}, status(1))
    with structlog.testing.capture_logs() as logs:
        await writer.write()
    assert [log["variant"] for log in logs] == ["m/v"]
