"""What a replay and the emulated server need of an engine: one replica's batching in virtual time.

An engine has no clock: whoever drives it submits requests with their arrivals, advances it to a moment, and
reads what has ended and what a metrics page would show. Times are ms since a beginning that the driver
chooses. Engines are deterministic, and how often they are advanced never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

SumCount = tuple[float, int]
"""Sum and count of a histogram."""

FirstToken = tuple[float, float]
"""Time of a first token and arrival of its request, ms: what an engine's optional method `take_first_tokens`
gives of those since its last call. Without the method they are known when the requests end."""


class Completion(NamedTuple):
    """One request that was served to its end.

    Attributes:
        number: what `submit` gave.
        start_ms: first admission into the batch.
        longest_gap_ms: longest time between two of its tokens, 0 for a single one; NaN where the engine
            does not know it.
        preemptions: times that the request lost its KV cache and was computed anew.

    """

    number: int
    arrival_ms: float
    start_ms: float
    first_token_ms: float
    last_token_ms: float
    longest_gap_ms: float
    input_tokens: int
    output_tokens: int
    preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What a metrics page shows at a moment; counters since the engine's beginning, latencies in ms.

    Attributes:
        waiting: requests that have arrived and are not in service, preempted ones with them.
        kv_usage: fraction of the KV cache that is held, 0 to 1.
        preemptions: counter of preemptions.
        finished: counter of requests served to their end.
        prompt_tokens: prompt tokens of finished requests; likewise `generation_tokens`.
        ttft_ms: first tokens, since the arrival.
        itl_ms: gaps between tokens, of running requests too.
        prompt_tokens_total: prompt tokens of requests that have a first token.
        cached_tokens_total: those of them that came from the prefix cache.
        generation_tokens_total: each token when it is produced.
        ttft_buckets: first tokens by the time to them: those up to each of
            `emulator.vllm_metrics.TTFT_BUCKETS` and above the one before, then those above the last; empty
            where they are not counted.
        itl_buckets: gaps between tokens by `ITL_BUCKETS`, likewise.
        tpot_buckets: requests served to their end by their mean gap, by `ITL_BUCKETS`, likewise.

    """

    running: int
    waiting: int
    kv_usage: float
    preemptions: int
    finished: int
    prompt_tokens: int
    generation_tokens: int
    ttft_ms: SumCount
    itl_ms: SumCount
    prompt_tokens_total: int
    cached_tokens_total: int
    generation_tokens_total: int
    ttft_buckets: tuple[int, ...] = ()
    itl_buckets: tuple[int, ...] = ()
    tpot_buckets: tuple[int, ...] = ()


class VirtualEngine(Protocol):
    """One replica's engine in virtual time."""

    @property
    def max_requests(self) -> int:
        """Most requests in service at once: what a router divides a replica's load by."""

    @property
    def now_ms(self) -> float:
        """The moment that the engine was last advanced to."""

    @property
    def next_ms(self) -> float:
        """No request ends before this moment, as things stand; inf while there is nothing to do."""

    def submit(
        self, *, arrival_ms: float, input_tokens: int, output_tokens: int, cached_tokens: int = 0
    ) -> int:
        """Let a request arrive, now or later; gives its number, counted from 0.

        Args:
            arrival_ms: not before `now_ms`, and not before the arrival of the request submitted last.
            input_tokens: prompt tokens, >= 1.
            output_tokens: tokens to generate, >= 1.
            cached_tokens: prompt tokens that the prefix cache serves: they hold KV cache and cost no prefill.

        Raises:
            ValueError: for a time in the past, or a request that the engine can never serve.

        """

    def advance(self, until_ms: float) -> None:
        """Let everything happen that ends at that moment or before.

        A step that would begin at that very moment has not begun: a request submitted with that arrival is
        in it. `inf` serves all that was submitted. ValueError for a time before `now_ms`.
        """

    def take_completions(self) -> list[Completion]:
        """Requests that ended since the last call, in the order of their ends."""

    def state(self) -> EngineState:
        """Gauges and counters at `now_ms`."""

    def generated(self, number: int) -> int:
        """Tokens that a request in the engine has; KeyError when it has ended or never was."""

    def cancel(self, number: int) -> bool:
        """Drop a request whose client has left; false when it has ended.

        What the step in progress holds is freed at the step's end.
        """

    def withdraw_waiting(self) -> list[int]:
        """Take out the requests that were never in service, for another replica; gives their numbers.

        The others are served to their end: a replica that drains.
        """


class EngineFactory(Protocol):
    """Makes one replica's engine; each call a new one, all of them alike."""

    def __call__(self) -> VirtualEngine:
        """A new engine at time 0, without requests."""
