"""The engine of performance profiles (alpha, beta, gamma, delta) behind the Protocol of `emulator.engines`.

It prefills in parallel, has no KV cache and no preemption: `kv_usage` is running over `max_batch`. Gaps of
single requests are not known. What happens at the moment it is advanced to has happened, the begin of the
next iteration with it.
"""

from __future__ import annotations

import math
from collections import deque

from emulator.engine import EngineProfile
from emulator.engines.protocol import Completion, EngineState
from emulator.server import Request, Server


class ProfileEngine:
    """One replica; see `emulator.engines.VirtualEngine` for the methods."""

    def __init__(self, profile: EngineProfile) -> None:
        """An idle engine at 0 ms."""
        self.profile = profile
        self.now_ms = 0.0
        self._server = Server(number=0, variant=0, profile=profile)
        self._coming: deque[Request] = deque()
        self._known: dict[int, Request] = {}
        self._cancelled: set[int] = set()
        self._submitted = 0
        self._last_arrival_ms = 0.0

    @property
    def max_requests(self) -> int:
        """`max_batch`."""
        return self.profile.max_batch

    @property
    def next_ms(self) -> float:
        """No request ends before."""
        arrival_ms = self._coming[0].arrival_ms if self._coming else math.inf
        return min(self._server.next_ms, arrival_ms)

    def submit(
        self, *, arrival_ms: float, input_tokens: int, output_tokens: int, cached_tokens: int = 0
    ) -> int:
        """Let a request arrive; its prefill is that of the tokens that are not cached."""
        earliest = max(self.now_ms, self._last_arrival_ms)
        if not earliest <= arrival_ms < math.inf:
            raise ValueError(f"arrival_ms: must be finite and >= {earliest}, not {arrival_ms}")
        if input_tokens < 1 or output_tokens < 1:
            raise ValueError(
                f"input_tokens, output_tokens: must be >= 1, not {input_tokens} and {output_tokens}"
            )
        if not 0 <= cached_tokens <= input_tokens:
            raise ValueError(f"cached_tokens: must be 0 to {input_tokens}, not {cached_tokens}")
        request = Request(arrival_ms, 0, input_tokens - cached_tokens, output_tokens)
        number = self._submitted
        self._submitted += 1
        self._last_arrival_ms = arrival_ms
        self._known[number] = request
        self._coming.append(request)
        return number

    def advance(self, until_ms: float) -> None:
        """Let everything happen up to and including that moment; `inf` serves all."""
        if not until_ms >= self.now_ms:
            raise ValueError(f"until_ms: must be >= {self.now_ms}, not {until_ms}")
        while self._coming and self._coming[0].arrival_ms <= until_ms:
            request = self._coming.popleft()
            self._server.run(request.arrival_ms)
            self._server.offer(request, request.arrival_ms)
        self._server.run(math.nextafter(until_ms, math.inf))
        if until_ms < math.inf:
            self.now_ms = until_ms
        else:
            ends = (r.finish_ms for r in self._known.values() if not math.isnan(r.finish_ms))
            self.now_ms = max(self.now_ms, max(ends, default=0.0))

    def take_completions(self) -> list[Completion]:
        """Requests that ended since the last call."""
        ended = [(n, r) for n, r in self._known.items() if not math.isnan(r.finish_ms)]
        for number, _ in ended:
            del self._known[number]
        told = [(number, r) for number, r in ended if number not in self._cancelled]
        self._cancelled.difference_update(number for number, _ in ended)
        return [
            Completion(
                number=number,
                arrival_ms=request.arrival_ms,
                start_ms=request.start_ms,
                first_token_ms=request.first_token_ms,
                last_token_ms=request.finish_ms,
                longest_gap_ms=0.0 if request.output_tokens == 1 else math.nan,
                input_tokens=request.input_tokens,
                output_tokens=request.output_tokens,
                preemptions=0,
            )
            for number, request in sorted(told, key=lambda item: item[1].finish_ms)
        ]

    def state(self) -> EngineState:
        """Gauges and counters; cancelled requests that run count until their end."""
        counters = self._server.counters()
        arrived = sum(request.arrival_ms <= self.now_ms for request in self._coming)
        return EngineState(
            running=counters.running,
            waiting=counters.waiting + arrived,
            kv_usage=counters.kv_cache,
            preemptions=0,
            finished=counters.finished,
            prompt_tokens=round(counters.prompt_tokens[0]),
            generation_tokens=round(counters.generation_tokens[0]),
            ttft_ms=(counters.ttft[0] * 1000, counters.ttft[1]),
            itl_ms=(counters.itl[0] * 1000, counters.itl[1]),
            prompt_tokens_total=counters.prompt_tokens_total,
            cached_tokens_total=0,
            generation_tokens_total=counters.generation_tokens_total,
            ttft_buckets=counters.ttft_buckets,
            tpot_buckets=counters.tpot_buckets,
        )

    def generated(self, number: int) -> int:
        """Tokens that a request in the engine has."""
        request = self._known[number]
        if not math.isnan(request.finish_ms):
            raise KeyError(number)
        return self._server.generated(request)

    def cancel(self, number: int) -> bool:
        """Drop a request; one that runs keeps its place to its end, of which nothing is told."""
        request = self._known.get(number)
        if request is None or number in self._cancelled or not math.isnan(request.finish_ms):
            return False
        if request in self._coming:
            self._coming.remove(request)
        elif request in self._server.waiting:
            self._server.waiting.remove(request)
            self._server.load -= 1
        else:
            self._cancelled.add(number)
            return True
        del self._known[number]
        return True

    def withdraw_waiting(self) -> list[int]:
        """Take out the requests that are not in service, by arrival."""
        server = self._server
        never = {id(request) for request in (*server.waiting, *self._coming)}
        server.load -= len(server.waiting)
        server.waiting.clear()
        self._coming.clear()
        numbers = [number for number, request in self._known.items() if id(request) in never]
        for number in numbers:
            del self._known[number]
        return numbers
