"""How long the pages of an address are doubted for contradicting themselves."""

from __future__ import annotations

from dataclasses import dataclass

_DOUBT, _PATIENCE = 5, 160
"""Weight of a contradiction beside an answer without one, and the weight up to which there is patience: 40
pages on end, and 160 where every second one contradicts."""


@dataclass(slots=True)
class Patience:
    """For how long an address is doubted for what contradicts on its pages.

    A server whose pages go on contradicting themselves counts in another way: its numbers are used again, as
    its target would never change otherwise.
    """

    _doubts: int = 0

    def within(self, odd: str) -> str:
        """What contradicts, asked twice a page; empty where it has gone on for too long."""
        more = _DOUBT if odd else -1
        self._doubts = min(max(self._doubts + more, 0), 2 * _PATIENCE)
        return "" if self._doubts > _PATIENCE else odd
