"""The birth-death chain of one LLM server replica: M/M/1/K with a state-dependent service rate.

With n requests in service, decode takes alpha + beta*n per token and prefill
gamma + delta*input_tokens*n (nothing without input tokens), so one request takes
T(n) = prefill(n) + (output_tokens - 1) * decode(n) and the replica finishes mu(n) = n / T(n).
Above the max batch N requests wait and mu stays mu(N); the system holds at most K = N + max_queue.

State probabilities: p(n) = p(n-1) * arrival_rate / mu(n) (Kleinrock, Queueing Systems I, 3.1),
built in log space, so no rate and no batch size overflows. Waiting time and batch size come from the
states that accepted arrivals see (PASTA), without subtractions:
waiting = sum over n >= N of a(n) * (n - N + 1) / mu(N), batch = sum of a(n) * min(n + 1, N).

Units: times in milliseconds, rates in requests per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer import errors

MAX_QUEUE_TO_BATCH = 10
"""Default bound of the queue, in multiples of the max batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica with the requests it gets; checked when made.

    Attributes:
        alpha_ms: decode time of an empty batch, >= 0.
        beta_ms: decode time that each request in the batch adds, >= 0.
        gamma_ms: prefill time of an empty batch, >= 0.
        delta_ms: prefill time that each input token of each request in the batch adds, >= 0.
        input_tokens: mean prompt tokens per request, >= 0.
        output_tokens: mean generated tokens per request, >= 1.
        max_batch: largest number of requests in service, >= 1.
        max_queue: largest number of requests that wait, >= 0.

    Raises:
        InvalidParameterError: a parameter is out of its range, or a request would take no time.

    """

    alpha_ms: float
    beta_ms: float
    gamma_ms: float
    delta_ms: float
    input_tokens: float
    output_tokens: float
    max_batch: int
    max_queue: int

    def __post_init__(self) -> None:
        """Refuse what the formulas have no meaning for."""
        for name in ("alpha_ms", "beta_ms", "gamma_ms", "delta_ms", "input_tokens"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise errors.InvalidParameterError(f"{name}: must be a number >= 0, not {value}")
        if not (math.isfinite(self.output_tokens) and self.output_tokens >= 1):
            raise errors.InvalidParameterError(
                f"output_tokens: must be a number >= 1, not {self.output_tokens}"
            )
        if self.max_batch < 1:
            raise errors.InvalidParameterError(f"max_batch: must be >= 1, not {self.max_batch}")
        if self.max_queue < 0:
            raise errors.InvalidParameterError(f"max_queue: must be >= 0, not {self.max_queue}")
        if not self.request_ms(1.0) > 0:
            raise errors.InvalidParameterError(
                "alpha_ms, beta_ms, gamma_ms, delta_ms: a request would take no time"
            )

    def decode_ms(self, batch: float) -> float:
        """Inter-token latency (ITL) in a batch of that size."""
        return self.alpha_ms + self.beta_ms * batch

    def prefill_ms(self, batch: float) -> float:
        """Prefill time in a batch of that size; 0 without input tokens."""
        if self.input_tokens == 0:
            return 0.0
        return self.gamma_ms + self.delta_ms * self.input_tokens * batch

    def request_ms(self, batch: float) -> float:
        """Time of one whole request in a batch of that size."""
        decodes = self.output_tokens - 1
        if self.input_tokens == 0 and self.output_tokens == 1:
            decodes = 1  # one token without a prefill is one decode
        return self.prefill_ms(batch) + decodes * self.decode_ms(batch)

    def service_rates(self) -> NDArray[np.float64]:
        """mu(1..max_batch) in requests per second, shape (max_batch,)."""
        batch = np.arange(1, self.max_batch + 1, dtype=np.float64)
        prefill = self.prefill_ms(0.0) + (
            self.delta_ms * self.input_tokens * batch if self.input_tokens else 0.0
        )
        decodes = self.output_tokens - 1
        if self.input_tokens == 0 and self.output_tokens == 1:
            decodes = 1
        decode = self.alpha_ms + self.beta_ms * batch
        return np.asarray(1000.0 * batch / (prefill + decodes * decode), dtype=np.float64)

    @property
    def max_rate_rps(self) -> float:
        """mu(max_batch): what the replica finishes when it is never empty."""
        return 1000.0 * self.max_batch / self.request_ms(self.max_batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """Steady state of one replica at one arrival rate.

    Attributes:
        offered_rps: arrival rate.
        throughput_rps: rate of requests that are accepted and so finished (goodput).
        blocking: share of arrivals that find the queue full.
        waiting_ms: mean time in the queue of accepted requests.
        service_ms: mean time in service.
        response_ms: waiting plus service.
        in_service: mean number of requests in service.
        batch: mean batch that accepted requests meet, themselves included.
        prefill_ms: prefill time in that batch.
        itl_ms: inter-token latency in that batch.
        ttft_ms: time to first token, waiting plus prefill.
        utilization: in_service / max batch.

    """

    offered_rps: float
    throughput_rps: float
    blocking: float
    waiting_ms: float
    service_ms: float
    response_ms: float
    in_service: float
    batch: float
    prefill_ms: float
    itl_ms: float
    ttft_ms: float
    utilization: float


def analyze(replica: Replica, arrival_rate_rps: float) -> Performance:
    """Steady state of `replica` at that arrival rate; overload is a result, not an error.

    Raises:
        InvalidParameterError: the rate is not a number > 0.

    """
    if not (math.isfinite(arrival_rate_rps) and arrival_rate_rps > 0):
        raise errors.InvalidParameterError(
            f"arrival_rate_rps: must be a number > 0, not {arrival_rate_rps}"
        )
    max_batch, max_queue = replica.max_batch, replica.max_queue
    rates = replica.service_rates()
    # log p(n) - log p(0), n = 0..K
    steps = math.log(arrival_rate_rps) - np.log(rates)
    log_weights = np.concatenate(
        ([0.0], np.cumsum(steps), np.sum(steps) + np.arange(1, max_queue + 1) * steps[-1])
    )
    weights = np.exp(log_weights - log_weights.max())
    probabilities = weights / weights.sum()
    states = np.arange(max_batch + max_queue + 1, dtype=np.float64)
    busy = np.minimum(states, max_batch)
    # Accepted arrivals see the states below K. Summed, not 1 - p(K): no cancellation when overloaded.
    accepted = float(probabilities[:-1].sum())
    seen = probabilities[:-1] / accepted
    batch = float(seen @ np.minimum(states[:-1] + 1, max_batch))
    queued = seen[max_batch:]
    waiting_ms = float(queued @ np.arange(1, queued.size + 1)) * 1000.0 / float(rates[-1])
    throughput = arrival_rate_rps * accepted
    in_service = float(probabilities @ busy)
    service_ms = 1000.0 * in_service / throughput
    prefill_ms = replica.prefill_ms(batch)
    return Performance(
        offered_rps=arrival_rate_rps,
        throughput_rps=throughput,
        blocking=float(probabilities[-1]),
        waiting_ms=waiting_ms,
        service_ms=service_ms,
        response_ms=waiting_ms + service_ms,
        in_service=in_service,
        batch=batch,
        prefill_ms=prefill_ms,
        itl_ms=replica.decode_ms(batch),
        ttft_ms=waiting_ms + prefill_ms,
        utilization=in_service / max_batch,
    )
