"""A variant of a simulated fleet, and how its replicas are made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emulator.engine import EngineProfile
from emulator.engines.protocol import EngineFactory
from emulator.engines.replica import EngineServer
from emulator.server import FleetServer, Server


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
