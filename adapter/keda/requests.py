"""Requests that do not come: a call whose headers are all that was sent holds one of the places of all.

gRPC begins a method of one request when that has come, and counts the call from its headers on. Here every
method begins at once, and waits for its request itself: for a short time, and for few of one address.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

REQUEST_SECONDS = 5.0
"""Seconds after which a call whose request has not come fails. KEDA sends it with the headers."""

AWAITED = 64
"""Calls of one address whose requests have not come, at most."""


class RequestsInTime(aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Ends calls whose requests do not come."""

    def __init__(self, address_of: Callable[[aio.ServicerContext], str]) -> None:
        """`address_of`: address of a caller, by the context of a call."""
        self._address_of = address_of
        self._awaited: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The method that is called, with its request read here; None where there is none."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        unary, stream = handler.unary_unary, handler.unary_stream

        async def answer(_: Any, context: aio.ServicerContext) -> Any:
            return await unary(await self._request(context), context)

        async def answers(_: Any, context: aio.ServicerContext) -> AsyncIterator[Any]:
            async for item in stream(await self._request(context), context):
                yield item

        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(answers, **coding)
        return grpc.stream_unary_rpc_method_handler(answer, **coding)

    async def _request(self, context: aio.ServicerContext) -> Any:
        address = self._address_of(context)
        if self._awaited[address] >= AWAITED:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{AWAITED} calls of this address have sent no request; send it with the call",
            )
        self._awaited[address] += 1
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await context.read()
        except TimeoutError:
            request = aio.EOF
        finally:
            self._awaited[address] -= 1
            if not self._awaited[address]:
                del self._awaited[address]
        if request is aio.EOF:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "no request has come; send one message with the call",
            )
        return request
