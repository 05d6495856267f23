"""What the optimizer chooses from: variants with candidates, as numbers without queues.

Costs are in cents per hour, latencies in milliseconds, rates in requests per minute.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve a variant.

    Attributes:
        accelerator: its name; empty for the candidate that runs nothing.
        replicas: how many replicas it takes.
        max_batch: requests in service per replica.
        cost: of all its replicas.
        itl_ms: predicted mean inter-token latency.
        ttft_ms: predicted mean time to first token.
        max_rate_rpm: what one replica carries within the targets.
        reason: what bounds the number of replicas, one clause.

    """

    accelerator: str
    replicas: int
    max_batch: int
    cost: float
    itl_ms: float
    ttft_ms: float
    max_rate_rpm: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """What the variant runs on now; `cost` is 0 where nothing runs."""

    accelerator: str
    replicas: int
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant with its candidates, at least one."""

    name: str
    current: Current
    candidates: tuple[Candidate, ...]
