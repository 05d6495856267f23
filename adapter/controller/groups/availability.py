"""Replicas of a variant that do not come: the others of its group take over, and give back later.

What the scheduler, a quota, a scheduling gate or a crash keeps from serving is not counted on: the variant
counts with what can run. More are tried again with exponential back-off, so that
the group does not swing between two variants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adapter.resources.variant import VariantSource

RETRY_SECONDS, MOST_RETRY_SECONDS = 300.0, 3600.0
"""Seconds until more replicas of a limited variant are tried again: first delay, and longest one."""

MISSING_SECONDS = 15.0
"""Time after which pods that do not even exist count as refused, as by a ResourceQuota."""

SEEN_SECONDS = 5.0
"""Least age of an outage: pods are seen to be gone some seconds after they went."""

FOLLOW_SECONDS = 120.0
"""Seconds after which a target that the scale target does not follow counts as refused by its HPA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Most replicas that a variant can run at the moment.

    Attributes:
        replicas: Number of replicas that can run; None where nothing limits it.
        why: What keeps more from running; empty without a limit.
        retry_at: Monotonic seconds at which more replicas are tried again.
        delay: Time from the last evidence until then; it doubles with each failed attempt.
        missing_since: Monotonic time since which pods do not exist; None where they do.
        behind_since: Monotonic time since which the scale target's spec has fewer replicas than desired;
            None where it follows.

    """

    replicas: int | None = None
    why: str = ""
    retry_at: float = 0.0
    delay: float = 0.0
    missing_since: float | None = None
    behind_since: float | None = None

    def most(self, now: float) -> int | None:
        """Replicas to plan with at most; None for any number, also where it is time to ask for more."""
        return None if self.replicas is None or now >= self.retry_at else self.replicas


NO_LIMIT = Limit()


@dataclass(frozen=True, slots=True)
class Outage:
    """No replica of a group serves, or did until a moment ago, though requests were offered to it.

    Attributes:
        since: Monotonic seconds.
        rate_rps: Requests per second that were offered to it before.
        ended: Monotonic time since which some serve again; None while none does.

    """

    since: float
    rate_rps: float
    ended: float | None = None

    def waiting(self, now: float, *, most_seconds: float) -> float:
        """Requests that wait for a replica: those of so many seconds at most, as clients give up.

        Once replicas are later than that, so do more clients than come: half of the queue goes every 5 min.
        """
        seconds = min(max(now - self.since, SEEN_SECONDS), most_seconds)
        return self.rate_rps * seconds * self._left(now, most_seconds, RETRY_SECONDS)

    def growth_rps(self, now: float, *, most_seconds: float) -> float:
        """Requests per second by which that queue grows."""
        return self.rate_rps * self._left(now, most_seconds, RETRY_SECONDS)

    def offered_rps(self, now: float) -> float:
        """Requests per second that are still taken to be offered: half as many every hour after the first."""
        return self.rate_rps * self._left(now, MOST_RETRY_SECONDS, MOST_RETRY_SECONDS)

    def _left(self, now: float, whole: float, half: float) -> float:
        """What is left of one after `whole` seconds of outage, where half of it goes every `half` seconds."""
        return float(0.5 ** (max(now - self.since - whole, 0.0) / half))


def outage(
    before: Outage | None, *, serves: bool, offered_rps: float, window: float, now: float
) -> Outage | None:
    """The outage after a look at a group's replicas; it is remembered for a window after its end, seconds.

    `offered_rps` are the requests per second that were offered to the group before.
    """
    if before is None:
        return None if serves or offered_rps <= 0 else Outage(now, offered_rps)
    if not serves:
        return before if before.ended is None else Outage(now, before.rate_rps)
    ended = now if before.ended is None else before.ended
    return replace(before, ended=ended) if now - ended < window else None


def observe(before: Limit, source: VariantSource, *, asked: int | None, now: float) -> Limit:
    """The limit after a look at the pods of a variant.

    Args:
        before: After the look before.
        source: The variant as its objects describe it now.
        asked: Published replicas; None without a valid target.
        now: Monotonic seconds.

    """
    if source.existing is None:
        return NO_LIMIT
    missing = 0
    if source.reference.kind != "LeaderWorkerSet":
        missing = max(source.spec_replicas - source.existing, 0)
    behind = max((asked or 0) - source.spec_replicas, 0)
    before = replace(
        before,
        missing_since=_since(before.missing_since, missing, now),
        behind_since=_since(before.behind_since, behind, now),
    )
    stuck = {
        "unschedulable": source.unschedulable,
        "held by a scheduling gate": source.gated,
        "failing": source.failing,
        "not created, as by a quota": _lasting(
            missing, before.missing_since, MISSING_SECONDS, now=now
        ),
    }
    number = min(sum(stuck.values()), source.spec_replicas)
    stuck["not asked of the scale target"] = late = _lasting(
        behind, before.behind_since, FOLLOW_SECONDS, now=now
    )
    if not number and not late:
        return _without_evidence(before, source, now=now)
    runs = source.spec_replicas - number
    why = ", ".join(f"{count} {what}" for what, count in stuck.items() if count)
    text = f"{number + late} of {source.spec_replicas + late} replicas do not come: {why}"
    if before.replicas is None:
        return replace(
            before, replicas=runs, why=text, retry_at=now + RETRY_SECONDS, delay=RETRY_SECONDS
        )
    if now < before.retry_at:
        # Those that are still there say the same again; none is more certain.
        return replace(before, replicas=runs, why=text)
    delay = min(2.0 * before.delay, MOST_RETRY_SECONDS)
    return replace(before, replicas=runs, why=text, retry_at=now + delay, delay=delay)


def _since(before: float | None, count: int, now: float) -> float | None:
    if not count:
        return None
    return now if before is None else before


def _lasting(count: int, since: float | None, seconds: float, *, now: float) -> int:
    """The count where it has lasted for that long, else 0."""
    return count if since is not None and now - since >= seconds else 0


def _without_evidence(before: Limit, source: VariantSource, *, now: float) -> Limit:
    if before.replicas is None:
        return before
    ready = 0 if source.pods_known and not source.pods else source.ready
    if ready > before.replicas:
        # What did not come has come.
        return replace(
            NO_LIMIT, missing_since=before.missing_since, behind_since=before.behind_since
        )
    forgotten = now > before.retry_at + MOST_RETRY_SECONDS
    return NO_LIMIT if forgotten else before


def notes(limits: Mapping[str, Limit], *, now: float) -> dict[str, str]:
    """What to say of each limited variant, by key."""
    return {
        key: f"{item.why}; asked for again in {max(item.retry_at - now, 0.0):.0f} s"
        for key, item in limits.items()
        if item.replicas is not None and now < item.retry_at
    }
