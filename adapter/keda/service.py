"""KEDA's gRPC service `externalscaler.ExternalScaler`: metric, target and activity of each trigger."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

import grpc
import structlog

from adapter.auth import users
from adapter.auth.delegated import Auth
from adapter.keda.callers import RefusedError, check_token
from adapter.keda.protocol import externalscaler_pb2 as messages
from adapter.keda.protocol import externalscaler_pb2_grpc as contract
from adapter.keda.targets import Answer, Targets, Unknown
from adapter.resources.hpa import KEDA_METRIC

log = structlog.get_logger()

STREAMS = 4096
"""Streams that are open at most; KEDA opens two for each ScaledObject."""

OWN_STREAMS = 2048
"""Streams for the variants of one namespace at most, so that one tenant leaves room for others."""

DEADLINE_SECONDS = 5.0
"""Seconds after which a call that waits for a review fails."""

LOOK_SECONDS = 1.0
"""Seconds after which a stream looks again where nothing tells it of a change, as at the end of a target."""

REPEAT_SECONDS = 5.0
"""Seconds after which a wake is told again: KEDA drops what comes before it has made the HPA."""

RECHECK_SECONDS = 60.0
"""Seconds after which the token of an open stream is checked again."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Context(Protocol):
    """What is used of a call's context."""

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with an error; raises."""

    def invocation_metadata(self) -> Any:
        """Metadata that the caller sent."""

    def peer(self) -> str:
        """Address of the caller, as `ipv4:10.0.0.1:40000`."""


class ExternalScaler(contract.ExternalScalerServicer):
    """Answers KEDA from the published targets."""

    def __init__(
        self, targets: Targets, *, auth: Auth | None, draining: Callable[[], bool] = lambda: False
    ) -> None:
        """Make the service.

        Args:
            targets: answers for the variants.
            auth: reviews the token of each call; None where no token is needed.
            draining: whether the server is about to end: open streams then end, so that KEDA opens others.

        """
        self._targets = targets
        self._auth = auth
        self._draining = draining
        self._streams: Counter[str] = Counter()
        self._address_of: Callable[[int], str] = lambda _: ""

    def use_addresses(self, address_of: Callable[[int], str]) -> None:
        """Know callers by the ports from which they are relayed; empty for those that come directly."""
        self._address_of = address_of

    def address(self, context: Context) -> str:
        """Address of a caller; its own, not that of the relay."""
        address, port = _parts(context.peer())
        return (self._address_of(int(port)) if port.isdecimal() else "") or address

    async def GetMetricSpec(  # noqa: N802 - KEDA's name
        self, request: messages.ScaledObjectRef, context: Context
    ) -> messages.GetMetricSpecResponse:
        """One metric with target 1: the HPA then wants as many replicas as its value.

        It says nothing of any variant, and answers everybody at any time: KEDA makes no HPA without it, and
        uses no fallback.
        """
        del request, context
        return _specs()

    async def StreamMetricSpec(  # noqa: N802 - KEDA's name
        self, request: messages.ScaledObjectRef, context: Context
    ) -> AsyncIterator[messages.GetMetricSpecResponse]:
        """The same at once; it never changes."""
        with self._stream(request.namespace) as free:
            if not free:
                await _too_many(context)
            await self._admit(request, context)
            yield _specs()
            checked_at = _now()
            while not self._draining():
                await asyncio.sleep(LOOK_SECONDS)
                if _now() - checked_at >= RECHECK_SECONDS:
                    await self._admit(request, context)
                    checked_at = _now()

    async def GetMetrics(  # noqa: N802 - KEDA's name
        self, request: messages.GetMetricsRequest, context: Context
    ) -> messages.GetMetricsResponse:
        """Desired replicas; an error where they are not known."""
        if request.metricName not in {"", KEDA_METRIC}:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"metricName: {request.metricName[:100]!r} is none of this scaler's; it has {KEDA_METRIC}",
            )
        replicas, _ = await self._answer(request.scaledObjectRef, context)
        value = messages.MetricValue(
            metricName=KEDA_METRIC, metricValue=replicas, metricValueFloat=float(replicas)
        )
        return messages.GetMetricsResponse(metricValues=[value])

    async def IsActive(  # noqa: N802 - KEDA's name
        self, request: messages.ScaledObjectRef, context: Context
    ) -> messages.IsActiveResponse:
        """Whether the scale target shall have replicas; an error where that is not known."""
        _, active = await self._answer(request, context)
        return messages.IsActiveResponse(result=active)

    async def StreamIsActive(  # noqa: N802 - KEDA's name
        self, request: messages.ScaledObjectRef, context: Context
    ) -> AsyncIterator[messages.IsActiveResponse]:
        """Activity whenever it changes; nothing while it is unknown."""
        with self._stream(request.namespace) as free:
            if not free:
                await _too_many(context)
            namespace, name = await self._admit(request, context)
            told: bool | None = None
            told_at = checked_at = _now()
            while not self._draining():
                answer = self._targets.answer(namespace, name)
                if not isinstance(answer, Unknown):
                    again = (
                        self._targets.waking(namespace, name) and _now() - told_at >= REPEAT_SECONDS
                    )
                    if answer[1] != told or again:
                        told, told_at = answer[1], _now()
                        yield messages.IsActiveResponse(result=told)
                        continue
                await self._targets.changes.wait(LOOK_SECONDS)
                if _now() - checked_at >= RECHECK_SECONDS:
                    await self._admit(request, context)
                    checked_at = _now()

    async def _answer(self, request: messages.ScaledObjectRef, context: Context) -> Answer:
        namespace, name = await self._admit(request, context)
        answer = self._targets.answer(namespace, name)
        if isinstance(answer, Unknown):
            code = grpc.StatusCode.NOT_FOUND if answer.missing else grpc.StatusCode.UNAVAILABLE
            await context.abort(code, answer.why)
            raise AssertionError  # noqa: TRY004 - abort raises
        return answer

    async def _admit(self, request: messages.ScaledObjectRef, context: Context) -> tuple[str, str]:
        """Namespace and name of the variant that is asked about, once the caller may."""
        metadata: Mapping[str, str] = dict(request.scalerMetadata)
        namespace, name = request.namespace, metadata.get("variant") or request.name
        for field, value in (("namespace", namespace), ("variant", name)):
            if not _NAME.fullmatch(value):
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"{field}: {value[:100]!r} is no name of a Kubernetes object",
                )
        if self._auth is None:
            return namespace, name
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await check_token(
                    self._auth,
                    sent=context.invocation_metadata() or (),
                    metadata=metadata,
                    variant=(namespace, name),
                    peer=self.address(context),
                )
        except RefusedError as error:
            code = grpc.StatusCode.PERMISSION_DENIED
            await context.abort(
                code if error.known else grpc.StatusCode.UNAUTHENTICATED, str(error)
            )
        except (users.ReviewError, TimeoutError) as error:
            log.warning("access review failed; call refused", method="keda", error=str(error))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the access review failed; try again")
        return namespace, name

    @contextlib.contextmanager
    def _stream(self, namespace: str) -> Iterator[bool]:
        """Count a stream for a variant of that namespace; whether there was room for it."""
        free = self._streams.total() < STREAMS and self._streams[namespace] < OWN_STREAMS
        if not free:
            yield False
            return
        self._streams[namespace] += 1
        try:
            yield True
        finally:
            self._streams[namespace] -= 1
            if not self._streams[namespace]:
                del self._streams[namespace]


async def _too_many(context: Context) -> None:
    await context.abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"{STREAMS} streams are open already, or {OWN_STREAMS} for this namespace; try again",
    )


def _specs() -> messages.GetMetricSpecResponse:
    spec = messages.MetricSpec(metricName=KEDA_METRIC, targetSize=1, targetSizeFloat=1.0)
    return messages.GetMetricSpecResponse(metricSpecs=[spec])


def _parts(peer: str) -> tuple[str, str]:
    """Address and port of a peer such as `ipv4:10.0.0.1:40000` or `ipv6:%5B::1%5D:40000`."""
    address, _, port = peer.partition(":")[2].rpartition(":")
    return (address, port) if address else (peer, "")


def _now() -> float:
    return asyncio.get_running_loop().time()
