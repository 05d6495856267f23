"""The last decisions of a variant, with their reasons: a ring in memory; `.status` holds the latest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from adapter.controller.state import VariantState
from adapter.resources.stored_status import DECISIONS, REASON_LENGTH, Decided

MOST_DECISIONS = 50
"""Decisions of one variant that are kept in memory."""


def recorded(before: VariantState, after: VariantState, *, now: float) -> VariantState:
    """The state with its history: the last one, and what this cycle changed.

    A target that is decided, changed, or withdrawn is recorded; one that is renewed or held is not. The first
    history of a process is the one in `.status`, which another leader may have written. `now`: Unix seconds.
    """
    history = before.history or after.source.history
    last = history[-1] if history else None
    was = before.desired if before.desired is not None or last is None else last.replicas
    same = (was, before.accelerator or after.accelerator) == (after.desired, after.accelerator)
    if same or (after.desired is None and before.desired is None):
        return replace(after, history=history)
    entry = Decided(
        at=now,
        replicas=after.desired,
        before=was,
        accelerator=after.accelerator,
        reason=(after.problem if after.desired is None else after.reason)[:REASON_LENGTH],
    )
    return replace(after, history=(*history, entry)[-MOST_DECISIONS:])


def shown(history: Sequence[Decided]) -> list[dict[str, Any]]:
    """Decisions as people read them, oldest first; null replicas are a target that was withdrawn."""
    return [_item(item) for item in history]


def of_status(history: Sequence[Decided]) -> list[Mapping[str, Any]]:
    """The latest decisions, as `.status.history` holds them: what is not known is left out."""
    return [
        {name: value for name, value in _item(item).items() if value is not None}
        for item in history[-DECISIONS:]
    ]


def _item(item: Decided) -> dict[str, Any]:
    at = datetime.fromtimestamp(int(item.at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "time": at,
        "replicas": item.replicas,
        "before": item.before,
        "accelerator": item.accelerator,
        "reason": item.reason,
    }
