"""Allowances: so many at once, so many a second after that, for all together or for each peer."""

from __future__ import annotations

from collections import OrderedDict

_PEERS = 1024
"""Peers whose allowance is remembered at most; the one that was used longest ago goes first."""


class Allowance:
    """So many in a burst, so many a second after it."""

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = float(burst)
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Whether there is one left at that monotonic time; it is then taken."""
        self._left = min(self._left + (now - self._at) * self._per_second, float(self._burst))
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def give_back(self) -> None:
        """Give back one that was taken."""
        self._left = min(self._left + 1.0, float(self._burst))


class Allowances:
    """An allowance of its own for each peer, in bounded memory."""

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._peers: OrderedDict[str, Allowance] = OrderedDict()

    def of(self, peer: str) -> Allowance:
        """The allowance of a peer."""
        allowance = self._peers.get(peer)
        if allowance is None:
            allowance = self._peers[peer] = Allowance(
                burst=self._burst, per_second=self._per_second
            )
            if len(self._peers) > _PEERS:
                self._peers.popitem(last=False)
        self._peers.move_to_end(peer)
        return allowance
