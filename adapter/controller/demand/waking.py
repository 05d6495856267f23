"""The start of a variant at zero replicas as soon as there are requests for it, ahead of the next cycle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from adapter.clock import Clock
from adapter.collector import gateway
from adapter.collector.pickers.loads import NO_LOAD, PoolLoad
from adapter.controller import stabilization
from adapter.controller.demand.gateways import GatewayDemand
from adapter.controller.state import Moment, VariantRecord, series_of
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource

CYCLE_SECONDS = 1.0
"""Seconds between two requests of a cycle for a variant that is still at zero."""


class Waking:
    """Requests at the gateways, as they are scraped, and the variants at zero that they start."""

    def __init__(
        self,
        gateways: GatewayDemand,
        *,
        inputs: Callable[[], Inputs],
        choose: Callable[[Inputs, Mapping[gateway.ModelKey, gateway.Demand]], frozenset[str]],
        clock: Clock,
        changed: Callable[[], None],
        request_cycle: Callable[[], object],
    ) -> None:
        """Make it.

        Args:
            gateways: what is known of all gateways.
            inputs: objects in use.
            choose: gives the keys of variants to start because requests wait or came.
            clock: time of the scrapes.
            changed: called when there is a variant more to start.
            request_cycle: called for variants to start.

        """
        self._gateways = gateways
        self._inputs = inputs
        self._choose = choose
        self._clock = clock
        self._changed = changed
        self._request_cycle = request_cycle
        self._requested_at = float("-inf")
        self._chosen_for: tuple[Inputs | None, object] = (None, None)
        self._variants: frozenset[str] = frozenset()

    @property
    def window(self) -> gateway.GatewayWindow:
        """Growth of the gateways' counters; direct scrapes of gateways add to it."""
        return self._gateways.window

    @property
    def variants(self) -> frozenset[str]:
        """Keys of variants at zero replicas to start, because a gateway has requests for their model."""
        inputs, waiting = self._inputs(), self._gateways.waiting
        if self._chosen_for[0] is not inputs or self._chosen_for[1] is not waiting:
            self._chosen_for = (inputs, waiting)
            advised = {source.key for source in inputs.variants if source.advisory}
            self._variants = self._choose(inputs, waiting) - advised
        return self._variants

    def sleeps(self, namespace: str) -> bool:
        """Whether a variant of a namespace (empty: of any) is at zero replicas."""
        return any(
            not (source.replicas or source.spec_replicas)
            for source in self._inputs().variants
            if namespace in {"", source.namespace}
        )

    def use(
        self,
        scraped: Mapping[gateway.ModelKey, gateway.Demand],
        load: PoolLoad = NO_LOAD,
        unread: Mapping[str, str] | None = None,
    ) -> None:
        """Use a direct scrape of the gateways, as `GatewayDemand`; a variant to wake requests a cycle."""
        before, now = self.variants, self._clock.monotonic()
        self._gateways.set_scraped(scraped, now=now, load=load, unread=unread)
        new = self.variants - before
        if new:
            self._changed()
        if new or (self.variants and now - self._requested_at >= CYCLE_SECONDS):
            self._requested_at = now
            self._request_cycle()


def first_replicas(source: VariantSource) -> int:
    """Replicas that a variant starts with: its minimum, at least 1; 0 where its maximum is 0."""
    least = max(source.min_replicas or 0, 1)
    return least if source.max_replicas is None else min(least, source.max_replicas)


def fits(inputs: Inputs, source: VariantSource) -> bool:
    """Whether devices are free for its first replicas; where not, the next cycle decides who has some."""
    free = stabilization.free_capacity(inputs, inputs.variants)
    if free is None:
        return True
    device, number = stabilization.devices(inputs, source, source.accelerator)
    return number * first_replicas(source) <= free.get(device, 0)


def wake(
    records: Mapping[str, VariantRecord], keys: Iterable[str], inputs: Inputs, moment: Moment
) -> dict[str, VariantRecord]:
    """Records with a target of their first replicas, where devices are free for these.

    Args:
        records: all records, by variant key.
        keys: variants to start.
        inputs: objects in use.
        moment: present moment.

    """
    woken = {}
    for key in keys:
        item = records.get(key)
        if item is not None and not item.source.held and fits(inputs, item.source):
            woken[key] = _woken(item, moment)
    return woken


def _woken(record: VariantRecord, moment: Moment) -> VariantRecord:
    """The record with a target of its first replicas, or with the one that it has where that is more."""
    before = record.state
    replicas = max(first_replicas(record.source), before.desired or 0)
    state = replace(
        before,
        desired=replicas,
        accelerator=before.accelerator or record.source.accelerator,
        reason="requests wait at a gateway: started at once, the next cycle decides how many it needs",
        notes=(),
        problem="",
        outcome="OptimizationSucceeded",
        decided_at=moment.now,
        scaled_up=before.scaled_up + (replicas > (before.desired or 0)),
    )
    series = series_of(state, valid_until=moment.now + moment.valid_seconds)
    return replace(record, state=state, series=series, followed=None)
