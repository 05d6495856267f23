"""Whether the pages of one address can be those of one server that works.

A page alone may look right, and be of another process than the last one, or of an engine that has stopped.
Counters say so when they are compared: a page that cannot follow from the one before is not counted, and its
pod's load counts as unknown until its pages are consistent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers import consistency, ranks
from adapter.collector.servers.gauges.residence import Residence
from adapter.collector.servers.gauges.together import QUIET, Gauges
from adapter.collector.servers.patience import Patience
from adapter.collector.servers.ranks import Rank
from adapter.collector.windows import restarts
from adapter.collector.windows.growth import EMPTY

SKEW_SECONDS = 30.0
"""Tolerance between the start of a process by its clock, and the last answer of the one before by ours."""

USUAL = 1.0
"""Requests that wait between two steps of any busy engine."""

CLEAN_PAGES = 2
"""Consistent pages after which a doubt is over."""

SHARED_PAGES = 20
"""The same where pages were of more than one process: two in a row may be of one by chance."""

FALLS, FALL_PAGES = 2, 8
"""Number of falls within so many pages that is no restart any more."""

STILL_PAGES = 2
"""Pages without any movement, though requests are in service, after which an engine counts as hung."""

_TIMES_SEEN, _UNSEEN = 4.0, 32.0
"""Requests in service at once that counters may imply: so many times what was seen, and as many more."""

AHEAD_PAGES = 12
"""Pages over which first tokens are compared with requests that ended."""

_STARTS = 8

SHARED = (
    "this address answers for more than one process (its {what} back and forth): name one URL per"
    " replica"
)
MOVED = "its start time moved though its counters went on: is the clock of its node right?"
FELL = "its counters fell though its process did not start anew"
COPIES = "its first pages were copies of one (a cache before it?): its load is not known until the next one"
BEYOND = (
    "its counters grew by more than it can have served (as if {number:.0f} requests had been in service"
    " at once): are its latencies in seconds?"
)
HUNG = (
    "its numbers stand still with {number:.0f} requests in service: its engine does not answer, or keeps"
    " requests whose clients went away; restart the pod, unless a cache before it keeps its page"
)
STILL = "nothing moved since its last page with {number:.0f} requests in service, so its queue is not counted"


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is wrong with a page; nothing where `problem` is empty.

    Attributes:
        problem: What is wrong and what to do.
        forget: Whether later pages say nothing of the growth since the last one that counted.
        hung: Engines of the server that hang, while the others go on and count.
        left, idle: Requests of the gauges of the queue and of service that are not there as far as is known.
        silent: True where it says nothing of the load: nothing moved though requests are in service.

    """

    problem: str = ""
    forget: bool = False
    hung: tuple[Rank, ...] = ()
    left: float = 0.0
    idle: float = 0.0
    silent: bool = False


@dataclass(slots=True)
class _Address:
    """What is known of an address; `timed_at`: when it last timed a token, or had nothing in service.

    `anew`: whether its last page, as of a new process, counts more than came since the one before.
    `torn`: whether a count fell since the last page that counted, so that what it grew by is not known.
    `part`: why its load is a part though its pages count; `quiet`: why its last page says nothing.
    """

    at: float
    page: PodMetrics
    timed_at: float
    most: float = 0.0
    pages: int = 0
    still: int = 0
    still_since: float = 0.0
    moved: bool = False
    copied: bool = False
    anew: bool = False
    torn: bool = False
    doubt: str = ""
    doubtful_pages: int = 0
    problem: str = ""
    part: str = ""
    quiet: str = ""
    standing: ranks.Standing = field(default_factory=ranks.Standing)
    gauges: Gauges = field(default_factory=Gauges)
    residence: Residence = field(default_factory=Residence)
    patience: Patience = field(default_factory=Patience)
    lost: restarts.Lost = field(default_factory=restarts.Lost)
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=_STARTS))
    falls: deque[int] = field(default_factory=lambda: deque(maxlen=FALLS))
    recent: deque[PodMetrics] = field(default_factory=lambda: deque(maxlen=AHEAD_PAGES))


class Plausibility:
    """Compares the pages of each address of one variant."""

    def __init__(self, *, interval: float = 15.0) -> None:
        """`interval`: seconds between two scrape cycles; pages in between do not prove a standstill."""
        self._interval = interval
        self._addresses: dict[str, _Address] = {}

    def problem(self, endpoint: str) -> str:
        """What is wrong with the last page of an address; empty if nothing is."""
        address = self._addresses.get(endpoint)
        return "" if address is None else address.problem

    def part(self, endpoint: str) -> str:
        """Why the load of an address is a part of what comes to it; empty where it is the whole."""
        address = self._addresses.get(endpoint)
        return "" if address is None else address.part

    def note(self, endpoint: str) -> str:
        """What of a page is not counted though the rest of it is; empty for nothing."""
        if (address := self._addresses.get(endpoint)) is None:
            return ""
        return address.quiet or address.gauges.note_text

    def answered(self, endpoint: str, *, since: float) -> bool:
        """Whether an address gave a page, plausible or not, at or after monotonic `since`."""
        address = self._addresses.get(endpoint)
        return address is not None and address.at >= since

    def still_seconds(self, endpoint: str) -> float:
        """Time for which the numbers of an address have stood still with work; 0 where they have not."""
        address = self._addresses.get(endpoint)
        if address is None or address.still < STILL_PAGES or address.doubtful_pages:
            return 0.0
        return address.at - address.still_since

    def moved(self, endpoint: str) -> bool:
        """Whether the numbers of an address have ever moved since it is known."""
        address = self._addresses.get(endpoint)
        return address is not None and address.moved

    def retain(self, endpoints: Iterable[str]) -> None:
        """Forget all other addresses."""
        known = set(endpoints)
        self._addresses = {e: item for e, item in self._addresses.items() if e in known}

    def assess(
        self,
        endpoint: str,
        page: PodMetrics,
        *,
        now: float,
        started: float | None,
        batch: float = 0.0,
    ) -> Assessment:
        """Compare a page with those before it.

        Args:
            endpoint: Address that it is of.
            page: Its metrics.
            now: Monotonic seconds at which it was read.
            started: When its process started, or else its container again, on the same clock; None: unknown.
            batch: Largest batch that a profile of the variant has.

        """
        address = self._addresses.get(endpoint)
        if address is None:
            address = _Address(now, page, now, most=page.stock, gauges=Gauges.of(page))
            self._addresses[endpoint] = address
            _note(address, page, now)
            return Assessment()
        if now <= address.at:
            return Assessment(address.problem)
        doubt, pages = _doubt(address, page, now=now, started=started, batch=batch)
        if doubt:
            if pages >= address.doubtful_pages:
                address.doubt, address.doubtful_pages = doubt, pages
            address.recent.clear()
        elif address.doubtful_pages:
            address.doubtful_pages -= 1
        verdict = Assessment(address.doubt, forget=True) if address.doubtful_pages else Assessment()
        _stands_still(address, page, now=now, doubtful=bool(doubt))
        engines = tuple(self._hung(address, page, now=now))
        if not verdict.problem:
            verdict = Assessment(self._standing(address, page, now=now))
        before, seconds = address.page, now - address.at
        _note(address, page, now)
        if not verdict.problem:
            verdict = _over_pages(address, before)
        address.quiet = ""
        if doubt or verdict.problem:
            address.gauges.forget_queue()
        elif address.still:
            if (still := now - address.still_since) >= STILL_PAGES * self._interval:
                address.quiet = QUIET.format(seconds=still, number=page.stock)
            verdict = Assessment(silent=True)  # requests that do not end are not fewer that come
        else:
            alone = self._alone(endpoint, since=now - 2.0 * self._interval)
            verdict = _gauges(address, before, seconds=seconds, batch=batch, alone=alone)
        address.problem = verdict.problem
        address.part = COPIES if address.copied else ""
        if engines and not verdict.problem:
            one = engines[0]
            address.part = ranks.HUNG.format(name=one.name, number=one.running + one.waiting)
            return replace(verdict, hung=engines)
        return verdict

    def _standing(self, address: _Address, page: PodMetrics, *, now: float) -> str:
        """Why an address that stands still is not counted; empty where it may be."""
        patience = max(self._interval, page.idle_seconds)
        if address.still >= STILL_PAGES and now - address.still_since >= patience:
            return HUNG.format(number=page.stock)
        if address.still and page.waiting > 0:
            # A queue that stands must not be sized for before it is known whether its engine works.
            return STILL.format(number=page.stock)
        return ""

    def _alone(self, endpoint: str, *, since: float) -> bool:
        """Whether other addresses answered at or after monotonic `since`, none of them with a queue."""
        others = [it for name, it in self._addresses.items() if name != endpoint and it.at >= since]
        queues = [it.page.waiting - it.gauges.queue.left for it in others]
        return bool(queues) and max(queues) <= USUAL

    def _hung(self, address: _Address, page: PodMetrics, *, now: float) -> list[Rank]:
        """Engines of a server that hang while others of it go on."""
        return address.standing.hung(
            address.page.ranks,
            page.ranks,
            now=now,
            last=address.at,
            pages=STILL_PAGES,
            seconds=max(self._interval, page.idle_seconds),
        )


def _gauges(
    address: _Address, before: PodMetrics, *, seconds: float, batch: float, alone: bool
) -> Assessment:
    """What of the last page's gauges does not count, compared with the page before."""
    page, gauges = address.page, address.gauges
    gauges.note(before, page, seconds=seconds, batch=batch, alone=alone)
    address.most = max(address.most, page.stock - gauges.left - gauges.idle)
    forget = address.anew or (address.copied and page != before)
    return Assessment(left=gauges.left, idle=gauges.idle, forget=forget)


def _note(address: _Address, page: PodMetrics, now: float) -> None:
    if page.itl[1] != address.page.itl[1] or page.running <= 0:
        address.timed_at = now
    address.at, address.page = now, page
    address.pages += 1
    address.recent.append(page)
    if page.started_at is not None and not _known(address, page.started_at):
        address.starts.append(page.started_at)


def _over_pages(address: _Address, before: PodMetrics) -> Assessment:
    """What contradicts on its last page and some before; nothing else of it is assessed."""
    odd = consistency.over_pages(address.recent, timed=address.residence.timed)
    odd = address.patience.within(odd)
    address.torn = bool(odd) and (address.torn or restarts.counts_fell(before, address.page))
    return Assessment(odd, forget=address.torn)


def _known(address: _Address, start: float | None) -> bool:
    same = restarts.SAME_START_SECONDS
    return start is not None and any(abs(start - it) <= same for it in address.starts)


def _other_start(
    address: _Address, page: PodMetrics, *, now: float, started: float | None
) -> tuple[str, int]:
    """Why a page with another start time is not of a process that began anew; arguments as of `_doubt`."""
    before = address.page
    # One that counts from near zero has begun anew, whatever the clock of its node says.
    counts_on = page.finished > max(restarts.NEAR_ZERO_SHARE * before.finished, restarts.FEW)
    clock = started if started is not None and counts_on else now
    if _known(address, page.started_at) or clock < address.at - SKEW_SECONDS:
        return SHARED.format(what="start time goes"), SHARED_PAGES
    if clock > now + SKEW_SECONDS or restarts.went_on(before, page):
        return MOVED, CLEAN_PAGES
    return "", 0


def _doubt(
    address: _Address, page: PodMetrics, *, now: float, started: float | None, batch: float
) -> tuple[str, int]:
    """Why a page cannot follow from the last one, and consistent pages until that is over."""
    before = address.page
    base, since, again = before, address.at, False
    if page.started_at is not None and before.started_at is not None:
        if restarts.another_start(before, page):
            odd, pages = _other_start(address, page, now=now, started=started)
            if odd:
                return odd, pages
            base, since = EMPTY, address.at
        elif restarts.fell(before, page) or address.lost.regained(before, page):
            address.lost.note(before, page)
            return FELL, CLEAN_PAGES
    elif again := restarts.again(before, page, started, since=address.at, now=now):
        base = EMPTY
    elif restarts.fell(before, page):
        address.falls.append(address.pages)
        often = len(address.falls) == FALLS and address.pages - address.falls[0] <= FALL_PAGES
        if often:
            return SHARED.format(what="counters go"), SHARED_PAGES
        counts_on = page.finished > restarts.NEAR_ZERO_SHARE * before.finished and page.finished > 0
        if counts_on or restarts.fell_alone(before, page):
            address.lost.note(before, page)
            return f"{FELL}, or {SHARED.format(what='counters go')}", CLEAN_PAGES
        base = EMPTY
    elif address.lost.regained(before, page):
        return FELL, CLEAN_PAGES
    _note_restart(address, page, seconds=now - since if base is EMPTY else 0.0, proven=again)
    seconds = page.itl[0] - base.itl[0] if page.itl[1] >= base.itl[1] else page.itl[0]
    odd = address.residence.turned_away(base, page, batch=batch)
    odd = odd or consistency.problem(base, page) or consistency.beyond_reach(base, page)
    odd = odd or address.residence.too_fast(base, page, seconds=now - since)
    odd = address.patience.within(odd or consistency.late(address.recent, base, page))
    implied = address.residence.implied(base, page, seconds=now - since)
    # A gap between tokens counts once it is over, for as long as it was.
    timed_since = min(address.timed_at, since) if base is before else since
    implied = max(seconds / (now - timed_since), implied)
    if not odd and implied > _TIMES_SEEN * max(address.most, batch, page.running) + _UNSEEN:
        odd = BEYOND.format(number=implied)
    if odd and base is before:
        address.lost.note(before, page)
    return odd, CLEAN_PAGES if odd else 0


def _note_restart(address: _Address, page: PodMetrics, *, seconds: float, proven: bool) -> None:
    """Note whether a process that began anew within `seconds`, 0 for none, counts more than came since then.

    Without a start time a count that fell to little is no proof of a restart: it may come back too.
    """
    address.anew = False
    if seconds:
        address.recent.clear()  # of another process
        unusual = partial(address.residence.unusual, seconds=seconds)
        if page.started_at is None and not proven and unusual(address.page.finished):
            address.lost.note(address.page, page)
            address.anew = unusual(page.finished)


def _stands_still(address: _Address, page: PodMetrics, *, now: float, doubtful: bool) -> None:
    """Count the pages without any movement though requests are in service."""
    before, residence = address.page, address.residence
    if doubtful:
        residence.doubt()
    else:
        residence.note(before, page, seconds=now - address.at, idle=address.gauges.idle)
    moved = restarts.another_start(before, page) or any(
        getattr(before, name) != getattr(page, name)
        for name in ("running", "waiting", "kv_cache", *consistency.COUNTERS)
    )
    # Copies of a page of an unknown time: for how long it grew is not known. A quiet one stands for hours.
    if moved or page.stock <= 0:
        unmoved = moved and address.pages > 1 and not address.moved
        address.copied = unmoved and restarts.copied(before, page)
        address.moved |= moved
    # Without a count of tokens a long request looks the same, unless many should have ended.
    if page.generated is not None or page.itl[1] > 0:
        # Where the KV cache fills, prompts are computed.
        fills = (page.kv_cache or 0.0) > (before.kv_cache or 0.0)
        silent = before.running > 0 and residence.silent_pages == 1 and not fills
        stands, certain = not moved or silent, True
    else:
        stands, certain = residence.stands_still, residence.hangs
    if not stands or page.stock <= 0:
        address.still = 0
    else:
        if address.still == 0:
            address.still_since = address.at
        address.still += 1 if certain or not address.still else 0
