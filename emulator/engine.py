"""Continuous batching as a vLLM server does it, in the times of a performance profile.

A request waits until fewer than `max_batch` are in service, takes gamma + delta * input_tokens * batch
ms of prefill (nothing without input tokens), which gives its first token, and one token more with each
iteration of alpha + beta * batch ms.

The engine keeps its own schedule in scenario time and sleeps until it; what a sleep takes too long
is made up by the next one, so throughput stays exact at any speed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

CATCH_UP_YIELD = 64
"""Iterations after which an engine that is behind lets others run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """Times in ms; see the module's docstring."""

    alpha_ms: float
    beta_ms: float
    gamma_ms: float = 0.0
    delta_ms: float = 0.0
    max_batch: int


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request in the engine; times in scenario ms, None until they are known.

    Attributes:
        tokens: one scenario time per generated token.

    """

    input_tokens: int
    output_tokens: int
    arrived_ms: float
    admitted_ms: float | None = None
    first_token_ms: float | None = None
    last_token_ms: float | None = None
    ready_ms: float = 0.0
    generated: int = 0
    tokens: asyncio.Queue[float] = field(default_factory=asyncio.Queue)


class Engine:
    """Runs the requests of one server."""

    def __init__(
        self,
        profile: EngineProfile,
        *,
        speed: float = 1.0,
        on_token: Callable[[Request, float], None] = lambda _request, _gap_ms: None,
        on_finish: Callable[[Request], None] = lambda _request: None,
    ) -> None:
        """`on_token` gets the gap to the token before in ms (for the first token: since arrival)."""
        self.profile = profile
        self._speed = speed
        self._on_token = on_token
        self._on_finish = on_finish
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._wake = asyncio.Event()

    def now_ms(self) -> float:
        """Scenario time."""
        return asyncio.get_running_loop().time() * 1000.0 * self._speed

    def submit(self, *, input_tokens: int, output_tokens: int) -> Request:
        """Queue a request; its tokens come through `request.tokens`."""
        request = Request(
            input_tokens=input_tokens, output_tokens=output_tokens, arrived_ms=self.now_ms()
        )
        self.waiting.append(request)
        self._wake.set()
        return request

    def abort(self, request: Request) -> None:
        """Drop a request wherever it is."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    async def run(self) -> None:
        """Serve until cancelled."""
        at_ms = self.now_ms()
        behind = 0
        while True:
            if not self.waiting and not self.running:
                self._wake.clear()
                await self._wake.wait()
                at_ms = self.now_ms()
            self._admit(at_ms)
            at_ms = self._advance(at_ms)
            ahead = at_ms - self.now_ms()
            behind = 0 if ahead > 0 else behind + 1
            if ahead > 0 or behind % CATCH_UP_YIELD == 0:
                await asyncio.sleep(max(ahead, 0.0) / 1000.0 / self._speed)
            self._deliver(at_ms)

    def _admit(self, at_ms: float) -> None:
        while self.waiting and len(self.running) < self.profile.max_batch:
            request = self.waiting.popleft()
            self.running.append(request)
            request.admitted_ms = max(at_ms, request.arrived_ms)
            prefill = 0.0
            if request.input_tokens:
                batch = len(self.running)
                prefill = self.profile.gamma_ms + self.profile.delta_ms * (
                    request.input_tokens * batch
                )
            request.ready_ms = request.admitted_ms + prefill

    def _advance(self, at_ms: float) -> float:
        """When the next thing happens: an iteration ends, or a prefill."""
        self._decoding = [r for r in self.running if r.first_token_ms is not None]
        starting = [r.ready_ms for r in self.running if r.first_token_ms is None]
        if starting and (not self._decoding or min(starting) <= at_ms):
            self._decoding = []
            return max(min(starting), at_ms)
        return at_ms + self.profile.alpha_ms + self.profile.beta_ms * len(self.running)

    def _deliver(self, at_ms: float) -> None:
        for request in [*self.running]:
            if request in self._decoding:
                self._token(request, at_ms)
            elif request.first_token_ms is None and request.ready_ms <= at_ms:
                self._token(request, request.ready_ms)

    def _token(self, request: Request, at_ms: float) -> None:
        before = request.last_token_ms
        if before is None:
            request.first_token_ms = at_ms
            self._on_token(request, at_ms - request.arrived_ms)
        else:
            self._on_token(request, at_ms - before)
        request.last_token_ms = at_ms
        request.generated += 1
        if request.generated >= request.output_tokens:
            self.running.remove(request)
            self._on_finish(request)
        request.tokens.put_nowait(at_ms)
