"""A fleet whose variants may be unschedulable for a time."""

from __future__ import annotations

from emulator.fleet.state import position
from emulator.simulation import SimulatedFleet


class ClosableFleet(SimulatedFleet):
    """A simulated fleet in which new replicas of a variant may find no node."""

    def close(self, variant: str, *, evict: bool = False) -> None:
        """Let new replicas of a variant wait as long as `reopen` has not been called.

        Args:
            variant: Name of the variant.
            evict: Whether those that start or serve are replaced by ones that wait: requests in service
                finish, waiting ones are routed anew.

        """
        index = position(self._names, variant, "variant")
        self._closed.add(index)
        if not evict:
            return
        running = [server for server in self._servers[index] if server.state != "pending"]
        self._create(index, len(running))
        self._retire(running)
        self._control(self._now_ms)
        self._settle()

    def reopen(self, variant: str) -> None:
        """Let replicas of a variant start again."""
        self._closed.discard(position(self._names, variant, "variant"))
        self._control(self._now_ms)
        self._settle()
