"""A fleet of emulated vLLM servers in virtual time: an hour of traffic in seconds, the same each time.

The batching is that of `emulator.engine`, to the last bit: a request waits until fewer than `max_batch`
are in service, takes gamma + delta * input_tokens * batch ms for its first token, and one token more with
each iteration of alpha + beta * batch ms that begins after it.

At one moment, replicas end or become ready first, then requests arrive, then the servers' events happen:
a router still counts the requests that finish at that very moment.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from heapq import heapify, heappop, heappush
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from emulator.engine import EngineProfile
from emulator.server import Counters, Request, Server, State
from emulator.traces import Trace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Routing = Literal["least-loaded", "round-robin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Replicas of one model server on one kind of accelerator.

    Attributes:
        devices: GPUs that each replica takes from `pool`; the pool None has no limit.
        replicas: ready when the simulation begins, as far as the pool allows.

    """

    name: str
    profile: EngineProfile
    model: str = "default"
    start_delay_seconds: float = 0.0
    devices: int = 1
    pool: str | None = None
    replicas: int = 0

    def __post_init__(self) -> None:
        delay = self.start_delay_seconds
        if not (math.isfinite(delay) and delay >= 0):
            raise ValueError(f"{self.name}: start_delay_seconds: must be >= 0, not {delay}")
        if self.devices < 1 or self.replicas < 0:
            raise ValueError(f"{self.name}: devices must be >= 1, replicas >= 0")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Results:
    """One entry per request, in order of arrival; ms since the beginning, NaN for what is still to come.

    Attributes:
        model: index into the fleet's `models`, `variant` into its `variants`; -1 in the gateway.
        replica: the server's number; -1 before the service.

    """

    arrival_ms: FloatArray
    start_ms: FloatArray
    first_token_ms: FloatArray
    finish_ms: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    model: IntArray
    variant: IntArray
    replica: IntArray

    @property
    def ttft_ms(self) -> FloatArray:
        """Since the arrival, so with the time in the gateway and in the queue."""
        return self.first_token_ms - self.arrival_ms

    @property
    def itl_ms(self) -> FloatArray:
        """Mean over the request's tokens; 0 for a single token."""
        return (self.finish_ms - self.first_token_ms) / np.maximum(self.output_tokens - 1, 1)


class Fleet:
    """Variants, the gateway in front of them, and the GPUs that they share."""

    def __init__(
        self,
        variants: Sequence[Variant],
        *,
        traces: Mapping[str, Trace] | None = None,
        pools: Mapping[str, int] | None = None,
        routing: Routing = "least-loaded",
    ) -> None:
        """A fleet at time 0.

        Args:
            variants: those of one model share its requests.
            traces: by model; their requests arrive as time advances.
            pools: GPUs by the pool's name.
            routing: least-loaded goes by (running + waiting) / max_batch, then by age.

        """
        self.variants = tuple(variants)
        self.models = tuple(dict.fromkeys(variant.model for variant in variants))
        self._names = [variant.name for variant in variants]
        self._traces = dict(traces or {})
        self._free = dict(pools or {})
        self._routing = routing
        self._check()
        self._requests: list[Request] = []
        self._now_ms = 0.0
        self._created = itertools.count()
        self._servers: list[list[Server]] = [[] for _ in self.variants]  # without those that drain
        self._ready: list[list[Server]] = [[] for _ in self.models]
        self._gateway: list[deque[Request]] = [deque() for _ in self.models]
        self._offered = [0 for _ in self.models]
        self._turns = [itertools.count() for _ in self.models]
        self._gpu_ms = [0.0 for _ in self.variants]  # of replicas that ended
        self._pending: list[Server] = []
        self._starting: list[tuple[float, int, Server]] = []  # by when they are ready
        self._draining: list[Server] = []
        self._arrivals = self._merged()
        self._coming = next(self._arrivals, None)
        for index, variant in enumerate(self.variants):
            self._create(index, variant.replicas)
        self._control(0.0, delayed=False)

    def _check(self) -> None:
        if len(set(self._names)) < len(self._names):
            raise ValueError(f"variants: names must differ: {self._names}")
        if self._routing not in {"least-loaded", "round-robin"}:
            raise ValueError(f"routing: must be least-loaded or round-robin, not {self._routing!r}")
        for model in self._traces:
            _position(self.models, model, "traces")
        for variant in self.variants:
            if variant.pool is not None:
                _position(tuple(self._free), variant.pool, f"{variant.name}: pool")

    def _merged(self) -> Iterator[Request]:
        """Requests of all traces by arrival; lists, because single elements of arrays are slow."""
        parts = [(self.models.index(name), trace) for name, trace in self._traces.items()]
        if not parts:
            return
        arrival_ms = np.concatenate([trace.arrival_seconds * 1000 for _, trace in parts])
        model = np.concatenate([np.full(len(trace.input_tokens), i) for i, trace in parts])
        inputs = np.concatenate([trace.input_tokens for _, trace in parts])
        outputs = np.concatenate([trace.output_tokens for _, trace in parts])
        order = np.argsort(arrival_ms, kind="stable")
        columns = (column[order].tolist() for column in (arrival_ms, model, inputs, outputs))
        yield from itertools.starmap(Request, zip(*columns, strict=True))

    def advance(self, until_seconds: float) -> None:
        """Let everything happen up to and including that time since the beginning."""
        until_ms = until_seconds * 1000
        if not self._now_ms <= until_ms < math.inf:
            now = self._now_ms / 1000
            raise ValueError(f"until_seconds: must be >= {now} and finite, not {until_seconds}")
        while True:
            control_ms = self._next_control_ms()
            self._feed(min(control_ms, _after(until_ms)))
            if control_ms > until_ms:
                break
            self._now_ms = control_ms
            self._control(control_ms)
        self._now_ms = until_ms
        self._settle()

    def offer(self, model: str, *, input_tokens: int, output_tokens: int) -> int:
        """Let a request arrive now; gives its index in the results."""
        if input_tokens < 0 or output_tokens < 1:
            raise ValueError(
                f"tokens: must be >= 0 and >= 1, not {input_tokens} and {output_tokens}"
            )
        index = _position(self.models, model, "model")
        self._arrive(Request(self._now_ms, index, input_tokens, output_tokens))
        self._settle()
        return len(self._requests) - 1

    def scale(self, variant: str, replicas: int) -> None:
        """Ask for that many replicas from now on.

        More wait for GPUs, then start. Of fewer, those without GPUs go first, then those that start, the
        youngest, the least loaded; they finish what runs, and what waits moves to others.
        """
        if replicas < 0:
            raise ValueError(f"{variant}: replicas: must be >= 0, not {replicas}")
        index = _position(self._names, variant, "variant")
        servers = self._servers[index]
        self._create(index, replicas - len(servers))
        self._retire(sorted(servers, key=_to_keep)[replicas:])
        self._control(self._now_ms)
        self._settle()

    def _feed(self, limit_ms: float) -> None:
        """Arrivals before that time, between which no replica becomes ready or ends."""
        while (request := self._coming) is not None and request.arrival_ms < limit_ms:
            self._arrive(request)
            self._coming = next(self._arrivals, None)

    def _arrive(self, request: Request) -> None:
        self._requests.append(request)
        self._offered[request.model] += 1
        self._dispatch(request, request.arrival_ms)

    def _dispatch(self, request: Request, at_ms: float) -> None:
        ready = self._ready[request.model]
        if not ready:
            self._gateway[request.model].append(request)
        elif self._routing == "round-robin":
            server = ready[next(self._turns[request.model]) % len(ready)]
            server.run(at_ms)
            server.offer(request, at_ms)
        else:
            least, chosen = math.inf, ready[0]
            for server in ready:
                if server.next_ms < at_ms:
                    server.run(at_ms)
                load = server.load / server.profile.max_batch
                if load < least:
                    least, chosen = load, server
            chosen.offer(request, at_ms)

    def _next_control_ms(self) -> float:
        """When a replica may end or become ready."""
        ready_ms = self._starting[0][0] if self._starting else math.inf
        return min([ready_ms, *(server.next_ms for server in self._draining)])

    def _control(self, at_ms: float, *, delayed: bool = True) -> None:
        """Replicas end, get their GPUs, and become ready, at that time."""
        for server in self._draining[:]:
            if server.next_ms <= at_ms:
                server.run(_after(at_ms))
            if server.load == 0:
                self._draining.remove(server)
                self._end(server, at_ms)
        for server in self._pending[:]:  # a smaller one passes those that do not fit
            variant = self.variants[server.variant]
            if variant.pool is None or self._free[variant.pool] >= variant.devices:
                self._pending.remove(server)
                self._start(server, variant, at_ms, delayed=delayed)
        while self._starting and self._starting[0][0] <= at_ms:
            server = heappop(self._starting)[2]
            server.state = "ready"
            self._ready[self._model_of(server)].append(server)
        for model, queue in enumerate(self._gateway):
            for _ in range(len(queue) if self._ready[model] else 0):
                self._dispatch(queue.popleft(), at_ms)

    def _create(self, index: int, count: int) -> None:
        profile = self.variants[index].profile
        for _ in range(count):
            server = Server(number=next(self._created), variant=index, profile=profile)
            self._servers[index].append(server)
            self._pending.append(server)

    def _start(self, server: Server, variant: Variant, at_ms: float, *, delayed: bool) -> None:
        if variant.pool is not None:
            self._free[variant.pool] -= variant.devices
        server.state = "starting"
        server.created_ms = at_ms
        server.ready_ms = at_ms + (variant.start_delay_seconds * 1000 if delayed else 0.0)
        heappush(self._starting, (server.ready_ms, server.number, server))

    def _retire(self, servers: Sequence[Server]) -> None:
        """Take them all out of service before any of their requests moves."""
        moving: list[Request] = []
        for server in servers:
            self._servers[server.variant].remove(server)
            self._draining.append(server)
            if server.state == "pending":
                self._pending.remove(server)
            elif server.state == "starting":
                self._starting.remove((server.ready_ms, server.number, server))
                heapify(self._starting)
            else:
                self._ready[self._model_of(server)].remove(server)
                server.state = "draining"
                server.load -= len(server.waiting)
                moving.extend(server.waiting)
                server.waiting.clear()
        for request in sorted(moving, key=lambda request: request.arrival_ms):
            request.variant = -1
            self._dispatch(request, self._now_ms)

    def _end(self, server: Server, at_ms: float) -> None:
        variant = self.variants[server.variant]
        if server.state != "pending":
            self._gpu_ms[server.variant] += variant.devices * (at_ms - server.created_ms)
            if variant.pool is not None:
                self._free[variant.pool] += variant.devices
        server.state = "ended"

    def _settle(self) -> None:
        """The servers' own events until now, and the iterations that `next_ms` does not count."""
        for server in itertools.chain(self._draining, *self._ready):
            server.run(_after(self._now_ms))

    def _model_of(self, server: Server) -> int:
        return self.models.index(self.variants[server.variant].model)

    def replicas(self, variant: str, *states: State) -> int:
        """Replicas that exist for the variant: in these states, or all that `scale` asked for."""
        index = _position(self._names, variant, "variant")
        if not states:
            return len(self._servers[index])
        draining = (server for server in self._draining if server.variant == index)
        return sum(server.state in states for server in (*self._servers[index], *draining))

    def ready(self, variant: str) -> int:
        """Replicas that get requests."""
        return self.replicas(variant, "ready")

    def counters(self, variant: str) -> tuple[Counters, ...]:
        """Of each ready or draining replica by age, now; those of a replica vanish with it."""
        index = _position(self._names, variant, "variant")
        ready = (server for server in self._servers[index] if server.state == "ready")
        draining = (server for server in self._draining if server.variant == index)
        servers = sorted((*ready, *draining), key=lambda server: server.number)
        return tuple(server.counters() for server in servers)

    def gateway(self, model: str) -> int:
        """Requests that wait for a replica to become ready."""
        return len(self._gateway[_position(self.models, model, "model")])

    def offered(self, model: str) -> int:
        """Requests that have arrived."""
        return self._offered[_position(self.models, model, "model")]

    def gpu_seconds(self, variant: str) -> float:
        """GPUs times the time they were held until now: starting, serving, draining."""
        index = _position(self._names, variant, "variant")
        held = (*self._servers[index], *(s for s in self._draining if s.variant == index))
        ages_ms = (self._now_ms - s.created_ms for s in held if s.state != "pending")
        return (self._gpu_ms[index] + self.variants[index].devices * sum(ages_ms)) / 1000

    def results(self) -> Results:
        """Every request that has arrived."""
        columns: dict[str, Any] = {}
        for name in (column.name for column in fields(Results)):
            dtype = np.float64 if name.endswith("_ms") else np.int64
            columns[name] = np.array([getattr(r, name) for r in self._requests], dtype=dtype)
        return Results(**columns)


def _after(moment_ms: float) -> float:
    return math.nextafter(moment_ms, math.inf)


def _to_keep(server: Server) -> tuple[int, float, int, int]:
    """Sorts first what is kept longest, as a ReplicaSet does."""
    rank = ("ready", "starting", "pending").index(server.state)
    return rank, server.created_ms, -server.load, server.number


def _position(names: Sequence[str], name: str, what: str) -> int:
    if name not in names:
        raise ValueError(f"{what}: no {name!r}; there are {', '.join(names) or 'none'}")
    return names.index(name)
