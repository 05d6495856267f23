"""Statuses of one variant that are written by two ways at once: what was decided last stays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from adapter.controller.live import turns
from adapter.controller.state import VariantState
from adapter.controller.status_writer import CONCURRENCY, StatusWriter
from adapter.kube.client import Cluster
from adapter.kube.errors import Conflict
from adapter.planning import fleet
from adapter.resources.variant import VariantSource

pytestmark = pytest.mark.virtual_time


class OneVariant(Cluster):
    """An API server with one variant, whose watch shows each change at once.

    Attributes:
        late: Seconds that the next writes are on their way, first to last; then none.
        written: Replicas that were written, in the order in which they arrived.

    """

    def __init__(self) -> None:
        self.item: dict[str, Any] = {"metadata": {"uid": "u", "resourceVersion": "1"}}
        self.late: list[float] = []
        self.written: list[int] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Sequence[tuple[str, str]] = (),  # noqa: ARG002 - as of a cluster
        content_type: str = "",  # noqa: ARG002
    ) -> dict[str, Any]:
        if method == "GET" or path.endswith("/events"):
            return self.item
        assert body is not None
        await asyncio.sleep(self.late.pop(0) if self.late else 0.0)
        version = self.item["metadata"]["resourceVersion"]
        if body["metadata"]["resourceVersion"] != version:
            raise Conflict("the object has been modified", code=409)
        self.item = {
            "metadata": {"uid": "u", "resourceVersion": str(int(version) + 1)},
            "status": body["status"],
        }
        self.written.append(body["status"]["desiredOptimizedAlloc"]["numReplicas"])
        return self.item


def state(replicas: int) -> dict[str, VariantState]:
    source = VariantSource(
        namespace="n", name="v", model="m", service_class="c", profiles=(), accelerator="A100",
        targets=fleet.Targets(itl_ms=24.0), endpoints=(), replicas=0, spec_replicas=0,
    )  # fmt: skip
    state = VariantState(source=source, desired=replicas, accelerator="A100", decided_at=1.0)
    return {source.key: state}


@pytest.fixture
def api() -> OneVariant:
    return OneVariant()


@pytest.fixture
def writer(api: OneVariant) -> StatusWriter:
    return StatusWriter(
        api, identity="a", watched=lambda _: api.item, leads=lambda: True, refresh_seconds=60.0,
        now=lambda: 1.0,
    )  # fmt: skip


async def test_what_is_due_does_not_overwrite_what_was_decided_meanwhile(
    api: OneVariant, writer: StatusWriter
) -> None:
    """A variant is woken while the zero of the last cycle waits for its turn."""
    await writer.write(state(2), ())
    api.late = [4 * turns.PATIENCE_SECONDS]  # the write of an earlier cycle
    await writer.write(state(3), ())
    await writer.write(state(0), ())
    await writer.write_now(state(1))
    await asyncio.sleep(60.0)
    assert api.written == [2, 1]


async def test_an_older_write_that_arrives_late_is_not_repeated(
    api: OneVariant, writer: StatusWriter
) -> None:
    """It conflicts with the newer one; it would win if it were written anew on that version."""
    await writer.write(state(2), ())
    api.late = [2 * turns.PATIENCE_SECONDS]
    await writer.write(state(0), ())
    await writer.write_now(state(1))
    await asyncio.sleep(60.0)
    assert api.written == [2, 1]


async def test_a_newer_status_is_written_though_it_is_that_of_before(
    api: OneVariant, writer: StatusWriter
) -> None:
    """What is on its way may arrive after all: the status is not known until it has."""
    await writer.write(state(1), ())
    api.late = [2 * turns.PATIENCE_SECONDS, 3 * turns.PATIENCE_SECONDS]
    await writer.write(state(0), ())
    await writer.write_now(state(1))
    await asyncio.sleep(60.0)
    assert api.written == [1, 0, 1]


async def test_one_slow_namespace_leaves_room_for_others() -> None:
    """Writes of its objects that hang are never all that may be in flight."""
    done: list[float] = []
    loop = asyncio.get_running_loop()

    async def hangs() -> None:
        await asyncio.sleep(30.0)

    async def works() -> None:
        done.append(loop.time())

    writes = turns.FairWrites(8)
    theirs = {f"b/{number}": hangs for number in range(100)}
    writes.replace(theirs)
    await writes.wait(5.0)
    began = loop.time()
    writes.replace({**theirs, "a/v": works})
    await writes.wait(5.0)
    assert done == [began]
    writes.stop()


async def test_what_is_written_at_once_begins_no_other_after_a_while(
    api: OneVariant, writer: StatusWriter
) -> None:
    """Thousands that are woken together let nobody wait for all of them; who was told is known."""
    api.late = [3 * turns.PATIENCE_SECONDS] * 100
    names = [f"b{number}" for number in range(50)]
    many = {
        f"n/{name}": replace(item, source=replace(item.source, name=name))
        for name in names
        for item in state(1).values()
    }
    other = replace(state(1)["n/v"].source, namespace="a")
    many["a/v"] = replace(state(1)["n/v"], source=other)
    told = await writer.write_now(many)
    assert told == {"n/b0", "a/v", *(f"n/b{number}" for number in range(1, CONCURRENCY - 1))}
