"""The port of the external scaler: who is let in, and what a stranger cannot do to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc import aio

from adapter import cli
from adapter.app.endpoints import Endpoints
from adapter.keda import server, service
from adapter.keda.protocol import externalscaler_pb2 as messages
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import World, until
from tests.fakes.keda_operator import Certificates, reference

pytestmark = pytest.mark.virtual_time

METRIC = "variant-adapter-desired-replicas"
BINDING = {
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "keda"},
    "roleRef": {"kind": "ClusterRole", "name": "variant-adapter-keda"},
    "subjects": [{"kind": "ServiceAccount", "name": "keda-operator", "namespace": "keda"}],
}


@contextlib.asynccontextmanager
async def serving(
    folder: Path, callers: str = "certificate"
) -> AsyncIterator[tuple[World, Endpoints, Certificates]]:
    certificates = Certificates(folder / "keda")
    rules = [
        *kubernetes_api.manifest_rules(),
        *worlds.manifests("overlays/keda/role.yaml"),
        BINDING,
    ]
    async with worlds.running(folder, rules=rules) as world:
        world.api.identities.tokens |= {
            "keda": {"username": "system:serviceaccount:keda:keda-operator"},
            "tenant": {"username": "ann"},
        }
        world.load["v"] = 60.0
        async with world.replica("a", keda=certificates.options(callers)) as (endpoints, _):
            await until(lambda: endpoints.loop.live.served("team-a/v") == 2)
            yield world, endpoints, certificates


async def code(call: Any) -> str:
    """Code of the error of a call; empty for an answer."""
    try:
        await call
    except grpc.RpcError as error:
        return str(error.code().name)
    return ""


def asked(**metadata: str) -> messages.GetMetricsRequest:
    return messages.GetMetricsRequest(scaledObjectRef=reference(**metadata), metricName=METRIC)


async def test_only_certificates_of_the_authority(tmp_path: Path) -> None:
    """None and one of another authority end in the handshake; without TLS there is nothing at all."""
    async with serving(tmp_path) as (_, endpoints, certificates):
        stranger = trustme.CA().issue_cert("keda-operator.keda.svc")
        async with certificates.channel(endpoints.keda_address) as stub:
            (value,) = (await stub.GetMetrics(asked())).metricValues
            assert (value.metricName, value.metricValueFloat) == (METRIC, 2.0)
        for client, mutual in ((None, False), (stranger, True)):
            async with certificates.channel(
                endpoints.keda_address, client=client, mutual=mutual
            ) as stub:
                assert await code(stub.GetMetricSpec(reference())) == "UNAVAILABLE"
        async with aio.insecure_channel(endpoints.keda_address) as channel:
            call = channel.unary_unary("/externalscaler.ExternalScaler/GetMetricSpec")
            assert await code(call(b"")) == "UNAVAILABLE"


async def test_tokens_and_their_rights(tmp_path: Path) -> None:
    """A token of the cluster whose user may get the variant; specs are for all, as they say nothing."""
    async with (
        serving(tmp_path, "token") as (world, endpoints, certificates),
        certificates.channel(endpoints.keda_address, mutual=False) as stub,
    ):
        assert await code(stub.GetMetrics(asked())) == "UNAUTHENTICATED"
        assert await code(stub.GetMetrics(asked(tokenFromEnv="unknown"))) == "UNAUTHENTICATED"
        assert await code(stub.GetMetrics(asked(tokenFromEnv="tenant"))) == "PERMISSION_DENIED"
        assert await code(stub.GetMetrics(asked(tokenFromEnv="keda"))) == ""
        header = (("authorization", "Bearer keda"),)
        assert await code(stub.IsActive(reference(), metadata=header)) == ""
        stream = stub.StreamIsActive(reference(tokenFromEnv="tenant"))
        assert await code(stream.read()) == "PERMISSION_DENIED"
        world.api.identities.tokens.clear()
        await asyncio.sleep(11)
        assert await code(stub.GetMetrics(asked(tokenFromEnv="keda"))) == "UNAUTHENTICATED"
        assert await code(stub.GetMetricSpec(reference())) == ""


async def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large requests, odd names and too many streams are refused; calls of others are answered meanwhile."""
    monkeypatch.setattr(service, "STREAMS", 2)
    async with (
        serving(tmp_path) as (_, endpoints, certificates),
        certificates.channel(endpoints.keda_address) as stub,
    ):
        large = reference(text="x" * 2 * server.MESSAGE_BYTES)
        assert await code(stub.IsActive(large)) == "RESOURCE_EXHAUSTED"
        for ref in (reference(variant="../v"), messages.ScaledObjectRef(name="v")):
            assert await code(stub.IsActive(ref)) == "INVALID_ARGUMENT"
        wrong = messages.GetMetricsRequest(scaledObjectRef=reference(), metricName="s0-other")
        assert await code(stub.GetMetrics(wrong)) == "INVALID_ARGUMENT"
        assert await code(stub.IsActive(reference(variant="w"))) == "NOT_FOUND"
        streams = [stub.StreamIsActive(reference()) for _ in range(2)]
        for stream in streams:
            assert (await stream.read()).result
        assert await code(stub.StreamMetricSpec(reference()).read()) == "RESOURCE_EXHAUSTED"
        assert await code(stub.GetMetrics(asked())) == ""
        streams.pop().cancel()
        specs = stub.StreamMetricSpec(reference())
        while await code(specs.read()):  # the cancelled stream ends a moment later
            specs = stub.StreamMetricSpec(reference())
        # A server that drains ends the streams, so that KEDA opens them at another one.
        endpoints.begin_shutdown()
        assert await streams[0].read() is aio.EOF
        assert await specs.read() is aio.EOF


async def test_one_namespace_leaves_streams_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks about one namespace without end is refused there, and others still get a stream."""
    monkeypatch.setattr(service, "OWN_STREAMS", 2)
    async with (
        serving(tmp_path) as (_, endpoints, certificates),
        certificates.channel(endpoints.keda_address) as stub,
    ):
        other = messages.ScaledObjectRef(name="w", namespace="team-b")
        greedy = [stub.StreamMetricSpec(other) for _ in range(2)]
        for stream in greedy:
            assert (await stream.read()).metricSpecs
        assert await code(stub.StreamMetricSpec(other).read()) == "RESOURCE_EXHAUSTED"
        assert (await stub.StreamIsActive(reference()).read()).result


async def test_replaced_certificates_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections see the new certificate; half of a pair changes nothing."""
    monkeypatch.setattr(server, "RELOAD_SECONDS", 0.0)
    async with serving(tmp_path) as (_, endpoints, certificates):
        (tmp_path / "keda" / "tls.key").write_bytes(b"")
        async with certificates.channel(endpoints.keda_address) as stub:
            assert await code(stub.IsActive(reference())) == ""
        certificates.server = trustme.CA()
        certificates.trusted = certificates.server.cert_pem.bytes()
        certificates.serve()
        async with certificates.channel(endpoints.keda_address) as stub:
            assert await code(stub.IsActive(reference())) == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--keda-host=::"], "--keda-host: is used with --keda-port only"),
        (["--keda-port=9443"], "--keda-client-ca-file: is needed with"),
        (
            ["--keda-port=9443", "--keda-callers=none", "--keda-client-ca-file=ca.crt"],
            "--keda-client-ca-file: is used with --keda-callers=certificate only",
        ),
        (
            ["--keda-port=9443", "--keda-callers=none", "--keda-tls-cert-file=tls.crt"],
            "give both or neither",
        ),
        (
            ["--keda-port=9443", "--keda-callers=token", "--variants=."],
            "no cluster reviews tokens",
        ),
    ],
)
def test_flags_that_do_not_go_together(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each names the flag and what to do."""
    assert cli.main(("serve", *given)) == 2
    assert message in capsys.readouterr().err
