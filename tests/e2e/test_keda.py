"""KEDA's generated client over TLS against the program in a real control plane."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapter.keda.protocol import externalscaler_pb2 as messages
from tests.e2e import control_plane, installation
from tests.e2e.gateway import Gateway
from tests.e2e.installation import SYSTEM, VARIANTS, Installation, until
from tests.fakes import cluster_world as worlds
from tests.fakes.keda_operator import Certificates, reference

pytestmark = control_plane.MARKS

SECRET = f"/api/v1/namespaces/{SYSTEM}/secrets/variant-adapter-certs"


class Scaler:
    """The port of each replica of the adapter, with the client certificate of KEDA's operator."""

    def __init__(self, cluster: Installation, folder: Path) -> None:
        self._cluster = cluster
        self._ca = folder / "keda/keda-ca.crt"
        self.certificates = Certificates(folder / "keda")

    def flags(self, port: int) -> tuple[str, ...]:
        """Flags as the overlay for KEDA has them."""
        return (f"--keda-port={port}", "--keda-host=127.0.0.1", f"--keda-client-ca-file={self._ca}")

    async def trust(self) -> None:
        """Take the adapter's authority from its Secret, as docs/keda.md says."""

        async def issued() -> Any:
            return await self._cluster.get(SECRET)

        secret = await until(issued, what="the Secret")
        self.certificates.trusted = base64.b64decode(secret["data"]["ca.crt"])

    @contextlib.asynccontextmanager
    async def operator(self, port: int) -> AsyncIterator[Any]:
        await self.trust()
        async with self.certificates.channel(f"127.0.0.1:{port}") as stub:
            yield stub


def asked() -> messages.GetMetricsRequest:
    return messages.GetMetricsRequest(scaledObjectRef=reference())


async def value(stub: Any) -> int | str:
    """Replicas, or the code of the error."""
    try:
        (cluster,) = (await stub.GetMetrics(asked())).metricValues
    except grpc.RpcError as error:
        return str(error.code().name)
    return int(cluster.metricValueFloat)


async def test_before_the_first_decision_through_leaders_and_withdrawal(tmp_path: Path) -> None:
    """Specs at any time, no value before a decision, none missed while leaders change, error at the end."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        del cluster.pages.finished["v-0"]  # its pod does not answer yet
        scaler = Scaler(cluster, tmp_path)
        ports = control_plane.free_port(), control_plane.free_port()
        short = ("--time-to-live=20s",)
        async with cluster.replica("a", *scaler.flags(ports[0]), *short) as a:
            await until(a.ready, what="a's readiness", log=a.log)
            async with scaler.operator(ports[0]) as first:
                (spec,) = (await first.GetMetricSpec(reference())).metricSpecs
                assert spec.targetSize == 1
                assert await value(first) == "UNAVAILABLE"
                cluster.pages.finished["v-0"] = 0.0
                cluster.pages.load["v"] = 6.0

                async def known(stub: Any = first) -> bool:
                    number = await value(stub)
                    return isinstance(number, int) and number > 1

                await until(known, what="the value at the leader", log=a.log)
                assert (await first.IsActive(reference())).result
            async with (
                cluster.replica(
                    "b", *scaler.flags(ports[1]), *short, port=control_plane.free_port()
                ) as b,
                scaler.operator(ports[1]) as second,
            ):
                await until(b.ready, what="b's readiness")
                await until(lambda: known(second), what="the value at the follower")
                before = await value(second)
                a.process.send_signal(signal.SIGKILL)
                told: set[int | str] = set()

                async def leads() -> bool:
                    told.add(await value(second))
                    return await b.leads()

                await until(leads, what="b's leadership")
                assert told == {before}
                cluster.pages.load["v"] = 40.0

                async def more() -> bool:
                    number = await value(second)
                    return isinstance(number, int) and number > int(before)

                await until(more, what="b's decision")
                del cluster.pages.finished["v-0"]

                async def withdrawn() -> bool:
                    return await value(second) == "UNAVAILABLE"

                await until(withdrawn, what="the withdrawal")
                await cluster.plane.call("DELETE", f"{VARIANTS}/v")

                async def unknown() -> bool:
                    return await value(second) == "NOT_FOUND"

                await until(unknown, what="the end of the variant")


async def pushed(stream: Any) -> float:
    """The time at which a stream says that the variant is active."""
    while not (await stream.read()).result:
        pass
    return time.monotonic()


async def patched(cluster: Installation) -> float:
    """The time at which the Deployment is not at zero any more."""
    async with asyncio.timeout(60):
        while not await cluster.replicas():  # noqa: ASYNC110 - as seen from outside
            await asyncio.sleep(0.02)
    return time.monotonic()


async def test_a_request_at_the_gateway_wakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pushed to KEDA by leader and follower, and patched on /scale; how long both took is printed."""
    gateway = Gateway()
    async with control_plane.running(tmp_path) as plane:
        cluster = Installation(plane)
        await cluster.install()
        for name in ("scale.yaml", "fence.yaml"):
            file = installation.ROOT / "manifests/overlays/actuate" / name
            await cluster.kubectl("apply", "-f", str(file))
        async with cluster.pages.served(gateway=gateway.handle):
            # At zero, and without addresses that are named: there is no pod to ask.
            await cluster.workload("v", 0, **{"llmd.ai/allow-scale": "true"})
            await cluster.plane.create(VARIANTS, worlds.variant("v"))
            scaler = Scaler(cluster, tmp_path)
            ports = control_plane.free_port(), control_plane.free_port()
            flags = (
                f"--gateway-metrics=http://127.0.0.1:{cluster.pages.port}/gateway",
                "--scale-to-zero", "--scale-to-zero-retention=2s",
            )  # fmt: skip
            async with (
                cluster.replica("a", *scaler.flags(ports[0]), *flags) as a,
                cluster.replica(
                    "b", *scaler.flags(ports[1]), *flags, port=control_plane.free_port()
                ) as b,
            ):
                for replica in (a, b):
                    await until(replica.ready, what="readiness", log=replica.log)

                async def at_zero() -> bool:
                    return await cluster.desired() == 0

                await until(at_zero, what="the target of 0", log=a.log)
                async with (
                    scaler.operator(ports[0]) as first,
                    scaler.operator(ports[1]) as second,
                ):
                    streams = [stub.StreamIsActive(reference()) for stub in (first, second)]
                    for stream in streams:
                        assert not (await asyncio.wait_for(stream.read(), 60)).result

                    gateway.waiting, started = 3, time.monotonic()
                    async with asyncio.timeout(90):
                        took = await asyncio.gather(patched(cluster), *map(pushed, streams))
        names = ("/scale patched", "pushed by a", "pushed by b")
        for name, at in zip(names, took, strict=True):
            control_plane.measured(
                capsys, f"{name} {at - started:.2f} s after the request at the gateway"
            )
