"""Thousands of variants at zero that all have requests: another namespace's first request does not wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from adapter.app.gateways import AGAIN_SECONDS, WOKEN_AT_ONCE, GatewayWatch
from adapter.clock import Clock

SECONDS = 0.5
"""Seconds until the targets of those woken at the same time are written."""

MANY = 10 * WOKEN_AT_ONCE

pytestmark = pytest.mark.virtual_time


async def test_each_namespace_has_its_turn_and_all_are_woken() -> None:
    """None of the tenant's starts, though it was woken: that keeps neither others nor its own waiting."""
    assert MANY / WOKEN_AT_ONCE * SECONDS > AGAIN_SECONDS
    crowd = frozenset(f"b/v{number}" for number in range(MANY))
    waking = SimpleNamespace(variants=crowd)
    rounds: list[frozenset[str]] = []

    async def wake(keys: frozenset[str]) -> None:
        rounds.append(keys)
        await asyncio.sleep(SECONDS)

    loop: Any = SimpleNamespace(waking=waking, leading=True)
    installation: Any = SimpleNamespace(gateways=())
    watch = GatewayWatch(
        cast("aiohttp.ClientSession", None), installation, loop=loop, clock=Clock(), wake=wake,
        always=False,
    )  # fmt: skip
    watch._due.set()
    task = asyncio.create_task(watch._wake_those_due())
    await asyncio.sleep(SECONDS / 2)
    waking.variants = crowd | {"a/v"}
    await asyncio.sleep(MANY / WOKEN_AT_ONCE * SECONDS)
    task.cancel()
    assert all(len(keys) <= WOKEN_AT_ONCE for keys in rounds)
    assert "a/v" in rounds[1]
    first_pass = [key for keys in rounds[: MANY // WOKEN_AT_ONCE] for key in keys if key != "a/v"]
    assert len(first_pass) == len(set(first_pass))
