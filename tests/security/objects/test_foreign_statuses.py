"""Statuses that others change: a controller with conditions of its own, and a webhook that rewrites ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adapter.controller.status_writer import StatusWriter
from tests.adapter.controller.live.test_status_order import OneVariant, state

CYCLES = 5

Status = dict[str, Any]
Change = Callable[[Status, int], Status]


class Changed(OneVariant):
    """An API server with another party, which changes statuses: as they are written, or afterwards.

    Attributes:
        webhook: Changes what is written, by the number of writes so far.

    """

    def __init__(self, webhook: Change = lambda status, _: status) -> None:
        super().__init__()
        self.webhook = webhook

    async def request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        written = await super().request(method, path, **more)
        if method == "PATCH":
            written["status"] = self.webhook(written["status"], len(self.written))
        return written

    def change(self, change: Change, number: int) -> None:
        """What a controller does to the status that is there."""
        version = int(self.item["metadata"]["resourceVersion"]) + 1
        metadata = {**self.item["metadata"], "resourceVersion": str(version)}
        self.item = {"metadata": metadata, "status": change(self.item["status"], number)}


def writer(api: OneVariant) -> StatusWriter:
    return StatusWriter(
        api, identity="a", watched=lambda _: api.item, leads=lambda: True, refresh_seconds=60.0,
        now=lambda: 1.0,
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
    """One controller had its status written once a cycle for ever, and so had a webhook."""
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
