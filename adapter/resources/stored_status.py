"""What an earlier leader left in `.status` of a VariantAutoscaling: its decision, and what it learned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adapter.kube.scale import MOST_REPLICAS

CONFIGURATION = "ConfigurationValid"
"""Type of the condition that all of a variant's configuration can be used; absent until some could not."""

GATEWAYS = "GatewaysReadable"
"""Type of the condition that the gateways of its namespace can be read; absent until one could not."""

TEXT_LENGTH = 253
"""Most characters that are taken of a text in a status."""

DECISIONS = 5
"""Decisions that a status keeps."""

REASON_LENGTH = 512
"""Most characters of the reason of a decision that is kept."""

_LAST_YEAR = 9998
LATEST = datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp()
"""Latest time that is taken of a status, Unix seconds: a day later there may be no year for it."""

STORED_LIMIT = 4096
"""Characters of learned step times, above which they are not ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A decision of an earlier cycle, as `.status` holds it.

    Attributes:
        decided_at: time of the decision, Unix seconds.
        service_class: class whose targets it is for; empty where that is not known.
        generation: generation of the object that it is for; None where that is not known.

    """

    accelerator: str
    replicas: int
    decided_at: float
    service_class: str = ""
    generation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A target that was decided, or withdrawn, as the history keeps it.

    Attributes:
        at: time, Unix seconds.
        replicas: desired replicas; None where the target was withdrawn.
        before: desired replicas before; None where there was no target.
        accelerator: accelerator that `replicas` counts replicas of.
        reason: why, for people.

    """

    at: float
    replicas: int | None
    before: int | None
    accelerator: str
    reason: str


def history(status: object) -> tuple[Decided, ...]:
    """The last decisions that a `.status` holds, oldest first; those that cannot be read are left out."""
    items = status.get("history") if isinstance(status, dict) else None
    decisions = []
    for item in items[-DECISIONS:] if isinstance(items, list) else ():
        try:
            decisions.append(
                Decided(
                    at=_unix(item["time"]),
                    replicas=_count(item.get("replicas")),
                    before=_count(item.get("before")),
                    accelerator=str(item.get("accelerator") or "")[:TEXT_LENGTH],
                    reason=str(item.get("reason") or "")[:REASON_LENGTH],
                )
            )
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError, OSError):
            continue
    return tuple(decisions)


def _unix(text: Any) -> float:
    """Unix seconds of a time; ValueError also for one that could not be written again."""
    at = datetime.fromisoformat(text).timestamp()
    if not 0.0 <= at <= LATEST:
        raise ValueError(f"must be from 1970 to {_LAST_YEAR}")
    return at


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return min(value, MOST_REPLICAS)


def published(status: object) -> Published | None:
    """Decision that a `.status` holds; None if there is no valid one."""
    if not isinstance(status, dict):
        return None
    try:
        allocation = status["desiredOptimizedAlloc"]
        replicas = allocation["numReplicas"]
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 0:
            return None
        return Published(
            accelerator=str(allocation.get("accelerator") or "")[:TEXT_LENGTH],
            service_class=str(allocation.get("serviceClass") or "")[:TEXT_LENGTH],
            replicas=min(replicas, MOST_REPLICAS),
            decided_at=_unix(allocation["lastRunTime"]),
            generation=_generation(status),
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError, OSError):
        return None


def _generation(status: object) -> int | None:
    number = status.get("observedGeneration") if isinstance(status, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def stored(status: object) -> str:
    """Learned step times that a `.status` holds, unchecked; empty without any."""
    text = status.get("learnedStepTimes") if isinstance(status, dict) else None
    return text if isinstance(text, str) and len(text) <= STORED_LIMIT else ""
