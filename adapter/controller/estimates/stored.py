"""What was learned of profiles as text in `.status`, from which a new leader goes on.

Step times, or corrections of alpha, beta, gamma and delta: an entry of the latter has `"form": "linear"`.

One line of JSON of at most some 2,000 characters. Whoever may write `.status` may write anything there: what
is not finite, positive and within the bounds of the filter is not used, and learning then starts over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapter.planning import fleet, step_model
from analyzer import tuner
from analyzer.engine import learning, seeds
from analyzer.latency import LatencyParameters
from analyzer.step_times import StepTimes

VERSION = 1

MOST_ACCELERATORS = 4
"""Accelerators of one variant whose step times are stored; those observed last."""

LARGEST_TIME_MS = 1e4
LARGEST_COUNT = 1e7
LARGEST_ERROR = 1e3
"""Bounds of what is read."""

_CHANGED = (0.1, 0.25, 0.25, 0.25)
"""Changes of the logarithms of parameters, in the order of `PARAMETERS`, that are worth a write."""

_MANY = 64
"""Observations from which their number alone is no reason to write."""

_BATCH_CHANGED = 1.25
_DIGITS = 5
_SEED = (*learning.PARAMETERS, "per_sqrt_request_ms", "per_prompt_ms")
_FIRST_SEED = 5
"""Numbers of a seed as the first releases wrote it: what is missing is 0."""

_SIZE = len(learning.PARAMETERS)
_LINEAR = "linear"

Estimate = tuner.State | learning.State
"""State of either filter; both have four parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What was stored of one accelerator.

    Attributes:
        state: the state of the filter of step times, or of that of alpha to delta.
        gpus: GPUs of one replica; None where they were not known.

    """

    state: Estimate
    gpus: int | None = None


def text(model: str, items: Mapping[str, Stored], before: str) -> str:
    """Text to write; `before`, as it is stored, where nothing worth a write has changed."""
    worth = {name: item for name, item in items.items() if item.state.accepted}
    by_accelerator = dict(list(worth.items())[-MOST_ACCELERATORS:])
    if not by_accelerator:
        return ""
    last = parse(before, model)
    if last.keys() == by_accelerator.keys() and not any(
        _differs(last[name], item) for name, item in by_accelerator.items()
    ):
        return before
    document = {
        "v": VERSION,
        "model": model,
        "by": {name: _document(item) for name, item in by_accelerator.items()},
    }
    return json.dumps(document, separators=(",", ":"))


def parse(written: str, model: str) -> dict[str, Stored]:
    """What a text holds of a model, by accelerator; what is not valid is left out."""
    try:
        document = json.loads(written) if written else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("v") != VERSION:
        return {}
    entries = document.get("by")
    if document.get("model") != model or not isinstance(entries, dict):
        return {}
    states = {}
    for name, entry in list(entries.items())[:MOST_ACCELERATORS]:
        try:
            states[name] = _stored(entry)
        except (ValueError, TypeError, KeyError):
            continue
    return states


def learned_from(state: Estimate, profile: fleet.Profile) -> bool:
    """Whether it corrects this profile, as far as its numbers are stored."""
    steps = step_model.step_times(profile)
    if isinstance(state, learning.State):
        if state.learned or steps is None:
            return False
        return _alike(_seed(state), [getattr(steps, name) for name in _SEED])
    if not isinstance(profile.latency, LatencyParameters) or steps is not None:
        return False
    return _alike(state.seed, [getattr(profile.latency, name) for name in tuner.PARAMETERS])


def _seed(state: Estimate) -> tuple[float, ...]:
    if isinstance(state, tuner.State):
        return state.seed
    return tuple(getattr(state.seed, name) for name in _SEED)


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=1e-3) for a, b in zip(one, other, strict=True)
    )


def _differs(last: Stored, now: Stored) -> bool:
    before, after = last.state, now.state
    if last.gpus != now.gpus or not _alike(_seed(before), _seed(after)):
        return True
    if after.accepted < before.accepted or 2 * before.accepted <= min(after.accepted, _MANY):
        return True
    if before.usable != after.usable:
        return True
    if isinstance(before, learning.State) and isinstance(after, learning.State):
        if before.proven != after.proven:
            return True
        if after.largest_batch + 1.0 > _BATCH_CHANGED * (before.largest_batch + 1.0):
            return True
    return any(
        abs(one - other) > limit
        for one, other, limit in zip(before.logs, after.logs, _CHANGED, strict=True)
    )


def _document(item: Stored) -> dict[str, Any]:
    state, seed = item.state, _seed(item.state)
    common: dict[str, Any] = {
        "gpus": item.gpus,
        "logs": [_rounded(value) for value in state.logs],
        "cov": [
            _rounded(state.covariance[row][column])
            for row in range(_SIZE)
            for column in range(row + 1)
        ],
        "n": state.accepted,
        "off": [_rounded(state.itl_error), _rounded(state.ttft_error)],
    }
    if isinstance(state, tuner.State):
        return {"form": _LINEAR, "seed": [_rounded(value) for value in seed], **common}
    written = seed if state.seed.per_prompt_ms else seed[:_FIRST_SEED]
    return {
        **common,
        "seed": [_rounded(value) for value in written],
        "learned": state.learned,
        "error": _rounded(state.error),
        "dev": [_rounded(value) for value in state.deviations],
        "off": [*common["off"], _rounded(state.itl_spread)],
        "used": state.trusted,
        "batch": [_rounded(state.smallest_batch), _rounded(state.largest_batch)],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _stored(entry: Any) -> Stored:
    """One entry.

    Raises:
        ValueError, TypeError, KeyError: it is none that this filter can have written.

    """
    if entry.get("form") == _LINEAR:
        return _linear(entry)
    written = entry["seed"]
    if isinstance(written, list) and len(written) == _FIRST_SEED:
        written = [*written, 0.0]
    seed = _numbers(written, len(_SEED), 0.0, LARGEST_TIME_MS)
    learned, used = entry["learned"], entry["used"]
    (error,) = _numbers([entry["error"]], 1, 0.0, 10.0)
    deviations = _numbers(entry["dev"], _SIZE, 0.0, max(seeds.PRIOR_DEVIATIONS))
    bound = learning.PRIOR_BOUND if learned else learning.PROFILE_BOUND
    logs = _numbers(entry["logs"], _SIZE, -bound * 1.001, bound * 1.001)
    accepted, gpus = _counts(entry)
    if not (isinstance(learned, bool) and isinstance(used, bool)) or seed[0] <= 0:
        raise ValueError("not a state of the filter")
    if any(
        (value > 0) != (deviation > 0) for value, deviation in zip(seed, deviations, strict=False)
    ):
        raise ValueError("dev: a step time of 0 stays 0")
    itl, ttft, spread = _numbers(entry["off"], 3, -1.0, LARGEST_ERROR)
    smallest, largest = _numbers(entry["batch"], 2, 0.0, LARGEST_COUNT)
    if spread < 0 or smallest > largest:
        raise ValueError("off, batch: out of order")
    state = learning.State(
        seed=StepTimes(**dict(zip(_SEED, seed, strict=True))),
        learned=learned,
        error=error if learned else 0.0,
        deviations=deviations,
        logs=logs,
        covariance=_covariance(entry["cov"], deviations),
        accepted=accepted,
        itl_error=itl,
        ttft_error=ttft,
        itl_spread=spread,
        smallest_batch=smallest,
        largest_batch=largest,
        trusted=used,
    )
    return Stored(state=state, gpus=gpus)


def _linear(entry: Any) -> Stored:
    """One entry of alpha to delta; errors as `_stored`."""
    seed = _numbers(entry["seed"], _SIZE, 0.0, LARGEST_TIME_MS)
    bound = math.log(tuner.BOUND) * 1.001
    logs = _numbers(entry["logs"], _SIZE, -bound, bound)
    accepted, gpus = _counts(entry)
    itl, ttft = _numbers(entry["off"], 2, -1.0, LARGEST_ERROR)
    if not any(seed):
        raise ValueError("seed: a request would take no time")
    deviations = tuple(tuner.SEED_DEVIATION if value > 0 else 0.0 for value in seed)
    state = tuner.State(
        seed=(seed[0], seed[1], seed[2], seed[3]),
        logs=logs,
        covariance=_covariance(entry["cov"], deviations),
        accepted=accepted,
        itl_error=itl,
        ttft_error=ttft,
    )
    return Stored(state=state, gpus=gpus)


def _counts(entry: Any) -> tuple[int, int | None]:
    """Observations, and GPUs of one replica."""
    accepted, gpus = entry["n"], entry["gpus"]
    if not _whole(accepted):
        raise ValueError("n: not a number of observations")
    if gpus is not None and not _whole(gpus):
        raise ValueError("gpus: not a number of GPUs")
    return accepted, gpus


def _numbers(values: Sequence[object], count: int, least: float, most: float) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"not {count} numbers")
    numbers = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError("not a number")
        if not least <= value <= most:  # what is no number is not within either
            raise ValueError(f"{value} is not within {least:g} and {most:g}")
        numbers.append(float(value))
    return tuple(numbers)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def _covariance(
    lower: Sequence[object], deviations: tuple[float, ...]
) -> tuple[tuple[float, ...], ...]:
    """A covariance from its lower triangle: positive, and no wider than that of the seed."""
    most = 1.01 * max(deviations, default=0.0) ** 2
    flat = _numbers(lower, _SIZE * (_SIZE + 1) // 2, -most, most)
    matrix = np.zeros((_SIZE, _SIZE))
    rows, columns = np.tril_indices(_SIZE)
    matrix[rows, columns] = matrix[columns, rows] = flat
    if np.linalg.eigvalsh(matrix)[0] < -1e-4 * most:
        raise ValueError("cov: not a covariance")
    return tuple(tuple(float(value) for value in row) for row in matrix)
