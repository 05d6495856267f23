"""What the leader writes to the cluster: `.status` by server-side apply, Events, owner references.

Written only on change, and never once the lease is lost. Every status carries the resource version that it
replaces: a write that is delayed until after another leader's is refused. It also tells the transitions of
the Lease: the API server refuses it where no other leader has written yet (manifests/base/fence.yaml).
Failed writes are retried at the next reconcile cycle.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from adapter.controller import status as variant_status
from adapter.controller.actuator import Unapplied
from adapter.controller.live.events import EventWriter
from adapter.controller.live.status_requests import StatusRequests
from adapter.controller.live.turns import PATIENCE_SECONDS, FairWrites, Write, each, in_turn
from adapter.controller.state import VariantState
from adapter.kube import advice
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, Forbidden, NotFound
from adapter.resources.inputs import InvalidVariant
from adapter.resources.variant import VariantSource

log = structlog.get_logger()

CONCURRENCY = 8
"""Status writes in flight at the same time."""

AT_ONCE, FIRST_BACKOFF, LONGEST_BACKOFF = 3, 60.0, 900.0
"""Times that a status which others change is put right at once; then the least seconds before the next one,
doubled each time, and their cap: who changes it after every write is not written against in every cycle."""


@dataclass(frozen=True, slots=True)
class _Repairs:
    """How often, and when last (Unix time), others' changes of a status were put right."""

    number: int = 0
    at: float = float("-inf")

    def due(self, now: float) -> bool:
        """Whether they may be put right again."""
        return self.number < AT_ONCE or abs(now - self.at) >= self._wait()

    def one_more(self, now: float) -> _Repairs:
        """With one of this moment; after a long time without any they are counted anew."""
        number = 0 if now - self.at > 2.0 * LONGEST_BACKOFF else self.number
        return _Repairs(number + 1, now)

    def _wait(self) -> float:
        return min(FIRST_BACKOFF * 2.0 ** min(self.number - AT_ONCE, 10), LONGEST_BACKOFF)


_NONE = _Repairs()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What is known of one variant's writes.

    Attributes:
        uid: UID of the object that `status` was written to; empty before the first write.
        status: status written last.
        stored: what the API server made of it: a webhook may change what is written.
        seen: resource version that the watch showed at that write.
        version: resource version that the write made.
        unapplied: what kept its scale target from being patched; None where nothing did.
        problems: error of the last write by field, of the fields whose last write failed.
        turn: number of the newest call that began to write: what older calls decided is not written any more.
        repairs: how often, and when last, others' changes of it were put right.
        owned: the same of the owner reference.

    """

    uid: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)
    stored: Mapping[str, Any] = field(default_factory=dict)
    seen: str = ""
    version: str = ""
    unapplied: Unapplied | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    turn: int = 0
    repairs: _Repairs = _NONE
    owned: _Repairs = _NONE


class StatusWriter:
    """Writes what has changed since the last write."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        identity: str,
        watched: Callable[[str], Mapping[str, Any] | None],
        leads: Callable[[], bool],
        refresh_seconds: float,
        transitions: Callable[[], int] = lambda: 0,
        owner_references: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make it.

        Args:
            cluster: API server.
            identity: identity of this replica, for Events.
            watched: gives the VariantAutoscaling `NAMESPACE/NAME` as last seen; None where it is gone.
            leads: whether this replica leads; others never write.
            refresh_seconds: age after which an unchanged target is written again.
            transitions: transitions of the Lease that this replica holds.
            owner_references: whether to add the scale target as an owner of its variant.
            now: Unix time.

        """
        self._events = EventWriter(cluster, identity=identity, now=now)
        self._watched, self._now, self._leads = watched, now, leads
        self._requests = StatusRequests(cluster, leads=leads, transitions=transitions)
        self._refresh, self._owner_references = refresh_seconds, owner_references
        self._records, self._odd = dict[str, _Record](), dict[str, str]()
        self._in_flight: Counter[str] = Counter()
        self._statuses, self._turn = FairWrites(CONCURRENCY), 0

    def start_leading(self) -> None:
        """Forget what was written: others' late writes must be refused. Each status is then written once."""
        self.stop()
        self._records = {}

    def stop(self) -> None:
        """Write no more of what is still due: another replica leads."""
        self._statuses.stop()
        self._events.stop()

    async def write(
        self,
        states: Mapping[str, VariantState],
        refused: tuple[InvalidVariant, ...],
        *,
        unapplied: Mapping[str, Unapplied] | None = None,
    ) -> None:
        """Write the statuses that have changed, of each namespace in turn.

        It waits some seconds at most; the rest is written meanwhile, or as the next call has it.

        Args:
            states: variants by key.
            refused: VariantAutoscalings that are not used.
            unapplied: what kept scale targets from being patched, by variant key; None: as at the last write.

        """
        known = (*states, *(item.key for item in refused))
        self._records = {key: self._records.get(key, _Record()) for key in known}
        for key in self._odd.keys() - self._records.keys():
            del self._odd[key]
        if unapplied is not None:
            self._records = {
                key: replace(record, unapplied=unapplied.get(key))
                for key, record in self._records.items()
            }
        turn = self._next_turn()
        writes: dict[str, Write] = {
            **{key: partial(self._write_state, state, turn) for key, state in states.items()},
            **{refusal.key: partial(self._write_refusal, refusal, turn) for refusal in refused},
        }
        self._statuses.replace(
            {key: partial(_apart, key, one, self._odd) for key, one in writes.items()}
        )
        await self._statuses.wait()
        await self.record_events()

    async def write_now(self, states: Mapping[str, VariantState]) -> frozenset[str]:
        """Write the statuses of some variants between two writes of all; their Events are still to record.

        Returns:
            Keys of those whose turn came, of each namespace in turn; none begins after some seconds.

        """
        for key in states:
            self._records.setdefault(key, _Record())
        now, turn, told = asyncio.get_running_loop().time, self._next_turn(), set[str]()
        ends_at = now() + PATIENCE_SECONDS

        async def one(key: str) -> None:
            if now() < ends_at:
                await _apart(key, partial(self._write_state, states[key], turn), self._odd)
                told.add(key)

        await each([partial(one, key) for key in in_turn(states)], at_once=CONCURRENCY)
        return frozenset(told)

    async def record_events(self) -> None:
        """Record the Events of the statuses written: later, as nothing may wait for what only people read."""
        await self._events.write()

    def _next_turn(self) -> int:
        """Number of a call: statuses of later calls are newer, however late."""
        self._turn += 1
        return self._turn

    def _begin(self, key: str, turn: int) -> Mapping[str, Any] | None:
        """The status that a write replaces; None where it is gone, or a newer one was begun."""
        before = self._before(key)
        if before is None or turn < self._records[key].turn:
            return None
        self._records[key] = replace(self._records[key], turn=turn)
        return before

    async def _write_state(self, state: VariantState, turn: int) -> None:
        source = state.source
        before = self._begin(source.key, turn)
        if before is None:
            return
        unapplied = self._records[source.key].unapplied
        after = variant_status.of_state(state, before, now=self._now(), unapplied=unapplied)
        await self._write(source.key, before, after, turn)
        if self._owner_references and source.target_uid:
            await self._own(source)

    async def _write_refusal(self, refusal: InvalidVariant, turn: int) -> None:
        before = self._begin(refusal.key, turn)
        if before is not None:
            after = variant_status.of_refusal(refusal, before, now=self._now())
            await self._write(refusal.key, before, after, turn)

    def _before(self, key: str) -> Mapping[str, Any] | None:
        """The current status; None where the object is gone."""
        item, record = self._watched(key), self._records.get(key)
        return None if item is None or record is None else _current(item, record)

    async def _write(
        self, key: str, before: Mapping[str, Any], after: Mapping[str, Any], turn: int
    ) -> None:
        record, item, now = self._records[key], self._watched(key), self._now()
        if item is None or (
            record.uid
            and not self._in_flight[key]  # an older one may arrive after what was written last
            and not variant_status.differs(before, after, refresh_seconds=self._refresh, now=now)
        ):
            return
        seen, uid = str(item["metadata"]["resourceVersion"]), str(item["metadata"].get("uid"))
        if record.uid != uid:
            self._records[key] = record = replace(record, repairs=_NONE, owned=_NONE)
        ours = record.status if record.uid == uid and not self._in_flight[key] else None
        repairs = record.repairs
        if ours and not variant_status.differs(ours, after, refresh_seconds=self._refresh, now=now):
            if not repairs.due(now):
                return
            repairs = repairs.one_more(now)
        version = record.version if record.uid == uid and record.seen == seen else seen
        newest = partial(self._is_newest, key, turn)
        self._in_flight[key] += 1
        try:
            written = await self._requests.apply(key, uid, version, after, newest=newest)
        except ApiError as error:
            self._failed(key, error, "status")
            return
        finally:
            self._in_flight -= Counter((key,))
        if written is None:
            return
        if newest():
            version = str((written.get("metadata") or {}).get("resourceVersion"))
            stored, record = written.get("status") or {}, self._records.get(key, record)
            record = replace(record, stored=stored, repairs=repairs)
            self._records[key] = replace(record, uid=uid, status=after, seen=seen, version=version)
        self._succeeded(key, "status")
        self._events.add(key, uid, before, after)

    def _is_newest(self, key: str, turn: int) -> bool:
        """Whether no later call has begun to write that status."""
        record = self._records.get(key)
        return record is None or record.turn <= turn

    def _failed(self, key: str, error: ApiError, part: str) -> None:
        if isinstance(error, NotFound):
            return  # the variant was deleted meanwhile
        record = self._records.get(key, _Record())
        text = _explained(error, again=part in record.problems)
        if record.problems.get(part) != text:
            log.warning(
                "write failed; retrying at the next reconcile cycle",
                variant=key,
                field=part,
                error=text,
            )
        self._records[key] = replace(record, problems={**record.problems, part: text})

    def _succeeded(self, key: str, part: str) -> None:
        record = self._records.get(key, _Record())
        if part in record.problems:
            problems = {name: text for name, text in record.problems.items() if name != part}
            self._records[key] = replace(record, problems=problems)

    async def _own(self, source: VariantSource) -> None:
        """Add the scale target as an owner, so that the variant is deleted with it."""
        item, record = self._watched(source.key), self._records.get(source.key)
        if not (item and record and record.owned.due(self._now()) and self._leads()):
            return  # the variant may have gone while its status was on its way
        try:
            added = await self._requests.own(source, item["metadata"])
        except ApiError as error:
            self._failed(source.key, error, "ownerReferences")
            return
        self._succeeded(source.key, "ownerReferences")
        if added:
            record = self._records.get(source.key, record)
            self._records[source.key] = replace(record, owned=record.owned.one_more(self._now()))


def _explained(error: ApiError, *, again: bool) -> str:
    """What is said of a write that failed; `again`: so did the one before."""
    # An API server that has just started refuses what its RBAC rules allow.
    return str(error) if isinstance(error, Forbidden) and not again else advice.explained(error)


def _current(item: Mapping[str, Any], record: _Record) -> Mapping[str, Any]:
    """The status of an object: the one written last while the watch lags."""
    metadata, status = item["metadata"], item.get("status")
    status = status if isinstance(status, dict) else {}
    lags = record.seen == metadata["resourceVersion"]
    if record.uid == str(metadata.get("uid")) and (
        lags or variant_status.alike(status, record.stored)
    ):
        return record.status
    return status


async def _apart(key: str, write: Write, told: dict[str, str]) -> None:
    """Write one status; whatever a variant makes of us is its own problem, and fails no cycle.

    `told` has errors by variant that are in the log already: each cycle tries again.
    """
    try:
        await write()
    except Exception as error:
        if told.get(key) != repr(error):
            event = "status cannot be written; it stays as it is, and the others are written"
            log.exception(event, variant=key)
        told[key] = repr(error)
    else:
        told.pop(key, None)
