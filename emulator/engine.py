"""Continuous batching as in a vLLM server, with step times of a performance profile.

A request waits until fewer than `max_batch` are in service. Its prefill takes gamma + delta * input_tokens *
batch ms (nothing without input tokens) and yields the first token; each iteration of alpha + beta * batch ms
yields one more.

The engine schedules its events in scenario time (admission, end of a prefill, end of an iteration) and sleeps
until the next one. An event that is handled late is still dated at its own time, so throughput stays exact at
any speed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

CATCH_UP_YIELD = 64
"""Overdue events after which the engine yields to other tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """Step times of an engine, see the module's docstring.

    Attributes:
        alpha_ms: Constant part of an iteration's time.
        beta_ms: Part of an iteration's time per request in the batch.
        gamma_ms: Constant part of a prefill's time.
        delta_ms: Part of a prefill's time per input token and request in the batch.
        max_batch: Largest number of requests in a batch.

    """

    alpha_ms: float
    beta_ms: float
    gamma_ms: float = 0.0
    delta_ms: float = 0.0
    max_batch: int

    def __post_init__(self) -> None:
        times = (self.alpha_ms, self.beta_ms, self.gamma_ms, self.delta_ms)
        if not all(math.isfinite(value) and value >= 0 for value in times):
            raise ValueError("alpha, beta, gamma and delta must be ms >= 0")
        if self.max_batch < 1:
            raise ValueError(f"max_batch: must be >= 1, not {self.max_batch}")


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request in the engine; times are scenario ms.

    Attributes:
        input_tokens: Prompt tokens.
        output_tokens: Tokens to generate.
        arrived_ms: Time of arrival.
        admitted_ms: Time of admission into the batch; None before.
        first_token_ms: Time of the first token; None before.
        last_token_ms: Time of the latest token; None before the first.
        ready_ms: End of the prefill, once admitted.
        generated: Tokens generated so far.
        tokens: Queue that receives the time of each generated token.

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
    """Serves the requests of one server by continuous batching."""

    def __init__(
        self,
        profile: EngineProfile,
        *,
        speed: float = 1.0,
        on_token: Callable[[Request, float], None] = lambda _request, _gap_ms: None,
        on_finish: Callable[[Request], None] = lambda _request: None,
    ) -> None:
        """Create an engine that runs at `speed` scenario ms per real ms.

        Args:
            profile: Step times and batch size.
            speed: Scenario time per real time.
            on_token: Called per token with the ms since the token before, or since the arrival.
            on_finish: Called when a request has all its tokens.

        Raises:
            ValueError: The speed is not a number above 0.

        """
        if not (math.isfinite(speed) and speed > 0):
            raise ValueError(f"speed: must be a number > 0, not {speed}")
        self.profile = profile
        self._speed = speed
        self._on_token = on_token
        self._on_finish = on_finish
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._iterating: list[Request] = []
        self._iteration_ends_ms: float | None = None
        self._at_ms = 0.0
        self._freed_ms = 0.0
        self._wake = asyncio.Event()

    def now_ms(self) -> float:
        """Present scenario time."""
        return asyncio.get_running_loop().time() * 1000.0 * self._speed

    def submit(self, *, input_tokens: int, output_tokens: int) -> Request:
        """Queue a request, whose tokens arrive in `request.tokens`."""
        request = Request(
            input_tokens=input_tokens, output_tokens=output_tokens, arrived_ms=self.now_ms()
        )
        self.waiting.append(request)
        self._wake.set()
        return request

    def abort(self, request: Request) -> bool:
        """Drop a waiting or running request; false if it has ended already."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        else:
            return False
        self._freed_ms = self.now_ms()
        self._wake.set()
        return True

    async def run(self) -> None:
        """Serve until cancelled."""
        behind = 0
        while True:
            self._wake.clear()
            due_ms = self._next_event_ms()
            if due_ms is None:
                await self._wake.wait()
            elif due_ms > self.now_ms():
                behind = 0
                await self._sleep_until(due_ms)
            else:
                self._at_ms = due_ms
                self._handle(due_ms)
                behind += 1
                if behind % CATCH_UP_YIELD == 0:
                    await asyncio.sleep(0)

    async def _sleep_until(self, due_ms: float) -> None:
        """Sleep until that scenario time, or until a request is submitted or aborted."""
        timer = asyncio.get_running_loop().call_at(due_ms / 1000.0 / self._speed, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _next_event_ms(self) -> float | None:
        times = [r.ready_ms for r in self.running if r.first_token_ms is None]
        if self._iteration_ends_ms is not None:
            times.append(self._iteration_ends_ms)
        if self.waiting and len(self.running) < self.profile.max_batch:
            times.append(max(self.waiting[0].arrived_ms, self._freed_ms))
        return max(min(times), self._at_ms) if times else None

    def _handle(self, at_ms: float) -> None:
        """Handle all events of that time."""
        if self._iteration_ends_ms is not None and self._iteration_ends_ms <= at_ms:
            self._iteration_ends_ms = None
            for request in self._iterating:
                if request in self.running:
                    self._token(request, at_ms)
        # A request without prefill and with one token ends at once and makes room for another.
        while self._admit(at_ms) + self._end_prefills(at_ms):
            pass
        if self._iteration_ends_ms is None:
            self._iterating = [r for r in self.running if r.first_token_ms is not None]
            if self._iterating:
                batch = len(self.running)
                step_ms = self.profile.alpha_ms + self.profile.beta_ms * batch
                self._iteration_ends_ms = at_ms + step_ms

    def _admit(self, at_ms: float) -> int:
        admitted = 0
        while (
            self.waiting
            and len(self.running) < self.profile.max_batch
            and max(self.waiting[0].arrived_ms, self._freed_ms) <= at_ms
        ):
            request = self.waiting.popleft()
            self.running.append(request)
            request.admitted_ms = at_ms
            request.ready_ms = at_ms
            if request.input_tokens:
                work = request.input_tokens * len(self.running)
                request.ready_ms += self.profile.gamma_ms + self.profile.delta_ms * work
            admitted += 1
        return admitted

    def _end_prefills(self, at_ms: float) -> int:
        ready = [r for r in self.running if r.first_token_ms is None and r.ready_ms <= at_ms]
        for request in ready:
            self._token(request, at_ms)
        return len(ready)

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
