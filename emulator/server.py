"""One emulated vLLM server in virtual time: `emulator.engine.Engine` without a clock of its own.

Batching equals that of the engine, to the last bit. The number of a request's last iteration is known in
advance, so an iteration costs one addition whatever its batch; events are admissions, first tokens and
completions only.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal, Protocol

from emulator.engine import EngineProfile
from emulator.vllm_metrics import ITL_BUCKETS_MS, TTFT_BUCKETS_MS

State = Literal["pending", "starting", "ready", "draining", "ended"]
SumCount = tuple[float, int]
"""Sum and count of a histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Metrics of one server at a moment; latencies in seconds.

    Attributes:
        replica: Number of the server, unique in the fleet like a pod's name.
        state: State of the replica.
        started_seconds: Time since which the replica has been ready.
        startup_seconds: Time from its creation with GPUs until it was ready.
        finished: Finished requests.
        running: Requests in the batch.
        waiting: Requests in the queue.
        prompt_tokens: Prompt tokens per finished request.
        generation_tokens: Generated tokens per finished request.
        ttft: Time to first token per request.
        itl: Inter-token latency per generated token, counted when the token is produced.
        prompt_tokens_total: Prompt tokens of requests with a first token.
        generation_tokens_total: Tokens produced so far.
        kv_cache: Share of the KV cache in use, 0 to 1.
        cached_tokens_total: Prompt tokens of requests with a first token that the prefix cache served.
        preemptions: Requests that lost their KV cache and were computed anew; None without a cache.
        prompt_buckets: Finished requests by prompt tokens: those up to each of
            `emulator.vllm_metrics.TOKEN_BUCKETS` and above the one before, then those above the last; empty
            where the engine does not count them.
        generation_buckets: The same by generated tokens.
        ttft_buckets: Requests with a first token by the time to it: those up to each of
            `emulator.vllm_metrics.TTFT_BUCKETS` and above the one before, then those above the last; empty
            where the engine does not count them.
        itl_buckets: Generated tokens by the time since the one before, by `ITL_BUCKETS`, likewise.
        tpot_buckets: Finished requests by the mean of those times, by `ITL_BUCKETS`, likewise.

    """

    replica: int
    state: State
    started_seconds: float
    finished: int
    running: int
    waiting: int
    prompt_tokens: SumCount
    generation_tokens: SumCount
    ttft: SumCount
    itl: SumCount
    prompt_tokens_total: int
    generation_tokens_total: int
    kv_cache: float
    startup_seconds: float = 0.0
    cached_tokens_total: int = 0
    preemptions: int | None = None
    prompt_buckets: tuple[int, ...] = ()
    generation_buckets: tuple[int, ...] = ()
    ttft_buckets: tuple[int, ...] = ()
    itl_buckets: tuple[int, ...] = ()
    tpot_buckets: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Request:
    """One request; the fields are those of `simulation.Results`, and where it is now.

    Attributes:
        index: Its entry in the results.
        attempt: Retries of its client before this attempt.
        retried_ms: Time from its arrival to this attempt.
        server: Replica that has it; None in the gateway and between two attempts.
        number: Number that the replica's engine gave it.

    """

    arrival_ms: float
    model: int
    input_tokens: int
    output_tokens: int
    start_ms: float = math.nan
    first_token_ms: float = math.nan
    finish_ms: float = math.nan
    variant: int = -1
    replica: int = -1
    index: int = -1
    attempt: int = 0
    retried_ms: float = 0.0
    server: FleetServer | None = None
    number: int = -1


class FleetServer(Protocol):
    """What a simulated fleet and its gateway need of one replica.

    Attributes:
        number: Number of the replica, unique in the fleet.
        variant: Index of its variant.
        state: State of the replica.
        created_ms: Time since which it holds its GPUs; inf before.
        ready_ms: Time from which it is ready; inf before it starts.
        startup_seconds: Time between these two.
        load: Requests in service and waiting.
        next_ms: No request ends before this time.
        max_requests: Most requests in service at once.
        prompt_tokens: Prompt tokens of the requests in service and waiting.
        ended: Requests that have ended since somebody emptied the list.
        latest_ttft_ms: Time and TTFT of each first token since somebody emptied it; None keeps nothing.

    """

    number: int
    variant: int
    state: State
    created_ms: float
    ready_ms: float
    startup_seconds: float
    load: int
    next_ms: float
    max_requests: int
    prompt_tokens: int
    ended: list[Request]
    latest_ttft_ms: list[tuple[float, float]] | None

    def offer(self, request: Request, at_ms: float) -> None:
        """Queue a request at that time, up to which the replica must have been run."""

    def has_first_token(self, request: Request) -> bool:
        """Whether a request that is here has produced a token, at the moment up to which it has been run."""

    def cancel(self, request: Request, at_ms: float) -> None:
        """Drop a request without a first token, at that time, up to which the replica must have been run."""

    def run(self, limit_ms: float) -> None:
        """Simulate everything before that time."""

    def withdraw(self) -> list[Request]:
        """Take out the requests that are not in service, for other replicas."""

    def counters(self) -> Counters:
        """Metrics at the moment up to which the replica has been run."""


class Server:
    """One replica: `offer` queues a request, `run` simulates up to a moment."""

    def __init__(self, *, number: int, variant: int, profile: EngineProfile) -> None:
        self.number = number
        self.variant = variant
        self.state: State = "pending"
        self.created_ms = self.ready_ms = math.inf
        self.startup_seconds = 0.0
        self.waiting: deque[Request] = deque()
        self.load = 0  # running and waiting
        self.next_ms = math.inf  # only iterations happen before
        self.profile = profile
        self.max_requests = profile.max_batch
        self._steps_ms = [
            profile.alpha_ms + profile.beta_ms * n for n in range(profile.max_batch + 1)
        ]
        self._running = 0
        self._ties = itertools.count()  # keeps heaps from comparing requests
        self._prefills: list[tuple[float, int, Request]] = []  # heap by end
        self._decoding: list[tuple[int, int, Request]] = []  # heap by number of last iteration
        self._iterations = 0  # ended ones
        self._last_ms = 0.0  # end of the last ended iteration
        self._end_ms = math.inf  # end of the iteration in progress
        self._due_ms = math.inf  # time of an admission into a batch with room
        self.prompt_tokens = 0
        self.ended: list[Request] = []
        self.latest_ttft_ms: list[tuple[float, float]] | None = None
        self._finished = self._firsts = self._itl_count = 0
        self._prompt_finished = self._prompt_total = self._generated = 0
        self._ttft_ms = self._itl_ms = 0.0
        self._ttft_buckets = [0] * (len(TTFT_BUCKETS_MS) + 1)
        self._tpot_buckets = [0] * (len(ITL_BUCKETS_MS) + 1)

    def offer(self, request: Request, at_ms: float) -> None:
        """Queue a request at that time, up to which the server must have been run."""
        self.waiting.append(request)
        self.load += 1
        self.prompt_tokens += request.input_tokens
        request.variant = self.variant
        request.server = self
        if self._running < self.profile.max_batch:
            # Not admitted at once: other arrivals of this moment share its first iteration.
            self._due_ms = at_ms
            self.next_ms = min(self.next_ms, at_ms)

    def run(self, limit_ms: float) -> None:
        """Simulate everything before that time."""
        while True:
            event_ms = min(self._prefills[0][0] if self._prefills else math.inf, self._due_ms)
            steps = self._skip(min(event_ms, limit_ms))
            at_ms = min(self._end_ms, event_ms)
            if at_ms >= limit_ms:
                # One iteration early: a product differs from the sum of steps in its last digits.
                later_ms = max(steps - 1, 0) * self._steps_ms[self._running]
                self.next_ms = min(self._end_ms + later_ms, event_ms)
                return
            self._handle(at_ms)

    def _skip(self, stop_ms: float) -> int:
        """Skip the iterations before that time that end no request; returns how many such ones remain."""
        if not self._decoding:
            return 0
        left = uneventful = self._decoding[0][0] - self._iterations - 1
        end_ms = last_ms = self._end_ms
        if left and end_ms < stop_ms:
            step_ms = self._steps_ms[self._running]
            # Added one by one: a product would round otherwise than the engine does.
            while left and end_ms < stop_ms:
                last_ms = end_ms
                end_ms += step_ms
                left -= 1
            self._iterations += uneventful - left
            self._last_ms, self._end_ms = last_ms, end_ms
        return left

    def _handle(self, at_ms: float) -> None:
        decoding, prefills, most = self._decoding, self._prefills, self.profile.max_batch
        if self._end_ms <= at_ms:
            self._iterations += 1
            self._last_ms, self._end_ms = at_ms, math.inf
            while decoding and decoding[0][0] == self._iterations:
                self._finish(heappop(decoding)[2], at_ms)
        self._due_ms = math.inf
        while True:
            while self.waiting and self._running < most:
                self._admit(self.waiting.popleft(), at_ms)
            if not (prefills and prefills[0][0] <= at_ms):
                break
            while prefills and prefills[0][0] <= at_ms:
                self._first_token(heappop(prefills)[2], at_ms)
        if decoding and self._end_ms == math.inf:
            self._end_ms = at_ms + self._steps_ms[self._running]

    def _admit(self, request: Request, at_ms: float) -> None:
        self._running += 1
        request.start_ms = ready_ms = at_ms
        request.replica = self.number
        if request.input_tokens:
            work = request.input_tokens * self._running
            ready_ms += self.profile.gamma_ms + self.profile.delta_ms * work
        heappush(self._prefills, (ready_ms, next(self._ties), request))

    def _first_token(self, request: Request, at_ms: float) -> None:
        request.first_token_ms = at_ms
        self._firsts += 1
        ttft_ms = at_ms - request.arrival_ms - request.retried_ms
        self._ttft_ms += ttft_ms
        self._ttft_buckets[bisect_left(TTFT_BUCKETS_MS, ttft_ms)] += 1
        if self.latest_ttft_ms is not None:
            self.latest_ttft_ms.append((at_ms, ttft_ms))
        self._prompt_total += request.input_tokens
        if request.output_tokens == 1:
            self._finish(request, at_ms)
            return
        under_way = self._end_ms != math.inf  # an iteration without a token for this request
        last = self._iterations + under_way + request.output_tokens - 1
        heappush(self._decoding, (last, next(self._ties), request))

    def _finish(self, request: Request, at_ms: float) -> None:
        request.finish_ms = at_ms
        self._running -= 1
        self.load -= 1
        self.prompt_tokens -= request.input_tokens
        self.ended.append(request)
        self._finished += 1
        itl_ms, gaps = at_ms - request.first_token_ms, request.output_tokens - 1
        self._itl_ms += itl_ms
        self._itl_count += gaps
        self._tpot_buckets[bisect_left(ITL_BUCKETS_MS, itl_ms / max(gaps, 1))] += 1
        self._generated += request.output_tokens
        self._prompt_finished += request.input_tokens

    def withdraw(self) -> list[Request]:
        """Take out the requests that are not in service, for other replicas."""
        withdrawn = list(self.waiting)
        self.waiting.clear()
        self.load -= len(withdrawn)
        self.prompt_tokens -= sum(request.input_tokens for request in withdrawn)
        return withdrawn

    def has_first_token(self, request: Request) -> bool:
        """Whether a request that is here has produced a token."""
        return not math.isnan(request.first_token_ms)

    def cancel(self, request: Request, at_ms: float) -> None:
        """Drop a request that waits or is being prefilled; the next one takes its place at once."""
        self.load -= 1
        self.prompt_tokens -= request.input_tokens
        if math.isnan(request.start_ms):
            self.waiting.remove(request)
            return
        self._prefills = [item for item in self._prefills if item[2] is not request]
        heapify(self._prefills)
        self._running -= 1
        self._due_ms = at_ms
        self.next_ms = min(self.next_ms, at_ms)

    def generated(self, request: Request) -> int:
        """Tokens of a request that is here, at the moment up to which it has been run."""
        if math.isnan(request.first_token_ms):
            return 0
        last = next(last for last, _, decoding in self._decoding if decoding is request)
        return max(self._iterations - last + request.output_tokens, 1)

    def counters(self) -> Counters:
        """Metrics at the moment up to which the server has been run."""
        itl_ms, gaps = self._itl_ms, self._itl_count
        for last, _, request in self._decoding:
            made = self._iterations - last + request.output_tokens - 1
            if made > 0:
                gaps += made
                itl_ms += self._last_ms - request.first_token_ms
        return Counters(
            replica=self.number,
            state=self.state,
            started_seconds=self.ready_ms / 1000,
            startup_seconds=self.startup_seconds,
            finished=self._finished,
            running=self._running,
            waiting=len(self.waiting),
            prompt_tokens=(self._prompt_finished, self._finished),
            generation_tokens=(self._generated, self._finished),
            ttft=(self._ttft_ms / 1000, self._firsts),
            itl=(itl_ms / 1000, gaps),
            prompt_tokens_total=self._prompt_total,
            generation_tokens_total=self._firsts + gaps,
            kv_cache=self._running / self.profile.max_batch,
            ttft_buckets=tuple(self._ttft_buckets),
            tpot_buckets=tuple(self._tpot_buckets),
        )
