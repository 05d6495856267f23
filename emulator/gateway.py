"""The gateway in front of a simulated fleet: routes requests to ready servers, or queues them."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from typing import Literal

from emulator.server import FleetServer, Request

Routing = Literal["least-loaded", "round-robin"]
"""Least-loaded takes the smallest (running + waiting) / max_requests, and of equal ones the oldest server."""


class Gateway:
    """Ready servers and queued requests of each model; models are numbered from 0."""

    def __init__(self, *, models: int, routing: Routing) -> None:
        self._routing = routing
        self._ready: list[list[FleetServer]] = [[] for _ in range(models)]
        self._alike = [True] * models  # whether all ready servers have the same max_requests
        self._queues: list[deque[Request]] = [deque() for _ in range(models)]
        self._turns = [itertools.count() for _ in range(models)]

    def add(self, server: FleetServer, model: int) -> None:
        """Route requests of the model to this server from now on."""
        self._ready[model].append(server)
        self._note_alike(model)

    def remove(self, server: FleetServer, model: int) -> None:
        """Route no more requests to this server."""
        self._ready[model].remove(server)
        self._note_alike(model)

    def _note_alike(self, model: int) -> None:
        self._alike[model] = len({server.max_requests for server in self._ready[model]}) <= 1

    def servers(self) -> Iterator[FleetServer]:
        """Ready servers of all models."""
        return itertools.chain(*self._ready)

    def queued(self, model: int) -> int:
        """Requests that wait for a server to become ready."""
        return len(self._queues[model])

    def cancel(self, request: Request) -> None:
        """Drop a request that waits here."""
        self._queues[request.model].remove(request)

    def queued_prompt_tokens(self, model: int) -> int:
        """Prompt tokens of the requests that wait for a server to become ready."""
        return sum(request.input_tokens for request in self._queues[model])

    def dispatch(self, request: Request, at_ms: float) -> None:
        """Route one request at that time, or queue it while no server of its model is ready."""
        ready = self._ready[request.model]
        if not ready:
            self._queues[request.model].append(request)
        elif self._routing == "round-robin":
            server = ready[next(self._turns[request.model]) % len(ready)]
            server.run(at_ms)
            server.offer(request, at_ms)
        else:
            # Servers that are alike are in the order of their loads, without a division for each.
            alike = self._alike[request.model]
            least, chosen = math.inf, ready[0]
            for server in ready:
                if server.next_ms < at_ms:
                    server.run(at_ms)
                load = server.load if alike else server.load / server.max_requests
                if load < least:
                    least, chosen = load, server
            chosen.offer(request, at_ms)

    def release(self, at_ms: float) -> None:
        """Route the queued requests of each model that has a ready server, in order of arrival."""
        for model, queue in enumerate(self._queues):
            for _ in range(len(queue) if self._ready[model] else 0):
                self.dispatch(queue.popleft(), at_ms)
