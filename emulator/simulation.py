"""A fleet of emulated vLLM servers in virtual time: an hour of traffic in seconds, reproducible to the bit.

A variant is served by an engine behind the Protocol of `emulator.engines`, or by step times of a profile.
With a profile, batching equals that of `emulator.engine`, to the last bit: a request waits until fewer than
`max_batch` are in service, takes gamma + delta * input_tokens * batch ms for its first token, and gets one
more token with each iteration of alpha + beta * batch ms that begins after it.

At one moment, replicas end or become ready first, then requests arrive, then the servers' events happen:
routing still counts the requests that finish at that very moment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.engine import EngineProfile
from emulator.engines.protocol import EngineFactory
from emulator.engines.replica import EngineServer
from emulator.gateway import Gateway, Routing
from emulator.server import Counters, FleetServer, Request, Server, State
from emulator.traces import Trace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedVariant:
    """Replicas of one model server on one kind of accelerator.

    Attributes:
        name: Name of the variant, unique in the fleet.
        profile: Step times and batch size of a replica; None where `engine` is given.
        engine: Makes the engine of each replica; None where `profile` is given.
        model: Name of the model that the variant serves.
        start_delay_seconds: Time from creation with GPUs until a replica is ready; the median.
        start_delay_sigma: Standard deviation of the logarithm of this time, which is lognormal; 0: no spread.
        seed: Seed of the start delays. The n-th replica of a fleet has the same delay in every run.
        devices: GPUs that each replica takes from `pool`.
        pool: Name of the GPU pool; None is an unlimited one.
        replicas: Replicas that are ready when the simulation begins, as far as the pool allows.

    """

    name: str
    profile: EngineProfile | None = None
    engine: EngineFactory | None = None
    model: str = "default"
    start_delay_seconds: float = 0.0
    start_delay_sigma: float = 0.0
    seed: int = 0
    devices: int = 1
    pool: str | None = None
    replicas: int = 0

    def __post_init__(self) -> None:
        delay = self.start_delay_seconds
        if not (math.isfinite(delay) and delay >= 0):
            raise ValueError(f"{self.name}: start_delay_seconds: must be >= 0, not {delay}")
        sigma = self.start_delay_sigma
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"{self.name}: start_delay_sigma: must be >= 0, not {sigma}")
        if (self.profile is None) == (self.engine is None):
            raise ValueError(f"{self.name}: needs either profile or engine")
        if self.devices < 1 or self.replicas < 0:
            raise ValueError(f"{self.name}: devices must be >= 1, replicas >= 0")

    def server(self, number: int, index: int) -> FleetServer:
        """A new replica of this variant, the `index`-th of the fleet's."""
        server: FleetServer
        if self.engine is not None:
            server = EngineServer(number=number, variant=index, engine=self.engine())
        else:
            assert self.profile is not None  # noqa: S101 - one of the two is given
            server = Server(number=number, variant=index, profile=self.profile)
        server.startup_seconds = self._start_seconds(number)
        return server

    def _start_seconds(self, number: int) -> float:
        if self.start_delay_sigma == 0:
            return self.start_delay_seconds
        deviation = np.random.default_rng([self.seed, number]).standard_normal()
        return self.start_delay_seconds * math.exp(self.start_delay_sigma * deviation)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Results:
    """Columns with one entry per request, in order of arrival.

    A variant with an engine of its own tells times and replica of a request when it ends.

    Attributes:
        arrival_ms: Time of arrival since the beginning.
        start_ms: Time at which the request entered a batch; NaN before.
        first_token_ms: Time of the first token; NaN before.
        finish_ms: Time of the last token; NaN before.
        input_tokens: Prompt tokens.
        output_tokens: Tokens to generate.
        model: Index into the fleet's `models`.
        variant: Index into the fleet's `variants`; -1 in the gateway.
        replica: Number of the server; -1 before the request entered a batch.

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
        """Time to first token since the arrival, with the time in gateway and queue."""
        return self.first_token_ms - self.arrival_ms

    @property
    def itl_ms(self) -> FloatArray:
        """Mean inter-token latency of each request; 0 for a single token."""
        return (self.finish_ms - self.first_token_ms) / np.maximum(self.output_tokens - 1, 1)


class SimulatedFleet:
    """Variants, the gateway in front of them, and the GPU pools that they share."""

    def __init__(
        self,
        variants: Sequence[SimulatedVariant],
        *,
        traces: Mapping[str, Trace] | None = None,
        pools: Mapping[str, int] | None = None,
        routing: Routing = "least-loaded",
    ) -> None:
        """Create a fleet at time 0.

        Args:
            variants: Variants; those of one model share its requests.
            traces: Requests that arrive as time advances, by model.
            pools: Number of GPUs by the pool's name.
            routing: How the gateway chooses a server, see `emulator.gateway.Routing`.

        Raises:
            ValueError: Names are not unique or not known, or the routing is unknown.

        """
        _check(variants, traces or {}, pools or {}, routing)
        self.variants = tuple(variants)
        self.models = tuple(dict.fromkeys(variant.model for variant in variants))
        self._names = [variant.name for variant in variants]
        self._free = dict(pools or {})
        self._requests: list[Request] = []
        self._now_ms = 0.0
        self._created = itertools.count()
        self._servers: list[list[FleetServer]] = [
            [] for _ in self.variants
        ]  # without draining ones
        self._gateway = Gateway(models=len(self.models), routing=routing)
        self._offered = [0 for _ in self.models]
        self._gpu_ms = [0.0 for _ in self.variants]  # of ended replicas
        self._pending: list[FleetServer] = []
        self._starting: list[tuple[float, int, FleetServer]] = []  # heap by ready time
        self._draining: list[FleetServer] = []
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
            self._feed(min(control_ms, _after(until_ms)))
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
        index = _position(self.models, model, "model")
        self._arrive(Request(self._now_ms, index, input_tokens, output_tokens))
        self._settle()
        return len(self._requests) - 1

    def scale(self, variant: str, replicas: int) -> None:
        """Set the replicas of a variant from now on.

        New replicas wait for GPUs, then start. Replicas without GPUs are removed first, then starting ones,
        then the youngest, then the least loaded; running requests finish, waiting ones are routed anew.
        """
        if replicas < 0:
            raise ValueError(f"{variant}: replicas: must be >= 0, not {replicas}")
        index = _position(self._names, variant, "variant")
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

    def _arrive(self, request: Request) -> None:
        self._requests.append(request)
        self._offered[request.model] += 1
        self._gateway.dispatch(request, request.arrival_ms)

    def _next_control_ms(self) -> float:
        """Time at which a replica may end or become ready next."""
        ready_ms = self._starting[0][0] if self._starting else math.inf
        return min([ready_ms, *(server.next_ms for server in self._draining)])

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
            if variant.pool is None or self._free[variant.pool] >= variant.devices:
                self._pending.remove(server)
                self._start(server, variant, at_ms, delayed=delayed)
        while self._starting and self._starting[0][0] <= at_ms:
            server = heappop(self._starting)[2]
            server.state = "ready"
            self._gateway.add(server, self._model_of(server))
        self._gateway.release(at_ms)

    def _create(self, index: int, count: int) -> None:
        for _ in range(count):
            server = self.variants[index].server(next(self._created), index)
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
            request.variant = -1
            self._gateway.dispatch(request, self._now_ms)

    def _end(self, server: FleetServer, at_ms: float) -> None:
        variant = self.variants[server.variant]
        if server.state != "pending":
            self._gpu_ms[server.variant] += variant.devices * (at_ms - server.created_ms)
            if variant.pool is not None:
                self._free[variant.pool] += variant.devices
        server.state = "ended"

    def _settle(self) -> None:
        """Run the servers' own events until now, with the iterations that `next_ms` leaves out."""
        for server in itertools.chain(self._draining, self._gateway.servers()):
            server.run(_after(self._now_ms))

    def _model_of(self, server: FleetServer) -> int:
        return self.models.index(self.variants[server.variant].model)

    def replicas(self, variant: str, *states: State) -> int:
        """Replicas of the variant in these states; without states, those that `scale` has set."""
        index = _position(self._names, variant, "variant")
        if not states:
            return len(self._servers[index])
        draining = (server for server in self._draining if server.variant == index)
        return sum(server.state in states for server in (*self._servers[index], *draining))

    def ready(self, variant: str) -> int:
        """Replicas that receive requests."""
        return self.replicas(variant, "ready")

    def counters(self, variant: str) -> tuple[Counters, ...]:
        """Present counters of each ready or draining replica, the oldest first."""
        index = _position(self._names, variant, "variant")
        ready = (server for server in self._servers[index] if server.state == "ready")
        draining = (server for server in self._draining if server.variant == index)
        servers = sorted((*ready, *draining), key=lambda server: server.number)
        return tuple(server.counters() for server in servers)

    def gateway(self, model: str) -> int:
        """Requests that wait for a replica to become ready."""
        return self._gateway.queued(_position(self.models, model, "model"))

    def offered(self, model: str) -> int:
        """Requests that have arrived so far."""
        return self._offered[_position(self.models, model, "model")]

    def gpu_seconds(self, variant: str) -> float:
        """GPU time held so far by starting, ready and draining replicas."""
        index = _position(self._names, variant, "variant")
        held = (*self._servers[index], *(s for s in self._draining if s.variant == index))
        ages_ms = (self._now_ms - s.created_ms for s in held if s.state != "pending")
        return (self._gpu_ms[index] + self.variants[index].devices * sum(ages_ms)) / 1000

    def results(self) -> Results:
        """Times of every request that has arrived so far."""
        columns: dict[str, Any] = {}
        for name in (column.name for column in fields(Results)):
            dtype = np.float64 if name.endswith("_ms") else np.int64
            columns[name] = np.array([getattr(r, name) for r in self._requests], dtype=dtype)
        return Results(**columns)


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
        _position(models, model, "traces")
    for variant in variants:
        if variant.pool is not None:
            _position(tuple(pools), variant.pool, f"{variant.name}: pool")


def _merge(models: Sequence[str], traces: Mapping[str, Trace]) -> Iterator[Request]:
    """Requests of all traces by arrival; lists, because single elements of arrays are slow."""
    parts = [(models.index(name), trace) for name, trace in traces.items()]
    if not parts:
        return
    arrival_ms = np.concatenate([trace.arrival_seconds * 1000 for _, trace in parts])
    model = np.concatenate([np.full(len(trace.input_tokens), i) for i, trace in parts])
    inputs = np.concatenate([trace.input_tokens for _, trace in parts])
    outputs = np.concatenate([trace.output_tokens for _, trace in parts])
    order = np.argsort(arrival_ms, kind="stable")
    columns = (column[order].tolist() for column in (arrival_ms, model, inputs, outputs))
    yield from itertools.starmap(Request, zip(*columns, strict=True))


def _after(moment_ms: float) -> float:
    return math.nextafter(moment_ms, math.inf)


def _retention_order(server: FleetServer) -> tuple[int, float, int, int]:
    """Sort key by which a ReplicaSet keeps replicas: first those that are removed last."""
    rank = ("ready", "starting", "pending").index(server.state)
    return rank, server.created_ms, -server.load, server.number


def _position(names: Sequence[str], name: str, what: str) -> int:
    if name not in names:
        raise ValueError(f"{what}: no {name!r}; there are {', '.join(names) or 'none'}")
    return names.index(name)
