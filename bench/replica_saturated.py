"""What a replica serves while its KV cache is full and requests are preempted: the model against the engine.

    python -P bench/replica_saturated.py [--cases N] [--seed N]

Random replicas that the KV cache bounds find all their requests at once; the emulator's engine, which repeats
vLLM's own scheduler, serves them. Between a fifth and four fifths of the completions the table has the output
tokens per second, over mean lengths, as a rate, and preemptions per request. A replica that gets less than
that rate gets out of preemption whatever happened before: `kept free` is the least distance of the model's
largest rates from it (`drained` in `analyzer/engine/kept_free.py`).
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from analyzer.engine.columns import Engines
from analyzer.engine.kept_free import drained
from analyzer.engine.sizing import HEADROOM
from bench.replica import BLOCK_TOKENS, add_seed
from emulator.engines.runs import serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes

ROUNDS = 14
"""Requests over those that the KV cache holds."""

LEAST_REQUESTS = 500
LONGEST_SHARE = 0.45


def case(seed: int) -> tuple[Engines, StepTimes, SchedulerLimits, list[list[int]]]:
    """A replica of 7 to 80 requests in the KV cache; lengths of its requests."""
    rng = np.random.default_rng([seed, 2])

    def between(low: float, high: float) -> float:
        return float(math.exp(rng.uniform(math.log(low), math.log(high))))

    while True:
        base = between(5, 35)
        steps = base, between(0.03, 0.2), base / 200 * between(0.5, 2.5), between(2e-5, 2.5e-4)
        means = between(60, 6000), between(60, 1500)
        cvs = rng.choice([0.0, 0.5, 1.0]), rng.choice([0.3, 0.7, 1.0])
        batch, seqs = between(7, 80), int(rng.choice([64, 128, 256]))
        budget = int(rng.choice([1024, 2048, 8192]))
        blocks = int(batch * (means[0] + means[1] * (1 + cvs[1] ** 2) / 2) / BLOCK_TOKENS)
        if batch < 0.7 * seqs and BLOCK_TOKENS * blocks < 500_000 and means[1] * batch < 60_000:
            break
    longest = LONGEST_SHARE * BLOCK_TOKENS * blocks
    count = max(LEAST_REQUESTS, int(ROUNDS * batch))
    lengths = []
    for mean, cv in zip(means, cvs, strict=True):
        spread = math.sqrt(math.log1p(cv * cv))
        tokens = rng.lognormal(math.log(mean) - spread**2 / 2, spread, count)
        lengths.append(np.clip(np.rint(tokens), 1, longest))
    prompt, output = lengths
    engines = Engines(
        base_ms=steps[0],
        per_request_ms=steps[1],
        per_prefill_token_ms=steps[2],
        per_context_token_ms=steps[3],
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        kv_tokens=BLOCK_TOKENS * blocks,
        input_tokens=prompt.mean(),
        output_tokens=output.mean(),
        input_cv=prompt.std() / prompt.mean(),
        output_cv=output.std() / output.mean(),
    )
    times = StepTimes(
        base_ms=steps[0],
        per_request_ms=steps[1],
        per_prefill_token_ms=steps[2],
        per_context_token_ms=steps[3],
    )
    limits = SchedulerLimits(max_num_seqs=seqs, max_num_batched_tokens=budget, kv_blocks=blocks)
    return engines, times, limits, [tokens.astype(int).tolist() for tokens in lengths]


def saturated(
    times: StepTimes, limits: SchedulerLimits, lengths: list[list[int]]
) -> tuple[float, float]:
    """Requests per second by the output tokens of those that end, and preemptions of each."""
    prompt, output = lengths
    done = serve_open_loop(
        SchedulerEngine(times, limits),
        arrival_ms=[0.0] * len(prompt),
        input_tokens=prompt,
        output_tokens=output,
    )
    ends = sorted((one.last_token_ms, one.output_tokens) for one in done)
    begin, end = len(ends) // 5, len(ends) * 4 // 5
    tokens = sum(count for _, count in ends[begin:end])
    rate = 1000.0 * tokens / (ends[end][0] - ends[begin][0]) / np.mean(output)
    return float(rate), float(np.mean([one.preemptions for one in done]))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=40, metavar="N")
    add_seed(parser)
    asked = parser.parse_args()
    far, free, more = [], [], []
    for seed in range(asked.seed, asked.seed + asked.cases):
        engines, times, limits, lengths = case(seed)
        rate, preemptions = saturated(times, limits, lengths)
        far.append(1000.0 * float(engines.full_rate[0]) / rate - 1.0)
        free.append(1.0 - float(drained(engines, np.array([HEADROOM]))[0]) / rate)
        more.append(float(engines.preempted[0]) - preemptions)
    print(f"{asked.cases} replicas with a full KV cache; 5th, 50th, 95th and standard deviation")
    for name, values, form in (
        ("rate, model over engine", far, "+9.1%"),
        ("kept free of the engine's", free, "9.1%"),
        ("preemptions, model less engine", more, "+9.2f"),
    ):
        ends = [*np.quantile(values, (0.05, 0.5, 0.95)), np.std(values)]
        print(f"{name:<32}" + "".join(f"{value:{form}}" for value in ends))
    print(f"least kept free {min(free):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
