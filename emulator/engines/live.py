"""The engine that schedules as vLLM, in real time or faster: what the emulated server runs.

It sleeps until the step in progress ends; a step that is handled late still ends at its own time, so that
throughput stays exact at any speed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from emulator.engine import CATCH_UP_YIELD, Request
from emulator.engines.protocol import Completion, EngineState
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes


class LiveSchedulerEngine:
    """Runs the requests of one server; times in scenario ms."""

    def __init__(
        self,
        times: StepTimes,
        limits: SchedulerLimits,
        *,
        speed: float = 1.0,
        on_token: Callable[[Request, float], None] = lambda _request, _gap_ms: None,
        on_finish: Callable[[Completion], None] = lambda _completion: None,
    ) -> None:
        """An engine at `speed` scenario ms per real ms.

        `on_token` gets the gap to the token before in ms; for the first token, since the arrival.
        """
        if not (math.isfinite(speed) and speed > 0):
            raise ValueError(f"speed: must be a number > 0, not {speed}")
        self._engine = SchedulerEngine(times, limits)
        self.limits = limits
        self._speed = speed
        self._on_token = on_token
        self._on_finish = on_finish
        self._active: dict[int, Request] = {}
        self._numbers: dict[Request, int] = {}
        self._wake = asyncio.Event()

    def now_ms(self) -> float:
        """Scenario time."""
        return asyncio.get_running_loop().time() * 1000.0 * self._speed

    def submit(self, *, input_tokens: int, output_tokens: int) -> Request:
        """Queue a request; its tokens come through `request.tokens`. ValueError when it can never fit."""
        # One reading of the clock: with two, the engine stands before the arrival, so that no step begins.
        # Once the loop is back, all steps until then would end at once, and give out no tokens.
        now_ms = self.now_ms()
        self._catch_up(now_ms)
        arrived_ms = max(now_ms, self._engine.now_ms)
        number = self._engine.submit(
            arrival_ms=arrived_ms, input_tokens=input_tokens, output_tokens=output_tokens
        )
        request = Request(
            input_tokens=input_tokens, output_tokens=output_tokens, arrived_ms=arrived_ms
        )
        self._active[number] = request
        self._numbers[request] = number
        self._begin()
        self._wake.set()
        return request

    def abort(self, request: Request) -> bool:
        """Drop a request wherever it is; false when it had ended before."""
        number = self._numbers.pop(request, None)
        if number is None:
            return False
        del self._active[number]
        self._engine.cancel(number)
        return True

    def state(self) -> EngineState:
        """Gauges and counters of now."""
        self._catch_up(self.now_ms())
        return self._engine.state()

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._active)

    @property
    def prompt_tokens_in_prefill(self) -> int:
        """Of requests without a token, whole prompts, as vLLM's API server counts them."""
        return sum(r.input_tokens for r in self._active.values() if not r.generated)

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self._wake.clear()
            self._catch_up(self.now_ms(), most=CATCH_UP_YIELD)
            due_ms = self._engine.step_end_ms
            if due_ms == math.inf:
                await self._wake.wait()
            elif due_ms > self.now_ms():
                await self._sleep_until(due_ms)
            else:
                await asyncio.sleep(0)

    async def _sleep_until(self, due_ms: float) -> None:
        """Until then, or until a request comes."""
        timer = asyncio.get_running_loop().call_at(due_ms / 1000.0 / self._speed, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _begin(self) -> None:
        """A step with those who are there, if none is in progress."""
        if self._engine.step_end_ms == math.inf:
            self._engine.advance(math.nextafter(self._engine.now_ms, math.inf))

    def _catch_up(self, now_ms: float, most: int | None = None) -> None:
        """End the steps until then, one after the other, at most so many."""
        engine, ended = self._engine, 0
        while engine.step_end_ms <= now_ms and ended != most:
            engine.advance(engine.step_end_ms)
            self._give_out(engine.now_ms)
            self._begin()
            ended += 1
        if engine.step_end_ms > now_ms > engine.now_ms:
            engine.advance(now_ms)

    def _give_out(self, at_ms: float) -> None:
        """Tokens of the step that has just ended."""
        ended = {completion.number: completion for completion in self._engine.take_completions()}
        for number, request in list(self._active.items()):
            completion = ended.get(number)
            made = request.output_tokens if completion else self._engine.generated(number)
            if made == request.generated:
                continue
            before_ms = request.last_token_ms
            if before_ms is None:
                before_ms = request.arrived_ms
                request.first_token_ms = at_ms
            self._on_token(request, at_ms - before_ms)
            request.last_token_ms = at_ms
            request.generated = made
            if completion is not None:
                del self._active[number], self._numbers[request]
                request.admitted_ms = completion.start_ms
                self._on_finish(completion)
            request.tokens.put_nowait(at_ms)
