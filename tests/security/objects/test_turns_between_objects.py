"""What is done for each of thousands of objects is done in pieces: requests are answered in between."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from adapter import tasks
from adapter.kube.client import Cluster
from adapter.resources import watches
from adapter.resources.watched.scope import Scope
from tests.fakes import cluster_world as worlds

MANY = 200


async def test_targets_of_variants_are_looked_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few seconds the references of all variants and managed HPAs are validated."""
    monkeypatch.setattr(tasks, "PIECE_SECONDS", 0.0)

    def ignore(*_: object) -> None:
        pass

    listeners = watches.Listeners(
        changed=ignore, status_changed=ignore, scaled=ignore, pods_changed=ignore
    )
    # Nothing is asked of the cluster where all targets are Deployments, which are watched.
    cluster = cast("Cluster", object())
    objects = watches.ClusterObjects(cluster, Scope(config_namespace="system"), listeners)
    (informer,) = objects._variants
    informer._objects = {
        ("team-b", f"v{number}"): worlds.variant(f"v{number}") for number in range(MANY)
    }
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert not await objects.refresh_scales()
    task.cancel()
    assert turns >= MANY
