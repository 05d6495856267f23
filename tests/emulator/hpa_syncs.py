"""Syncs of an HPA with a workload that follows it at once."""

from __future__ import annotations

from collections.abc import Sequence

from emulator import hpa


def follow(
    scaler: hpa.HorizontalPodAutoscaler,
    replicas: int,
    syncs: Sequence[tuple[float, float]],
) -> list[int]:
    """Replicas after each sync, (seconds, value), of a workload that obeys at once."""
    seen = []
    for now, value in syncs:
        replicas = scaler.step(
            now_seconds=now, items=[str(value)], spec_replicas=replicas, ready_replicas=replicas
        ).replicas
        seen.append(replicas)
    return seen


def every(seconds: float, value: float, count: int) -> list[tuple[float, float]]:
    return [(seconds * index, value) for index in range(count)]
