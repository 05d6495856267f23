"""A fleet of emulated vLLM servers in virtual time: an hour of traffic in seconds, reproducible to the bit.

A variant is served by an engine behind the Protocol of `emulator.engines`, or by step times of a profile.
With a profile, batching equals that of `emulator.engine`, to the last bit: a request waits until fewer than
`max_batch` are in service, takes gamma + delta * input_tokens * batch ms for its first token, and gets one
more token with each iteration of alpha + beta * batch ms that begins after it.

At one moment, replicas end or become ready first, then requests arrive, then the servers' events happen:
routing still counts the requests that finish at that very moment.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from emulator.fleet.clients import Clients, Patience
from emulator.fleet.requests import RequestLog, Results
from emulator.fleet.state import FleetState, position
from emulator.fleet.variants import SimulatedVariant
from emulator.gateway import Routing
from emulator.server import FleetServer, Request
from emulator.traces import Trace

__all__ = ["Clients", "Results", "SimulatedFleet", "SimulatedVariant"]

_ARRIVALS = 4096
"""Requests that are made ahead of their arrival."""


class SimulatedFleet(FleetState):
    """Variants, the gateway in front of them, and the GPU pools that they share."""

    def __init__(
        self,
        variants: Sequence[SimulatedVariant],
        *,
        traces: Mapping[str, Trace] | None = None,
        pools: Mapping[str, int] | None = None,
        routing: Routing = "least-loaded",
        clients: Mapping[str, Clients] | None = None,
    ) -> None:
        """Create a fleet at time 0.

        Args:
            variants: Variants; those of one model share its requests.
            traces: Requests that arrive as time advances, by model.
            pools: Number of GPUs by the pool's name.
            routing: How the gateway chooses a server, see `emulator.gateway.Routing`.
            clients: Timeouts and retries by model; other clients wait for ever.

        Raises:
            ValueError: Names are not unique or not known, or the routing is unknown.

        """
        _check(variants, traces or {}, pools or {}, routing)
        super().__init__(variants, routing)
        self._live: dict[int, Request] = {}  # that have not ended, by index
        self._log = RequestLog(sum(len(trace) for trace in (traces or {}).values()))
        self._free, self._count = dict(pools or {}), 0
        self._patience = Patience(self.models, clients or {}, drop=self._drop, send=self._send)
        self._created = itertools.count()
        self._pending: list[FleetServer] = []
        self._starting: list[tuple[float, int, FleetServer]] = []  # heap by ready time
        self._arrivals = _merge(self.models, traces or {})
        self._coming = next(self._arrivals, None)
        for index, variant in enumerate(self.variants):
            self._create(index, variant.replicas)
        self._control(0.0, delayed=False)

    def advance(self, until_seconds: float) -> None:
        """Simulate up to and including that time since the beginning."""
        until_ms = until_seconds * 1000
        if not self._now_ms <= until_ms < math.inf:
            now = self._now_ms / 1000
            raise ValueError(f"until_seconds: must be >= {now} and finite, not {until_seconds}")
        while True:
            control_ms = self._next_control_ms()
            limit_ms = min(control_ms, _after(until_ms))
            if self._coming is not None and self._coming.arrival_ms < limit_ms:
                self._feed(limit_ms)
                continue  # who has arrived may have a deadline, and others none any more
            if control_ms > until_ms:
                break
            self._now_ms = control_ms
            self._control(control_ms)
        self._now_ms = until_ms
        self._settle()

    def offer(self, model: str, *, input_tokens: int, output_tokens: int) -> int:
        """Let a request arrive now; returns its index in the results."""
        if input_tokens < 0 or output_tokens < 1:
            raise ValueError(
                f"tokens: must be >= 0 and >= 1, not {input_tokens} and {output_tokens}"
            )
        index = position(self.models, model, "model")
        self._arrive(Request(self._now_ms, index, input_tokens, output_tokens))
        self._settle()
        return self._count - 1

    def scale(self, variant: str, replicas: int) -> None:
        """Set the replicas of a variant from now on.

        New replicas wait for GPUs, then start. Replicas without GPUs are removed first, then starting ones,
        then the youngest, then the least loaded; running requests finish, waiting ones are routed anew.
        """
        if replicas < 0:
            raise ValueError(f"{variant}: replicas: must be >= 0, not {replicas}")
        index = position(self._names, variant, "variant")
        servers = self._servers[index]
        self._create(index, replicas - len(servers))
        self._retire(sorted(servers, key=_retention_order)[replicas:])
        self._control(self._now_ms)
        self._settle()

    def _feed(self, limit_ms: float) -> None:
        """Let the requests before that time arrive; no replica becomes ready or ends until then."""
        while (request := self._coming) is not None and request.arrival_ms < limit_ms:
            self._arrive(request)
            self._coming = next(self._arrivals, None)
            if self._patience.active:
                limit_ms = min(limit_ms, self._patience.next_ms())

    def _arrive(self, request: Request) -> None:
        request.index = self._count
        self._count += 1
        self._live[request.index] = request
        self._send(request, request.arrival_ms)

    def _send(self, request: Request, at_ms: float) -> None:
        """An attempt of a client."""
        self._offered[request.model] += 1
        self._patience.sent(request, at_ms)
        self._gateway.dispatch(request, at_ms)

    def _next_control_ms(self) -> float:
        """Time at which a replica may end or become ready next, or a client may lose its patience."""
        ready_ms = self._starting[0][0] if self._starting else math.inf
        patience_ms = self._patience.next_ms()
        return min([ready_ms, patience_ms, *(server.next_ms for server in self._draining)])

    def _drop(self, request: Request, at_ms: float) -> bool:
        """Take a request without a token out; false where it has one."""
        server = request.server
        if server is None:
            self._gateway.cancel(request)
            return True
        server.run(at_ms)
        if not math.isnan(request.finish_ms) or server.has_first_token(request):
            return False
        server.cancel(request, at_ms)
        return True

    def _control(self, at_ms: float, *, delayed: bool = True) -> None:
        """End drained replicas, give GPUs to pending ones, and make started ones ready, at that time."""
        for server in self._draining[:]:
            if server.next_ms <= at_ms:
                server.run(_after(at_ms))
            if server.load == 0:
                self._draining.remove(server)
                self._end(server, at_ms)
        for server in self._pending[:]:  # a smaller replica overtakes those that do not fit
            variant = self.variants[server.variant]
            fits = variant.pool is None or self._free[variant.pool] >= variant.devices
            if fits and server.variant not in self._closed:
                self._pending.remove(server)
                self._start(server, variant, at_ms, delayed=delayed)
        while self._starting and self._starting[0][0] <= at_ms:
            server = heappop(self._starting)[2]
            server.state = "ready"
            self._gateway.add(server, self._model_of(server))
        self._gateway.release(at_ms)
        self._patience.run(at_ms)

    def _create(self, index: int, count: int) -> None:
        for _ in range(count):
            server = self.variants[index].server(next(self._created), index)
            if self._latencies is not None:
                server.latest_ttft_ms = []
            self._servers[index].append(server)
            self._pending.append(server)

    def _start(
        self, server: FleetServer, variant: SimulatedVariant, at_ms: float, *, delayed: bool
    ) -> None:
        if variant.pool is not None:
            self._free[variant.pool] -= variant.devices
        server.state = "starting"
        server.created_ms = at_ms
        server.ready_ms = at_ms + (server.startup_seconds * 1000 if delayed else 0.0)
        heappush(self._starting, (server.ready_ms, server.number, server))

    def _retire(self, servers: Sequence[FleetServer]) -> None:
        """Drain these servers; their waiting requests are routed once all of them are out of service."""
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
                self._gateway.remove(server, self._model_of(server))
                server.state = "draining"
                moving.extend(server.withdraw())
        for request in sorted(moving, key=lambda request: request.arrival_ms):
            request.variant, request.server = -1, None
            self._gateway.dispatch(request, self._now_ms)

    def _end(self, server: FleetServer, at_ms: float) -> None:
        self._record([server])
        variant = self.variants[server.variant]
        if server.state != "pending":
            self._gpu_ms[server.variant] += variant.devices * (at_ms - server.created_ms)
            if variant.pool is not None:
                self._free[variant.pool] += variant.devices
        server.state = "ended"

    def _settle(self) -> None:
        """Run the servers' own events until now, with the iterations that `next_ms` leaves out."""
        until_ms = _after(self._now_ms)
        servers = [*self._draining, *self._gateway.servers()]
        for server in servers:
            server.run(until_ms)
        self._record(servers)

    def _record(self, servers: Sequence[FleetServer]) -> None:
        """Write the requests that have ended into the log, all at once, and let go of them."""
        self._log.write([request for server in servers for request in server.ended])
        for server in servers:
            if self._latencies is not None:
                ttfts, itls = self._latencies[server.variant]
                ttfts += [ttft for _, ttft in server.latest_ttft_ms or ()]
                itls += [
                    (item.finish_ms - item.first_token_ms) / (item.output_tokens - 1)
                    for item in server.ended
                    if item.output_tokens > 1
                ]
                server.latest_ttft_ms = []
            for request in server.ended:
                del self._live[request.index]
                request.server = None
            server.ended.clear()

    def results(self) -> Results:
        """Times of every request that has arrived so far."""
        self._log.write(self._live.values())
        return self._log.results(self._count)


def _check(
    variants: Sequence[SimulatedVariant],
    traces: Mapping[str, Trace],
    pools: Mapping[str, int],
    routing: str,
) -> None:
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise ValueError(f"variants: names must differ: {names}")
    if routing not in {"least-loaded", "round-robin"}:
        raise ValueError(f"routing: must be least-loaded or round-robin, not {routing!r}")
    models = tuple(dict.fromkeys(variant.model for variant in variants))
    for model in traces:
        position(models, model, "traces")
    for variant in variants:
        if variant.pool is not None:
            position(tuple(pools), variant.pool, f"{variant.name}: pool")


def _merge(models: Sequence[str], traces: Mapping[str, Trace]) -> Iterator[Request]:
    """Requests of all traces by arrival; lists of some, because single elements of arrays are slow."""
    parts = [(models.index(name), trace) for name, trace in traces.items()]
    if len(parts) == 1:
        yield from _requests(*parts[0])
    else:
        streams = (_requests(model, trace) for model, trace in parts)
        yield from heapq.merge(*streams, key=lambda request: request.arrival_ms)


def _requests(model: int, trace: Trace) -> Iterator[Request]:
    """Requests of one trace; no more than some of them are made ahead of their arrival."""
    for start in range(0, len(trace), _ARRIVALS):
        rows = slice(start, start + _ARRIVALS)
        arrivals = (trace.arrival_seconds[rows] * 1000).tolist()
        tokens = zip(
            trace.input_tokens[rows].tolist(), trace.output_tokens[rows].tolist(), strict=True
        )
        for arrival_ms, (inputs, outputs) in zip(arrivals, tokens, strict=True):
            yield Request(arrival_ms, model, inputs, outputs)


def _after(moment_ms: float) -> float:
    return math.nextafter(moment_ms, math.inf)


def _retention_order(server: FleetServer) -> tuple[int, float, int, int]:
    """Sort key by which a ReplicaSet keeps replicas: first those that are removed last."""
    rank = ("ready", "starting", "pending").index(server.state)
    return rank, server.created_ms, -server.load, server.number
