"""The Lease over HTTP: versions, conflicts, UTC microseconds, and two replicas that take turns."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from adapter.kube import client
from adapter.kube.leader_election import (
    Leadership,
    LeaseConflictError,
    LeaseRecord,
    LeaseTimes,
    LeaseUnavailableError,
)
from adapter.kube.lease import KubernetesLease

pytestmark = pytest.mark.virtual_time

BASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
RECORD = LeaseRecord(
    holder="a", duration_seconds=15,
    acquired_at=datetime(2026, 11, 24, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=9))),
    renewed_at=datetime(2026, 11, 24, 3, 0, 1, tzinfo=UTC),
)  # fmt: skip


class Leases:
    """One Lease with optimistic concurrency, as kube-apiserver keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken = False

    async def serve(self, request: web.Request) -> web.Response:
        if self.broken:
            return web.json_response({"message": "no"}, status=500)
        if request.method == "GET":
            if self.lease is None:
                return web.json_response({"message": "not found"}, status=404)
            return web.json_response(self.lease)
        body = await request.json()
        for name in ("acquireTime", "renewTime"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["spec"][name])
        if request.method == "POST":
            if self.lease is not None:
                return web.json_response({"message": "exists"}, status=409)
        elif body["metadata"].get("resourceVersion") != str(self.version):
            return web.json_response({"message": "modified"}, status=409)
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.lease = body
        return web.json_response(body, status=201 if request.method == "POST" else 200)


@contextlib.asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[Leases, client.Cluster]]:
    leases = Leases()
    app = web.Application()
    app.router.add_post(BASE, leases.serve)
    app.router.add_route("*", f"{BASE}/l", leases.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        async with client.connected(folder / "kubeconfig") as cluster:
            yield leases, cluster
    finally:
        await runner.cleanup()


async def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Times in UTC with microseconds, whatever zone they were given in; labels of others stay."""
    async with connected(tmp_path) as (leases, api):
        lease = KubernetesLease(api, namespace="ns", name="l")
        assert await lease.read() is None
        version = await lease.create(RECORD)
        assert await lease.read() == (RECORD, version)
        assert leases.lease is not None
        assert leases.lease["spec"]["acquireTime"] == "2026-11-24T03:00:00.000005Z"
        leases.lease["metadata"]["labels"] = {"of": "others"}
        await lease.read()
        await lease.update(replace(RECORD, holder="b", transitions=1), version)
        assert leases.lease["metadata"]["labels"] == {"of": "others"}
        assert leases.lease["spec"]["leaseTransitions"] == 1


async def test_conflicts_and_failures_are_told_apart(tmp_path: Path) -> None:
    """A stale version and a second first one are conflicts; a broken API is unavailable."""
    async with connected(tmp_path) as (leases, api):
        lease = KubernetesLease(api, namespace="ns", name="l")
        await lease.create(RECORD)
        with pytest.raises(LeaseConflictError):
            await lease.create(RECORD)
        with pytest.raises(LeaseConflictError):
            await lease.update(RECORD, "77")
        leases.broken = True
        with pytest.raises(LeaseUnavailableError):
            await lease.read()
        with pytest.raises(LeaseUnavailableError):
            await lease.update(RECORD, "1")


async def test_two_replicas_take_turns(tmp_path: Path) -> None:
    """Over the real client: one leads, gives the lease back at its end, and the other follows."""
    led: list[str] = []

    async def follow(api: client.Cluster, name: str) -> None:
        async def work() -> None:
            led.append(name)
            await asyncio.Event().wait()

        times = LeaseTimes(duration=3, deadline=2.0, retry=0.1)
        lease = KubernetesLease(api, namespace="ns", name="l")
        await Leadership(lease, identity=name, times=times).run(work)

    async with connected(tmp_path) as (leases, api):
        first = asyncio.create_task(follow(api, "a"))
        await asyncio.sleep(0.3)
        second = asyncio.create_task(follow(api, "b"))
        # Longer than the lease's duration: it is renewed.
        await asyncio.sleep(10)
        assert led == ["a"]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        # One retry, far less than the duration: the lease was released.
        await asyncio.sleep(0.2)
        assert led == ["a", "b"]
        assert leases.lease is not None
        assert leases.lease["spec"]["holderIdentity"] == "b"
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
