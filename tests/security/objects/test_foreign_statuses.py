"""Statuses that others write: conditions of their own, what a webhook makes of ours, and odd values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapter.apiserver.probes import Probes
from adapter.app.managed_targets import ManagedTargets
from adapter.controller.live.events import EventWriter
from adapter.controller.status_writer import StatusWriter
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, NotFound
from adapter.resources import stored_status
from adapter.resources.configuration import rows
from adapter.resources.stored_status import Decided
from adapter.resources.texts.documents import DocumentError, parse_json
from adapter.resources.wva import managed
from tests.adapter.controller.live.test_status_order import OneVariant, state

CYCLES, HOUR = 5, 3600

Status = dict[str, Any]
Change = Callable[[Status, int], Status]


class Changed(OneVariant):
    """An API server with another party, which changes statuses: as they are written, or afterwards.

    Attributes:
        webhook: Changes what is written, by the number of writes so far.
        failing: What it answers to every request; None where it serves them.
        uid: UID of the object from now on.

    """

    failing: ApiError | None = None
    uid = "u"

    def __init__(self, webhook: Change = lambda status, _: status) -> None:
        super().__init__()
        self.webhook = webhook

    async def request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        if self.failing is not None:
            await asyncio.sleep(self.late.pop(0) if self.late else 0.0)
            raise self.failing
        written = await super().request(method, path, **more)
        if method == "PATCH":
            written["status"] = self.webhook(written["status"], len(self.written))
        return written

    def change(self, change: Change, number: int) -> None:
        """What a controller does to the status that is there."""
        version = int(self.item["metadata"]["resourceVersion"]) + 1
        metadata = {"uid": self.uid, "resourceVersion": str(version)}
        self.item = {"metadata": metadata, "status": change(self.item["status"], number)}


def writer(api: OneVariant, now: Callable[[], float] = lambda: 1.0) -> StatusWriter:
    return StatusWriter(
        api, identity="a", watched=lambda _: api.item, leads=lambda: True, refresh_seconds=60.0,
        now=now,
    )  # fmt: skip


def with_own(status: Status, number: int) -> Status:
    """With a condition of its own, which is of another moment each time."""
    own = {"type": "Synced", "status": "False", "reason": "Seen", "message": f"for the {number}th"}
    ours = [item for item in status["conditions"] if item["type"] != own["type"]]
    return {**status, "conditions": [*ours, own]}


def stamped(status: Status, number: int) -> Status:
    """With its mark in every message, another one each time."""
    marked = [{**item, "message": f"{item['message']} [{number}]"} for item in status["conditions"]]
    return {**status, "conditions": marked}


@pytest.mark.virtual_time
@pytest.mark.parametrize("later", [with_own, None], ids=["conditions", "none"])
@pytest.mark.parametrize("webhook", [stamped, None], ids=["webhook", "no-webhook"])
async def test_what_others_do_to_a_status_is_no_reason_to_write(
    later: Change | None, webhook: Change | None
) -> None:
    """Another controller's condition, or a webhook's change, had the status written again in every cycle."""
    api = Changed(webhook) if webhook else Changed()
    written = writer(api)
    for number in range(CYCLES):
        await written.write(state(2), ())
        if later is not None:
            api.change(later, number)
    assert api.written == [2]
    await written.write(state(3), ())
    assert api.written == [2, 3]


@pytest.mark.virtual_time
async def test_what_others_change_of_ours_is_written_again() -> None:
    """A condition of ours that somebody has taken away, or made to say something else."""
    api = Changed()
    written = writer(api)
    await written.write(state(2), ())
    api.change(lambda status, _: {**status, "conditions": status["conditions"][1:]}, 0)
    await written.write(state(2), ())
    api.change(stamped, 0)
    await written.write(state(2), ())
    assert api.written == [2, 2, 2]


@pytest.mark.virtual_time
async def test_who_changes_ours_after_every_write_has_ever_fewer_answers() -> None:
    """A controller that changes a condition of ours after each write had one of each cycle, for ever."""
    now, api = [1.0], Changed()
    written = writer(api, lambda: now[0])
    for number in range(HOUR // 10):
        now[0] += 10.0
        await written.write(state(2), ())
        api.change(stamped, number)
    # One of each 15 minutes, in the end; and what is decided anew is written at once.
    assert len(api.written) <= 12
    await written.write(state(3), ())
    assert api.written[-1] == 3


@pytest.mark.virtual_time
async def test_repairs_of_an_object_that_is_gone_do_not_count() -> None:
    """Another of its name waited for its turn; and so did all for as long as a clock went back."""
    now, api = [1e9], Changed()
    written = writer(api, lambda: now[0])

    async def repaired(number: int) -> int:
        before = len(api.written)
        api.change(stamped, number)
        await written.write(state(2), ())
        return len(api.written) - before

    await written.write(state(2), ())
    assert [await repaired(number) for number in range(4)] == [1, 1, 1, 0]
    now[0] -= HOUR
    assert await repaired(4) == 1
    assert await repaired(5) == 0
    api.uid, api.item = "v", {"metadata": {"uid": "v", "resourceVersion": "100"}}
    await written.write(state(2), ())
    assert await repaired(6) == 1


@pytest.mark.virtual_time
async def test_a_variant_that_goes_while_its_status_is_written_has_no_owner() -> None:
    """It was no error: the log had a traceback for each."""
    api = Changed()
    written = StatusWriter(
        api, identity="a", watched=lambda _: api.item, leads=lambda: True, refresh_seconds=60.0,
        owner_references=True,
    )  # fmt: skip
    (one,) = state(2).values()
    api.late, api.failing = [20.0], NotFound("gone", code=404)
    with structlog.testing.capture_logs() as logs:
        await written.write({"n/v": replace(one, source=replace(one.source, target_uid="t"))}, ())
        await written.write({}, ())
        await asyncio.sleep(60.0)
    assert (api.written, logs) == ([], [])


@pytest.mark.virtual_time
async def test_repairs_that_fail_do_not_count() -> None:
    """An API server that refuses for some cycles had what others changed stay for a minute more."""
    api = Changed()
    written = writer(api)
    await written.write(state(2), ())
    api.change(stamped, 0)
    api.failing = ApiError("no leader", code=500)
    for _ in range(CYCLES):
        await written.write(state(2), ())
    api.failing = None
    await written.write(state(2), ())
    assert api.written == [2, 2]


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z", 5]
)
def test_times_that_cannot_be_written_again_are_left_out(time: object) -> None:
    """One of the year 0 or 10000 made the writing of all statuses fail, and the readiness of all replicas."""
    allocation = {"numReplicas": 3, "accelerator": "a", "lastRunTime": time}
    status = {"history": [{"time": time, "replicas": 1}], "desiredOptimizedAlloc": allocation}
    assert stored_status.history(status) == ()
    assert stored_status.published(status) is None


@pytest.mark.virtual_time
async def test_a_status_that_cannot_be_written_is_its_variants_problem() -> None:
    """It failed each cycle as a whole; whatever the reason, the other variants have theirs."""
    odd, api = Decided(at=1e12, replicas=1, before=0, accelerator="a", reason="?"), Changed()
    (good,) = state(2).values()
    states = {"n/odd": replace(good, source=replace(good.source, name="odd"), history=(odd,))}
    with structlog.testing.capture_logs() as logs:
        written = writer(api)
        for _ in range(CYCLES):
            await written.write({**states, "n/v": good}, ())
        events = EventWriter(api, identity="a", now=lambda: 1.0)
        events.add(
            "n/v", "u", {}, {"desiredOptimizedAlloc": {"numReplicas": 1, "accelerator": "a"}}
        )
        await events.write()
    assert api.written == [2]
    assert [log["variant"] for log in logs] == ["n/odd", "n/v"]


class Patched(Cluster):
    """An API server with one ConfigMap; what it is to hold after a patch."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}

    async def request(
        self, method: str, path: str, *, body: Any = None, **more: Any
    ) -> dict[str, Any]:
        assert (method, path.rpartition("/")[0]) == ("PATCH", "/api/v1/namespaces/a/configmaps")
        assert more
        self.data |= body["data"]
        return {}


ODD_ENTRIES = {
    "brackets": "[" * 100_000,
    "digits": "9" * 5000,
    "list": "[1]",
    "number": '{"lastRunTime": 5}',
    "without-a-zone": '{"lastRunTime": "2026-01-01T00:00:00"}',
}


@pytest.mark.parametrize("text", ODD_ENTRIES.values(), ids=ODD_ENTRIES)
async def test_odd_entries_of_the_config_map_of_targets_are_replaced(text: str) -> None:
    """Endless brackets, by an editor of the adapter's ConfigMaps, made each cycle's writing fail."""
    api = Patched()
    item = {"metadata": {"resourceVersion": "1"}, "data": {"n_v": text}}
    targets = ManagedTargets(
        api, namespace="a", watched=lambda: item, leads=lambda: True, transitions=lambda: 0,
        refresh_seconds=60.0,
    )  # fmt: skip
    await targets.write(state(2))
    assert '"numReplicas": 2' in api.data["n_v"]


HALF = '"\\ud800"'


class Labelled(Collector):
    """One metric with this text as a label."""

    def __init__(self, text: str) -> None:
        self.text = text

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("a", "A.", labels=["accelerator_type"])
        family.add_metric([self.text], 1.0)
        return [family]


async def test_an_entry_of_managed_targets_with_half_a_pair_is_no_target() -> None:
    """It was the accelerator of a target, and with that label no metric of any variant can be written."""
    entry = {"numReplicas": 3, "accelerator": "A", "lastRunTime": "2026-01-01T00:00:00Z"}
    written = json.dumps(entry)
    halved = written.replace('"A"', HALF)
    read = [
        stored_status.published(managed.status_of({"data": {"n_v": text}}, "n/v"))
        for text in (written, halved)
    ]
    assert [item.accelerator if item else None for item in read] == ["A", None]
    for text in ("A", json.loads(HALF)):
        registry = CollectorRegistry()
        registry.register(Labelled(text))
        probes = Probes(registry, {})
        if text == "A":
            assert b'accelerator_type="A"' in await probes.metrics()
        else:
            with pytest.raises(UnicodeEncodeError):
                await probes.metrics()


def test_a_price_with_half_a_pair_is_a_row_that_cannot_be_read() -> None:
    """A whole pair is a character as any other."""
    row = rows.parse_cost("A", f'{{"device": {HALF}, "cost": 4}}')
    assert row.accelerator is None
    assert "half a surrogate pair" in row.problems[0]
    with pytest.raises(DocumentError):
        parse_json(f"{{{HALF}: 1}}")
    assert parse_json('"\\ud83d\\ude00 \\u00e9"') == "\N{GRINNING FACE} é"
