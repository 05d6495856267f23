"""One replica of a simulated fleet that is driven by any engine behind the Protocol of `emulator.engines`.

It has the attributes and methods of `emulator.server.Server`. Times of a request are known when it ends, and
its TTFT in the counters counts from its arrival at this replica, as a server's metrics page does.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

from emulator.engines.protocol import Completion, FirstToken, VirtualEngine
from emulator.server import Counters, Request, State
from emulator.vllm_metrics import TOKEN_BUCKETS


class EngineServer:
    """One replica: `offer` queues a request, `run` simulates up to a moment."""

    def __init__(self, *, number: int, variant: int, engine: VirtualEngine) -> None:
        self.number = number
        self.variant = variant
        self.state: State = "pending"
        self.created_ms = self.ready_ms = math.inf
        self.startup_seconds = 0.0
        self.load = 0  # running and waiting
        self.next_ms = math.inf  # no request ends before
        self.max_requests = engine.max_requests
        self._engine = engine
        self._requests: dict[int, Request] = {}  # by the engine's number, that have not ended
        self.prompt_tokens = 0
        self.ended: list[Request] = []
        self.latest_ttft_ms: list[tuple[float, float]] | None = None
        # Engines of others need not tell of first tokens before the end.
        self._first_tokens: Callable[[], list[FirstToken]] | None = getattr(
            engine, "take_first_tokens", None
        )
        self._prompt_buckets = [0] * (len(TOKEN_BUCKETS) + 1)
        self._generation_buckets = [0] * (len(TOKEN_BUCKETS) + 1)

    def offer(self, request: Request, at_ms: float) -> None:
        """Queue a request at that time; ValueError when the engine can never serve it.

        A request without input tokens counts as one token: engines compute at least one.
        """
        number = self._engine.submit(
            arrival_ms=at_ms,
            input_tokens=max(request.input_tokens, 1),
            output_tokens=request.output_tokens,
        )
        self._requests[number] = request
        self.load += 1
        self.prompt_tokens += request.input_tokens
        request.variant = self.variant
        request.server = self
        request.number = number
        self.next_ms = self._engine.next_ms

    def has_first_token(self, request: Request) -> bool:
        """Whether a request that is here has produced a token."""
        return request.number in self._requests and self._engine.generated(request.number) > 0

    def cancel(self, request: Request, at_ms: float) -> None:
        """Drop a request; what the step in progress holds of it is freed at the step's end."""
        if self._engine.cancel(request.number):
            self._forget(self._requests.pop(request.number))
            # A draining replica that serves no request any more ends now, not at its engine's next event.
            self.next_ms = self._engine.next_ms if self.load else at_ms

    def _forget(self, request: Request) -> None:
        self.load -= 1
        self.prompt_tokens -= request.input_tokens

    def run(self, limit_ms: float) -> None:
        """Simulate everything before that time."""
        engine = self._engine
        # The engine counts what ends at the moment itself, and refuses to go back.
        until_ms = math.nextafter(limit_ms, -math.inf)
        if until_ms > engine.now_ms:
            engine.advance(until_ms)
            for ended in engine.take_completions():
                self._end(ended)
        # The fleet relies on progress, whatever an engine says.
        self.next_ms = max(engine.next_ms, limit_ms)
        if self.latest_ttft_ms is not None and self._first_tokens is not None:
            self.latest_ttft_ms += [(at, at - arrival) for at, arrival in self._first_tokens()]

    def _end(self, ended: Completion) -> None:
        request = self._requests.pop(ended.number)
        request.start_ms = ended.start_ms
        request.first_token_ms = ended.first_token_ms
        request.finish_ms = ended.last_token_ms
        request.replica = self.number
        self._forget(request)
        self.ended.append(request)
        self._prompt_buckets[bisect_left(TOKEN_BUCKETS, ended.input_tokens)] += 1
        self._generation_buckets[bisect_left(TOKEN_BUCKETS, ended.output_tokens)] += 1
        if self.latest_ttft_ms is not None and self._first_tokens is None:
            at_ms = ended.first_token_ms
            self.latest_ttft_ms.append((at_ms, at_ms - ended.arrival_ms))

    def withdraw(self) -> list[Request]:
        """Take out the requests that were never in service, for other replicas."""
        withdrawn = [self._requests.pop(number) for number in self._engine.withdraw_waiting()]
        for request in withdrawn:
            self._forget(request)
        self.next_ms = self._engine.next_ms
        return withdrawn

    def counters(self) -> Counters:
        """Metrics at the moment up to which the server has been run."""
        state = self._engine.state()
        return Counters(
            replica=self.number,
            state=self.state,
            started_seconds=self.ready_ms / 1000,
            startup_seconds=self.startup_seconds,
            finished=state.finished,
            running=state.running,
            waiting=state.waiting,
            prompt_tokens=(state.prompt_tokens, state.finished),
            generation_tokens=(state.generation_tokens, state.finished),
            ttft=(state.ttft_ms[0] / 1000, state.ttft_ms[1]),
            itl=(state.itl_ms[0] / 1000, state.itl_ms[1]),
            prompt_tokens_total=state.prompt_tokens_total,
            generation_tokens_total=state.generation_tokens_total,
            kv_cache=state.kv_usage,
            cached_tokens_total=state.cached_tokens_total,
            preemptions=state.preemptions,
            prompt_buckets=tuple(self._prompt_buckets),
            generation_buckets=tuple(self._generation_buckets),
            ttft_buckets=state.ttft_buckets,
            itl_buckets=state.itl_buckets,
            tpot_buckets=state.tpot_buckets,
        )
