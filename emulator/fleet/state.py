"""The present state of a simulated fleet, as a metrics page or a gateway shows it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from emulator.fleet.variants import SimulatedVariant
from emulator.gateway import Gateway, Routing
from emulator.server import Counters, FleetServer, State


class FleetState:
    """Servers, gateway and counters of a fleet, and what is read of them.

    Attributes:
        variants: Variants of the fleet.
        models: Models that they serve, in the order of the variants.

    """

    def __init__(self, variants: Sequence[SimulatedVariant], routing: Routing) -> None:
        self.variants = tuple(variants)
        self.models = tuple(dict.fromkeys(variant.model for variant in variants))
        self._names = [variant.name for variant in variants]
        # Without draining ones.
        self._servers: list[list[FleetServer]] = [[] for _ in self.variants]
        self._draining: list[FleetServer] = []
        self._closed: set[int] = set()  # variants whose replicas no node takes
        self._gateway = Gateway(models=len(self.models), routing=routing)
        self._offered = [0 for _ in self.models]
        self._gpu_ms = [0.0 for _ in self.variants]  # of ended replicas
        self._now_ms = 0.0
        self._latencies: list[tuple[list[float], list[float]]] | None = None

    def _model_of(self, server: FleetServer) -> int:
        return self.models.index(self.variants[server.variant].model)

    def keep_latencies(self) -> None:
        """Keep latencies from now on, for `take_latencies`."""
        self._latencies = [([], []) for _ in self.variants]
        for server in itertools.chain(self._draining, *self._servers):
            server.latest_ttft_ms = []

    def take_latencies(self, variant: str) -> tuple[list[float], list[float]]:
        """TTFT of first tokens and mean ITL of ended requests since the last call, ms."""
        if self._latencies is None:
            raise ValueError("keep_latencies: must have been called")
        index = position(self._names, variant, "variant")
        taken, self._latencies[index] = self._latencies[index], ([], [])
        return taken

    def prompt_tokens(self, variant: str) -> int:
        """Prompt tokens of the requests that the variant's ready replicas serve or have waiting."""
        index = position(self._names, variant, "variant")
        return sum(item.prompt_tokens for item in self._servers[index] if item.state == "ready")

    def in_flight(self, variant: str) -> int:
        """Requests that the variant's ready replicas serve or have waiting."""
        index = position(self._names, variant, "variant")
        return sum(item.load for item in self._servers[index] if item.state == "ready")

    def queued_prompt_tokens(self, model: str) -> int:
        """Prompt tokens of the requests that wait for a replica to become ready."""
        return self._gateway.queued_prompt_tokens(position(self.models, model, "model"))

    def replicas(self, variant: str, *states: State) -> int:
        """Replicas of the variant in these states; without states, those that `scale` has set."""
        index = position(self._names, variant, "variant")
        if not states:
            return len(self._servers[index])
        draining = (server for server in self._draining if server.variant == index)
        return sum(server.state in states for server in (*self._servers[index], *draining))

    def ready(self, variant: str) -> int:
        """Replicas that receive requests."""
        return len(self.ready_numbers(variant))

    def ready_numbers(self, variant: str) -> list[int]:
        """Numbers of the replicas that receive requests, the oldest first."""
        servers = self._servers[position(self._names, variant, "variant")]
        return sorted(server.number for server in servers if server.state == "ready")

    def counters(self, variant: str) -> tuple[Counters, ...]:
        """Present counters of each ready or draining replica, the oldest first."""
        index = position(self._names, variant, "variant")
        ready = (server for server in self._servers[index] if server.state == "ready")
        draining = (server for server in self._draining if server.variant == index)
        servers = sorted((*ready, *draining), key=lambda server: server.number)
        return tuple(server.counters() for server in servers)

    def gateway(self, model: str) -> int:
        """Requests that wait for a replica to become ready."""
        return self._gateway.queued(position(self.models, model, "model"))

    def offered(self, model: str) -> int:
        """Requests that have arrived so far."""
        return self._offered[position(self.models, model, "model")]

    def gpu_seconds(self, variant: str) -> float:
        """GPU time held so far by starting, ready and draining replicas."""
        index = position(self._names, variant, "variant")
        held = (*self._servers[index], *(s for s in self._draining if s.variant == index))
        ages_ms = (self._now_ms - s.created_ms for s in held if s.state != "pending")
        return (self._gpu_ms[index] + self.variants[index].devices * sum(ages_ms)) / 1000


def position(names: Sequence[str], name: str, what: str) -> int:
    """Index of a name; ValueError, which says what there is, for another one."""
    if name not in names:
        raise ValueError(f"{what}: no {name!r}; there are {', '.join(names) or 'none'}")
    return names.index(name)
