"""`serve` as a process of its own, in real time: flags, SIGTERM, a cluster that does not answer."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import HANG_SECONDS, SYSTEM, until


async def test_the_program_serves_a_cluster_and_ends_well(tmp_path: Path) -> None:
    """`serve --kubeconfig` by its flags alone; SIGTERM gives the lease back and ends with 0."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0 / worlds.SPEED
        entrance = await world.site.entrance("a")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapter", "serve", f"--kubeconfig={entrance.kubeconfig}",
            f"--config-namespace={SYSTEM}", "--port=0", f"--state-dir={tmp_path}/state",
            "--interval=2s", "--scrape-interval=400ms", "--window=4s", "--identity=pod_1",
            # The time to release the lease is a part of it.
            "--lease-duration=2m",
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        leases = "/apis/coordination.k8s.io/v1"
        try:
            await until(lambda: world.desired() == 2)
            lease = world.api.get(leases, "leases", SYSTEM, "variant-adapter")
            assert lease["spec"]["holderIdentity"] == "pod_1"
        finally:
            process.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(process.wait(), HANG_SECONDS)
        assert code == 0
        lease = world.api.get(leases, "leases", SYSTEM, "variant-adapter")
        assert lease["spec"]["holderIdentity"] == ""


async def test_sigterm_ends_a_wait_for_the_cluster(tmp_path: Path) -> None:
    """A program that cannot reach its cluster waits, and still ends when it is told to."""
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        entrance.answer = lambda _method, _path: 503
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapter", "serve", f"--kubeconfig={entrance.kubeconfig}",
            f"--config-namespace={SYSTEM}", "--port=0", f"--state-dir={tmp_path}/state",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), HANG_SECONDS)
        assert b"503" in line
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), HANG_SECONDS) == 0
