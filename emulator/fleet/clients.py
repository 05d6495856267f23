"""Clients that wait for a first token only so long, and may send a dropped request again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from emulator.fleet.requests import GIVEN_UP
from emulator.server import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """What the clients of a model do when no token comes.

    Attributes:
        timeout_seconds: Time without a first token after which a client drops its request; inf for never.
        retries: Times that it sends a dropped request again.
        backoff_seconds: Time until it does.

    """

    timeout_seconds: float = math.inf
    retries: int = 0
    backoff_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds: must be > 0, not {self.timeout_seconds}")
        if self.retries < 0 or not 0 <= self.backoff_seconds < math.inf:
            raise ValueError("retries, backoff_seconds: must be >= 0 and finite")


class Patience:
    """Deadlines of the clients that have one, in order of time; `active` where there may be some.

    Args:
        models: Models of the fleet, in the order of their numbers.
        clients: Clients by model; others wait for ever.
        drop: Takes a request out of its queue or replica at that time; false where it has a token by then.
        send: Lets an attempt arrive at that time.

    """

    def __init__(
        self,
        models: Sequence[str],
        clients: Mapping[str, Clients],
        *,
        drop: Callable[[Request, float], bool],
        send: Callable[[Request, float], None],
    ) -> None:
        self._clients = [clients.get(model) for model in models]
        self.active = any(
            item is not None and item.timeout_seconds < math.inf for item in self._clients
        )
        self._drop, self._send = drop, send
        self._due: list[tuple[float, int, Request]] = []  # heap
        self._turns = itertools.count()

    def sent(self, request: Request, at_ms: float) -> None:
        """An attempt has arrived."""
        clients = self._clients[request.model]
        if clients is not None and clients.timeout_seconds < math.inf:
            self._at(at_ms + 1000 * clients.timeout_seconds, request)

    def next_ms(self) -> float:
        """Time at which somebody may give up or send again; inf for never."""
        due = self._due
        while due and not math.isnan(due[0][2].first_token_ms):
            heappop(due)
        return due[0][0] if due else math.inf

    def run(self, until_ms: float) -> None:
        """Let those give up whose time has come, and let the others send again."""
        while self.next_ms() <= until_ms:
            at_ms, _, request = heappop(self._due)
            clients = self._clients[request.model]
            if request.variant == GIVEN_UP:
                request.variant = -1
                request.retried_ms = at_ms - request.arrival_ms
                self._send(request, at_ms)
            elif clients is not None and self._drop(request, at_ms):
                request.server, request.start_ms = None, math.nan
                request.variant, request.replica = GIVEN_UP, -1
                if request.attempt < clients.retries:
                    request.attempt += 1
                    self._at(at_ms + 1000 * clients.backoff_seconds, request)

    def _at(self, at_ms: float, request: Request) -> None:
        heappush(self._due, (at_ms, next(self._turns), request))
