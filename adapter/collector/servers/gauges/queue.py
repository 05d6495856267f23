"""Gauges of requests that are too high, as they keep requests whose clients disconnected, or jump.

Requests are taken up in the order in which they came, so one that is served while others wait was waiting at
the page before, and its time to first token says so. Where first tokens come at once instead, and the server
has room for more, the requests that its gauge has are none: they would have been taken up. A queue that
grows beside room by more than a batch between two pages counts from when first tokens say that it is one, or
none comes at all; a smaller one counts at once, as prompts wait for their turn beside room too. Requests
are conserved, however: those that come are taken up, or keep others from it. A queue of more than chance
beside room, while as many as ever were taken up, no more are in service and none of them waited, counts from
then on too. Where a page has no times to first token, a queue that grows so does not count while its server
goes on as before and it does not move: one of requests does, by chance. Where no other server has one, it
counts once it has grown on for some pages: a server at a limit below the batch serves as many as before.

Requests whose LoRA adapter has no slot wait beside room for as long as others have all: that queue counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.gauges.service import CHANCE, LESS, PREFILL

PAGES = 2
"""Pages in a row that say so, before a queue that counted is not counted any more."""

_SILENT_PAGES = 2
"""Pages without any first token after which a queue beside room counts: prefill may be what is slow."""

_SHARE = 0.1
"""Largest share of the wait that the order of service would need, for it to be none."""

_LEARNED = 3
"""Pages after which it is known how many requests a server takes up."""

_TIMES_USUAL, _SECONDS_MORE = 2.0, 0.1
"""Mean times to first token up to which none of those that were taken up waited: so many times the usual
one, and seconds more."""

_BESIDE = 0.25
"""Share of a jump of the gauge up to which what waited before does not vouch for it."""

_GROWS = 2
"""Pages in a row after its first, on which the only queue of several servers grows, before it counts."""

_ROOM = 0.5
"""Largest share of the KV cache in use that leaves room, where no profile says how large a batch may be."""

LEFT = (
    "its queue of {number:.0f} is not counted: first tokens come without a wait, and there is room in the"
    " batch (the gauge keeps requests of disconnected clients; a restart of the pod clears it)"
)
NEW = (
    "its queue of {number:.0f} is not counted yet: there is room in the batch, so whether requests wait is"
    " seen by the next first tokens"
)


@dataclass(slots=True)
class Pace:
    """How many requests a server takes up, and how soon, as its pages have shown it."""

    _taken_rps: float = 0.0
    _ttft: float = 0.0
    _known: int = 0

    def compared(
        self, before: PodMetrics, page: PodMetrics, *, seconds: float
    ) -> tuple[bool, bool]:
        """Whether it took up no more requests than before, and whether its gauge alone shows a queue."""
        if seconds <= 0:
            return False, False
        taken = max(page.finished - before.finished + page.running - before.running, 0.0)
        timed = page.ttft[1] > 0
        served = (page.ttft[1] - before.ttft[1]) if timed else page.finished - before.finished
        ttft = (page.ttft[0] - before.ttft[0]) / served if served > 0 else 0.0
        expected = self._taken_rps * seconds
        chance = CHANCE * math.sqrt(expected)
        usual = self._known >= _LEARNED and taken <= expected + chance + 1.0
        at_once = served > 0 and ttft <= _TIMES_USUAL * self._ttft + _SECONDS_MORE
        unseen = (
            usual
            and at_once
            and min(served, taken) >= expected - chance
            and page.waiting - before.waiting > chance + 1.0
        )
        share = LESS if self._known else 0.0
        self._taken_rps = share * self._taken_rps + (1.0 - share) * taken / seconds
        if served > 0:
            share = LESS if self._ttft else 0.0
            self._ttft = share * self._ttft + (1.0 - share) * ttft
        self._known += 1
        return usual, unseen


@dataclass(slots=True)
class Queue:
    """What the pages of one address say of its queue.

    Attributes:
        left: Requests in the gauge that do not wait; 0 where the gauge agrees with the times to first token.
        doubted: Further ones of which it is not known yet.

    """

    left: float = 0.0
    doubted: float = 0.0
    _pages: int = 0
    _silent: int = 0
    _believed: bool = False
    _most: float = 0.0
    _level: float = 0.0
    _grown: int = 0
    _pace: Pace = field(default_factory=Pace)

    @property
    def note_text(self) -> str:
        """What is not counted; empty for nothing."""
        if self.left:
            return LEFT.format(number=self.left)
        return NEW.format(number=self.doubted) if self.doubted else ""

    def note(
        self,
        before: PodMetrics,
        page: PodMetrics,
        *,
        seconds: float,
        batch: float,
        alone: bool = False,
    ) -> None:
        """Compare a page with the one before it.

        Args:
            before: Last page of the same process.
            page: This page.
            seconds: Time between the two.
            batch: Largest batch that a profile has; 0 without one.
            alone: Whether there are other servers of the variant, none of which has a queue.

        """
        served, waited = page.ttft[1] - before.ttft[1], page.ttft[0] - before.ttft[0]
        if served < 0 or waited < 0:
            self._begin_anew()
            return
        # What was found to be none stays none, also while others wait behind it.
        self.left = min(self.left, page.waiting)
        room, stood = _has_room(page, batch), min(before.waiting, page.waiting)
        usual, unseen = self._pace.compared(before, page, seconds=seconds)
        # What goes on to grow is compared with what was doubted.
        jumped = unseen and not self.doubted
        jumped = jumped or page.waiting - before.waiting > max(self._most, batch) + PREFILL
        # Where a cache may be full, a queue counts at once.
        slots = page.adapters_waiting > 0
        # Without times to first token what ends shows that it works, and other servers that load rises.
        timed = page.ttft[1] > 0
        # A page of such a server shows nothing of its cache: one that gets full takes up more before it does.
        seen = page.kv_cache is not None or (not timed and page.running <= before.running)
        doubtful = room and not slots and seen and (jumped or self.doubted > 0)
        if doubtful and jumped:
            self._doubt(before, page)
        # Spread over the time: each waited from the page before until it was served.
        waits = waited > _SHARE * 0.5 * min(served, before.waiting) * seconds
        if served > 0 and seconds > 0:
            self._pages = self._pages + 1 if stood > 0 and room and not waits and not slots else 0
            if self._pages >= PAGES:
                self.left, self._believed = max(self.left, stood), False
        goes_on = served > 0 if timed else page.finished > before.finished
        self._silent = self._silent + 1 if not goes_on and stood > self.left else 0
        stands = self._stands(before, page, alone=alone)
        rises = not timed and not (usual and stands) and stood > 0
        if page.waiting <= self.left:
            self._believed = False
        elif (
            not doubtful
            or rises
            or (served > 0 and stood > 0 and waits)
            or self._silent >= _SILENT_PAGES
        ):
            self._believed = True
        self.doubted = 0.0 if self._believed else page.waiting - self.left
        self._most = max(self._most, page.waiting - self.left - self.doubted)

    def _stands(self, before: PodMetrics, page: PodMetrics, *, alone: bool) -> bool:
        """Whether a queue does not move as one of requests would; the only one of several has to grow on."""
        grows = self.doubted > 0 and page.waiting > before.waiting
        self._grown = self._grown + 1 if grows else 0
        near = abs(page.waiting - self._level) <= self._most + 1.0
        return near or (alone and self._grown < _GROWS)

    def _doubt(self, before: PodMetrics, page: PodMetrics) -> None:
        if not self.doubted:
            self._level = page.waiting
        if before.waiting - self.left <= _BESIDE * (page.waiting - before.waiting):
            self._believed = False

    def _begin_anew(self) -> None:
        self.left = self.doubted = 0.0
        self._pages = self._silent = 0
        self._believed = False


def _has_room(page: PodMetrics, batch: float) -> bool:
    """Whether a server can take up more requests."""
    if batch > 0 and page.running >= batch:
        return False
    full = 1.0 if page.kv_cache is None else page.kv_cache
    return full <= _ROOM or (page.kv_cache is None and batch > 0)
