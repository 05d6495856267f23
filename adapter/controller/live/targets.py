"""The targets at a moment: asked for by key, followed from `.status`, raised for variants at zero."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from adapter.clock import Clock
from adapter.controller import state as states
from adapter.controller.demand import waking
from adapter.controller.reconciler import Reconciler, moment_of
from adapter.controller.settings import LoopSettings
from adapter.controller.state import VariantState
from adapter.controller.tuning import Estimate
from adapter.kube import labels, quantity
from adapter.kube.scale import Reference
from adapter.resources.inputs import Inputs
from adapter.resources.stored_status import Published
from adapter.store import DESIRED, INDEXED_LABEL, Changes, TargetStore


class LiveTargets:
    """Targets between the cycles of a reconciler."""

    def __init__(
        self,
        reconciler: Reconciler,
        store: TargetStore,
        *,
        clock: Clock,
        settings: Callable[[], LoopSettings],
        leading: Callable[[], bool],
    ) -> None:
        """Make it.

        Args:
            reconciler: owner of the records.
            store: what is served.
            clock: time by which targets end.
            settings: settings in use.
            leading: whether this replica decides.

        """
        self._reconciler = reconciler
        self._store = store
        self._clock = clock
        self._settings = settings
        self._leading = leading
        self._scaled_by: tuple[Inputs | None, Mapping[tuple[str, Reference], str]] = (None, {})

    @property
    def changes(self) -> Changes:
        """Tells of new targets, and of demand that wakes a variant."""
        return self._store.changes

    @property
    def tuners(self) -> Mapping[tuple[str, str], Estimate]:
        """Tuners by variant key and accelerator."""
        return {
            (key, accelerator): tuned.tuner
            for key, item in self._reconciler.records.items()
            for accelerator, tuned in item.tuned.items()
        }

    def state(self, key: str) -> VariantState | None:
        """State of one variant; None where there is no such one in use."""
        item = self._reconciler.records.get(key)
        return None if item is None else item.state

    def served(self, key: str) -> int | None:
        """Replicas that the API serves for a variant now; None where it serves none."""
        namespace, _, name = key.partition("/")
        selector = labels.parse(f"{INDEXED_LABEL}={name}")
        answers = self._store.answer(namespace, DESIRED, selector, now=self._clock.time())
        return int(quantity.parse(json.loads(answers[0].encoded)["value"])) if answers else None

    def wake(self, keys: Iterable[str]) -> dict[str, VariantState]:
        """Publish a target for variants at zero without a cycle; their states. Others need the next cycle."""
        if not self._leading():
            return {}
        moment = moment_of(self._clock, self._settings())
        woken = waking.wake(self._reconciler.records, keys, self._reconciler.inputs, moment)
        self._reconciler.replace_records(woken)
        return {key: item.state for key, item in woken.items()}

    def follow_statuses(self, statuses: Mapping[str, tuple[Published | None, str]]) -> None:
        """Serve what statuses hold, of which nothing else has changed, where another replica leads.

        Args:
            statuses: decision and learned step times of a status, by variant key.

        """
        if self._leading():
            return
        moment = moment_of(self._clock, self._settings())
        changed = {}
        for key, (published, stored) in statuses.items():
            item = self._reconciler.records.get(key)
            if item is not None:
                source = replace(item.source, published=published, stored=stored)
                item = replace(item, state=replace(item.state, source=source))
                changed[key] = states.follow(item, moment, leading=False)
        self._reconciler.replace_records(changed)

    def follow_scaled(
        self, scaled: Mapping[tuple[str, Reference], tuple[tuple[int, int], tuple[int, int]]]
    ) -> bool:
        """Serve what follows from other numbers of replicas, where another replica leads.

        Args:
            scaled: present and desired replicas before and after, by namespace and scale target.

        Returns:
            Whether that is all that changed: where not, the objects have to be joined.

        """
        if self._leading():
            return False
        inputs = self._reconciler.inputs
        if self._scaled_by[0] is not inputs:
            keys = {(item.namespace, item.reference): item.key for item in inputs.variants}
            self._scaled_by = (inputs, keys)
        moment = moment_of(self._clock, self._settings())
        changed = {}
        for target, (before, after) in scaled.items():
            item = self._reconciler.records.get(self._scaled_by[1].get(target, ""))
            if item is None:
                continue
            known = (item.source.replicas, item.source.spec_replicas)
            if known not in {before, after}:
                return False
            source = replace(item.source, replicas=after[0], spec_replicas=after[1])
            item = replace(item, state=replace(item.state, source=source))
            changed[item.source.key] = states.follow(item, moment, leading=False)
        self._reconciler.replace_records(changed)
        return True

    def withdraw_ended(self) -> None:
        """Withdraw targets of another replica whose time to live has ended; they are no longer served."""
        if self._leading():
            return
        moment = moment_of(self._clock, self._settings())
        ended = {
            key: states.follow(item, moment, leading=False)
            for key, item in self._reconciler.records.items()
            if item.series and (item.series[0].valid_until or math.inf) <= moment.now
        }
        self._reconciler.replace_records(ended)
