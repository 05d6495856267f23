"""What an earlier leader left in `.status` of a VariantAutoscaling: its decision, and what it learned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from adapter.kube.scale import MOST_REPLICAS

CONFIGURATION = "ConfigurationValid"
"""Type of the condition that all of a variant's configuration can be used; absent until some could not."""

TEXT_LENGTH = 253
"""Most characters that are taken of a text in a status."""

STORED_LIMIT = 4096
"""Characters of learned step times, above which they are not ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A decision of an earlier cycle, as `.status` holds it.

    Attributes:
        decided_at: time of the decision, Unix seconds.

    """

    accelerator: str
    replicas: int
    decided_at: float


def published(status: object) -> Published | None:
    """Decision that a `.status` holds; None if there is no valid one."""
    try:
        allocation = status["desiredOptimizedAlloc"]  # type: ignore[index] # what is no mapping has none
        replicas = allocation["numReplicas"]
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 0:
            return None
        return Published(
            accelerator=str(allocation.get("accelerator") or "")[:TEXT_LENGTH],
            replicas=min(replicas, MOST_REPLICAS),
            decided_at=datetime.fromisoformat(allocation["lastRunTime"]).timestamp(),
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError, OSError):
        return None


def stored(status: object) -> str:
    """Learned step times that a `.status` holds, unchecked; empty without any."""
    text = status.get("learnedStepTimes") if isinstance(status, dict) else None
    return text if isinstance(text, str) and len(text) <= STORED_LIMIT else ""
