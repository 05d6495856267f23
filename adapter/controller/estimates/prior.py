"""Where the learning of step times starts for a replica without a profile: the catalog, or a wide prior.

The GPU is that of ConfigMap `accelerator-unit-costs`, or the accelerator's name; the number of GPUs is what
the pods request. Where pods are not known it is taken from the name (`2xH100`), or as few as hold the model.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from adapter.planning import fleet
from adapter.profiles import catalog, names
from adapter.profiles.catalog import CatalogEntry
from adapter.resources.variant import VariantSource
from analyzer.engine import learning
from analyzer.step_times import EngineLimits, StepTimes

DEFAULT_BATCHED_TOKENS = 2048
"""Token budget of a step where no profile says it: the smallest default of vLLM's servers."""

LARGE_BATCHED_TOKENS = 8192
LARGE_MEMORY_GIB = 70.0
"""Default token budget of vLLM's servers on GPUs with at least that much memory."""

DEFAULT_NUM_SEQS = 256
"""Largest batch where no profile says it: the default of vLLM's servers."""

ASSUMED_ERROR = 0.2
"""Added to an estimate's error for each thing that is assumed: the number of GPUs, the form of the GPU."""

_COUNTED = re.compile(
    r"(?P<before>\d+)\s*x\s*(?P<gpu>.+)|(?P<name>.+?)\s*x\s*(?P<after>\d+)", re.IGNORECASE
)

LONGEST_NAME = 253
"""Most characters of a GPU's name that may say a number: looking for it takes longer than linear time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Step times before the first observation.

    Attributes:
        latency: step times of one replica.
        limits: limits of its engine.
        error: mean relative error expected of its ITL; 0 of the wide prior of an unknown model.
        described: what was estimated and how well; empty of an unknown model.

    """

    latency: StepTimes
    limits: EngineLimits
    error: float = 0.0
    described: str = ""


UNKNOWN = Prior(
    latency=learning.PRIOR,
    limits=EngineLimits(
        max_num_seqs=DEFAULT_NUM_SEQS, max_num_batched_tokens=DEFAULT_BATCHED_TOKENS
    ),
)
"""Prior of a model or GPU that the catalog does not have."""


def of_source(source: VariantSource) -> Prior:
    """The prior of a variant on the accelerator that its replicas run on."""
    return _prior(source.model, source.accelerator, source.device, source.gpus)


def unprofiled(source: VariantSource) -> bool:
    """Whether no profile is given for the accelerator that its replicas run on."""
    if not source.accelerator or any(p.accelerator == source.accelerator for p in source.profiles):
        return False
    return not source.profiles or bool(source.device)


def current_profile(source: VariantSource) -> fleet.Profile | None:
    """The profile of the accelerator that its replicas run on: the given one, else the prior's."""
    for profile in source.profiles:
        if profile.accelerator == source.accelerator:
            return profile
    if not unprofiled(source):
        return None
    known = of_source(source)
    return fleet.Profile(
        accelerator=source.accelerator,
        accelerator_count=source.units(source.accelerator) or 1,
        latency=known.latency,
        limits=known.limits,
        max_batch=known.limits.max_num_seqs,
    )


@functools.lru_cache(maxsize=4096)
def _prior(model: str, accelerator: str, device: str, gpus: int | None) -> Prior:
    if gpus == 0:
        return UNKNOWN  # no entry of a whole GPU holds for a slice
    entry_key = catalog.find_model(model)
    gpu, count, assumed = _gpu(accelerator, device)
    if entry_key is None or not gpu:
        return UNKNOWN
    if gpus is None:
        assumed += 1
        sizes = catalog.tps(*entry_key, gpu)
        gpus = count if count in sizes else min(sizes, default=0)
    entry = catalog.lookup(model, gpu, gpus)
    return UNKNOWN if entry is None else _of_entry(entry, assumed)


def _gpu(accelerator: str, device: str) -> tuple[str, int, int]:
    """GPU in the catalog, how many the name says (1 without a number), and how much of it is assumed."""
    for assumed, name in enumerate((device or accelerator, accelerator)):
        for gpu, count in _readings(name):
            key = names.gpu_key(gpu)
            if key is not None:
                return key, count, assumed
    return "", 1, 0


def _readings(name: str) -> list[tuple[str, int]]:
    """A name as a number of GPUs, and as it is: the `x` of RTX4090 is no multiplication."""
    match = _COUNTED.fullmatch(name.strip()) if len(name) <= LONGEST_NAME else None
    if match is None:
        return [(name, 1)]
    count = int(match["before"] or match["after"])
    return [(match["gpu"] or match["name"], count), (name, 1)]


def _of_entry(entry: CatalogEntry, assumed: int) -> Prior:
    error = entry.error + ASSUMED_ERROR * assumed
    large = entry.memory.capacity_gib >= LARGE_MEMORY_GIB
    budget = LARGE_BATCHED_TOKENS if large else DEFAULT_BATCHED_TOKENS
    tokens = entry.memory.kv_tokens(max_num_batched_tokens=budget)
    guessed = ", number or form of GPUs assumed" if assumed else ""
    return Prior(
        latency=entry.step_times,
        limits=EngineLimits(
            max_num_seqs=DEFAULT_NUM_SEQS,
            max_num_batched_tokens=budget,
            kv_tokens=tokens if tokens >= budget else None,
        ),
        error=error,
        described=(
            f"catalog: {entry.model} ({entry.precision}) on {entry.tp} x {entry.gpu}, {entry.source},"
            f" ITL to within {error:.0%}{guessed}"
        ),
    )
