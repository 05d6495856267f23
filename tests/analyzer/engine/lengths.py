"""Lengths of requests that tests draw, and the replicas that serve them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from analyzer.engine.columns import Engines


def tokens(mean: float, cv: float, count: int, seed: int, *, longest: float) -> NDArray[np.int64]:
    """So many lengths in tokens, log-normal, from 1 to the longest."""
    spread = math.sqrt(math.log1p(cv * cv))
    drawn = np.random.default_rng(seed).lognormal(math.log(mean) - spread**2 / 2, spread, count)
    return np.clip(np.rint(drawn), 1, longest).astype(np.int64)


def replica(
    steps: Mapping[str, float],
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    *,
    blocks: float,
    seqs: int,
    budget: int,
) -> Engines:
    """One replica with these step times and limits, for requests of these lengths."""
    return Engines(
        **steps,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        kv_tokens=16.0 * blocks,
        input_tokens=prompt.mean(),
        output_tokens=output.mean(),
        input_cv=prompt.std() / prompt.mean(),
        output_cv=output.std() / output.mean(),
    )
