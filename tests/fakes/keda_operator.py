"""KEDA's operator and the HPA that it makes, as far as an external scaler meets them: calls in KEDA's order.

What is done with the answers follows KEDA 2.20: a pushed `true` scales from zero once the HPA is made, a
pushed `false` is ignored, an error keeps the replicas or, after `failureThreshold` of them, is a fallback.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import trustme
from grpc import aio

from adapter.keda.options import KedaOptions
from adapter.keda.protocol import externalscaler_pb2 as messages
from adapter.keda.protocol import externalscaler_pb2_grpc as contract

SERVER = "variant-adapter.variant-adapter-system.svc"


class Certificates:
    """Files of the two authorities: of the adapter's port, and of KEDA's operator.

    Attributes:
        trusted: Authority that the operator trusts, PEM; that of the adapter's port.

    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.server, self.keda = trustme.CA(), trustme.CA()
        self.trusted = self.server.cert_pem.bytes()
        self.serve()
        self.client = self.keda.issue_cert("keda-operator.keda.svc")
        self.keda.cert_pem.write_to_path(str(folder / "keda-ca.crt"))

    def serve(self) -> None:
        """Write a serving certificate, in place of the one before."""
        made = self.server.issue_cert(SERVER)
        made.private_key_pem.write_to_path(str(self._folder / "tls.key"))
        made.cert_chain_pems[0].write_to_path(str(self._folder / "tls.crt"))

    def options(self, callers: str = "certificate") -> KedaOptions:
        return KedaOptions(
            host="127.0.0.1",
            port=0,
            callers=callers,  # type: ignore[arg-type] # one of three words
            client_ca=self._folder / "keda-ca.crt" if callers == "certificate" else None,
            certificate=self._folder / "tls.crt",
            key=self._folder / "tls.key",
        )

    def credentials(self, client: trustme.LeafCert | None) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=self.trusted,
            private_key=None if client is None else client.private_key_pem.bytes(),
            certificate_chain=None if client is None else client.cert_chain_pems[0].bytes(),
        )

    @contextlib.asynccontextmanager
    async def channel(
        self, address: str, *, client: trustme.LeafCert | None = None, mutual: bool = True
    ) -> AsyncIterator[Any]:
        """The generated client over TLS; with the operator's certificate unless another or none is given."""
        leaf = self.client if mutual and client is None else client
        options = (("grpc.ssl_target_name_override", SERVER), ("grpc.use_local_subchannel_pool", 1))
        async with aio.secure_channel(address, self.credentials(leaf), options=options) as channel:
            yield contract.ExternalScalerStub(channel)


def reference(name: str = "so", **metadata: str) -> messages.ScaledObjectRef:
    """A ScaledObject of namespace team-a; its trigger's metadata, by default of variant v."""
    return messages.ScaledObjectRef(
        name=name,
        namespace="team-a",
        scalerMetadata={"scalerAddress": "adapter:9443", "variant": "v", **metadata},
    )


@dataclass
class ScaledObject:
    """A ScaledObject with `minReplicaCount: 0` and no cool-down, and its scale target.

    Attributes:
        replicas: Replicas of the scale target.
        scale: Sets them.
        fallback: Replicas of the fallback; None without one.
        threshold: Errors in a row after which it counts.
        log: What happened, in order.

    """

    replicas: Callable[[], int]
    scale: Callable[[int], None]
    fallback: int | None = None
    threshold: int = 2
    failures: int = 0
    log: list[str] = field(default_factory=list)


class Operator:
    """Drives one ScaledObject against one replica of the adapter."""

    def __init__(
        self, stub: Any, scaled: ScaledObject, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.stub = stub
        self.scaled = scaled
        self.ref = reference(**(metadata or {}))
        self.metric = ""
        self.pushed: list[bool] = []

    async def reconcile(self) -> None:
        """Make the HPA: without metric specs KEDA makes none."""
        specs = await self.stub.GetMetricSpec(self.ref)
        (spec,) = specs.metricSpecs
        assert spec.targetSizeFloat == spec.targetSize == 1
        self.metric = spec.metricName

    async def push(self) -> None:
        """Follow the stream, until cancelled; one that ends is opened again."""
        while True:
            with contextlib.suppress(grpc.RpcError):
                async for answer in self.stub.StreamIsActive(self.ref):
                    self.pushed.append(answer.result)
                    if answer.result and self.metric and self.scaled.replicas() == 0:
                        self.scaled.log.append("pushed from zero")
                        self.scaled.scale(1)
            await asyncio.sleep(0.05)

    async def poll(self) -> str:
        """One polling interval, and one sync of the HPA; gives the code of the error, empty for an answer."""
        scaled = self.scaled
        try:
            request = messages.GetMetricsRequest(scaledObjectRef=self.ref, metricName=self.metric)
            (value,) = (await self.stub.GetMetrics(request)).metricValues
            active = (await self.stub.IsActive(self.ref)).result
        except grpc.RpcError as error:
            scaled.failures += 1
            if scaled.fallback is not None and scaled.failures > scaled.threshold:
                scaled.log.append("fallback")
                scaled.scale(scaled.fallback)
            return str(error.code().name)
        assert value.metricName == self.metric
        assert value.metricValueFloat == value.metricValue
        scaled.failures = 0
        if not active:
            if scaled.replicas():
                scaled.log.append("to zero")
                scaled.scale(0)
        elif scaled.replicas() == 0:
            scaled.log.append("polled from zero")
            scaled.scale(1)
        else:
            # The HPA: AverageValue 1, and never below 1.
            scaled.scale(max(int(value.metricValueFloat), 1))
        return ""
