"""What Prometheus has of the gateways: as it last answered, for as long as that says something of now."""

from __future__ import annotations

import math
from collections.abc import Awaitable

from adapter.clock import Clock
from adapter.collector.pickers.loads import NO_LOAD, PoolLoad
from adapter.collector.prometheus import PrometheusError
from adapter.collector.promql import GatewayCount

_Answer = tuple[tuple[GatewayCount, ...], PoolLoad]


class QueriedGateways:
    """The last answer, which stays while a later query goes on: one that is slow says nothing of the load.

    A query that fails ends it, and so does its age.
    """

    def __init__(self, clock: Clock, *, oldest: float) -> None:
        """`oldest`: seconds after which it no longer counts."""
        self._clock = clock
        self._oldest = oldest
        self.clear()

    @property
    def counts(self) -> tuple[GatewayCount, ...]:
        """Requests at the gateways; the same object until there is another answer."""
        return self._answer[0] if self._counts_now else ()

    @property
    def load(self) -> PoolLoad:
        """What endpoint pickers show of their pools."""
        return self._answer[1] if self._counts_now else NO_LOAD

    @property
    def _counts_now(self) -> bool:
        return self._clock.monotonic() - self._came_at <= self._oldest

    def clear(self) -> None:
        """Nothing is known."""
        self._answer: _Answer = ((), NO_LOAD)
        self._came_at = -math.inf

    async def read(self, answer: Awaitable[_Answer]) -> PrometheusError | None:
        """Wait for an answer, and use it; why there is none, where nothing is known then."""
        try:
            self._answer = await answer
        except PrometheusError as error:
            self.clear()
            return error
        except BaseException:
            self.clear()
            raise
        self._came_at = self._clock.monotonic()
        return None
