"""Largest rates of fresh random replicas, measured as capacity.json was, and how well they are known.

    python -P scripts/replica_capacity.py [--cases N] [--seed N] [--requests N] [--record FILE]

Replicas (8B to 70B models, 512 to 8,192 tokens a step, prompts of 128 to 8,192 and answers of 32 to 1,024
tokens with coefficients of variation of 0 to 1.5, a KV cache of a few to hundreds of requests) and targets
are drawn; the emulator's engine, which repeats vLLM's own scheduler, brackets the largest rate within the
targets within 1.5 %:

- *records*, as in `tests/data/replica/capacity.json`: three runs of 1,500 requests (500 where the KV cache
  binds), the first and last eighth left out; twice, with other arrivals;
- the *long run*: four runs of `--requests`, the first tenth left out.

The table has the share of cases within the goals of `bench/replica.py`, and errors, of the model against
each; then of the long run's rate less 4.5 % against the records, and of the second records' against the
first: what a model that knows the truth, or another record of the same, would reach. Where the KV cache
holds many requests, runs of 500 end before it is full, and hold more than a replica does that keeps on.

`--record` keeps what was measured, and continues from there: draws do not depend on the number of cases.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from analyzer.engine.columns import Engines
from analyzer.engine.sizing import size_engines
from bench.replica import BLOCK_TOKENS, GOALS, STEPS, add_seed
from emulator.engines.runs import serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes

Lengths = NDArray[np.int64]
Run = tuple[NDArray[np.float64], Lengths, Lengths]
PERCENTILES = {"mean": math.nan, "p95": 0.95}
MODELS = (
    ((7.0, 0.05, 0.04, 4e-5), 27_000),
    ((27.0, 0.12, 0.27, 2.2e-4), 9000),
    ((13.8, 0.05, 0.0485, 6.3e-5), 18_000),
    ((18.0, 0.1, 0.067, 1e-4), 24_000),
    ((12.0, 0.06, 0.11, 7e-5), 16_000),
    ((24.0, 0.08, 0.03, 3e-5), 30_000),
    ((35.0, 0.2, 0.14, 1.5e-4), 12_000),
    ((5.0, 0.03, 0.02, 2.5e-5), 30_000),
)
"""Step times (ms), and blocks of the KV cache."""

CENTER = 0.955
"""Of a rate: in the middle of the goals for means and for percentiles."""

WIDTH = 1.015
FARTHEST = 20.0


class Replica:
    """One drawn replica, its targets (ms), and how its lengths are drawn."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 17])
        self.seed = seed
        while True:
            self.step_ms, blocks = MODELS[int(rng.integers(len(MODELS)))]
            self.means = (
                float(rng.choice([128, 256, 512, 1024, 2048, 4096, 8192])),
                float(rng.choice([32, 64, 128, 256, 512, 1024])),
            )
            self.cvs = float(rng.choice([0, 0.5, 1, 1, 1.5])), float(rng.choice([0.3, 0.7, 1, 1.2]))
            self.budget = int(rng.choice([512, 1024, 2048, 2048, 8192]))
            self.seqs = int(rng.choice([32, 64, 128, 256]))
            tight = rng.random() < 0.55
            shrunk = math.exp(rng.uniform(math.log(0.05), math.log(0.6))) if tight else 1.0
            self.blocks = int(blocks * shrunk)
            self.longest = int(min(12_000, 0.45 * self.blocks * BLOCK_TOKENS))
            self.ttft_ms = float(rng.choice([300, 500, 1000, 1000, 2000, 3000, 5000]))
            self.itl_ms = float(round(self.step_ms[0] * rng.choice([1.6, 2, 2.5, 3, 4, 6])))
            held = self.means[0] + self.means[1] * (1.0 + self.cvs[1] ** 2) / 2.0
            wide = 1.3 * (1.0 + 1.65 * self.cvs[0])
            idle = self.step_ms[0] * (1.0 + self.means[0] / self.budget)
            idle += self.step_ms[2] * self.means[0] * wide
            if BLOCK_TOKENS * self.blocks >= 6.0 * held and idle < 0.8 * self.ttft_ms:
                break

    def runs(self, count: int, requests: int, salt: int) -> list[Run]:
        """Gaps between arrivals at one request per unit of time, and lengths."""
        made = []
        for index in range(count):
            rng = np.random.default_rng([self.seed, index, salt])
            gaps = rng.exponential(1.0, requests)
            lengths = []
            for mean, cv, least in zip(self.means, self.cvs, (1, 2), strict=True):
                spread = math.sqrt(math.log1p(cv * cv))
                tokens = rng.lognormal(math.log(mean) - spread**2 / 2.0, spread, requests)
                lengths.append(np.clip(np.rint(tokens), least, self.longest).astype(np.int64))
            made.append((gaps, lengths[0], lengths[1]))
        return made

    def engines(self, runs: list[Run]) -> Engines:
        """As the model takes it, with lengths as drawn."""
        prompt, answer = (np.concatenate([run[index] for run in runs]) for index in (1, 2))
        return Engines(
            **dict(zip(STEPS, self.step_ms, strict=True)),
            max_num_seqs=self.seqs,
            max_num_batched_tokens=self.budget,
            kv_tokens=BLOCK_TOKENS * self.blocks,
            input_tokens=prompt.mean(),
            output_tokens=answer.mean(),
            input_cv=prompt.std() / prompt.mean(),
            output_cv=answer.std() / answer.mean(),
        )

    def over(self, runs: list[Run], share: float, ends: tuple[int, int], rate_rps: float) -> float:
        """Worst latency over its target; `ends`: parts of a run that are left out are one in so many."""
        ttft: list[float] = []
        itl: list[float] = []
        for gaps, prompt, answer in runs:
            engine = SchedulerEngine(
                StepTimes(**dict(zip(STEPS, self.step_ms, strict=True))),
                SchedulerLimits(
                    max_num_seqs=self.seqs,
                    max_num_batched_tokens=self.budget,
                    kv_blocks=self.blocks,
                ),
            )
            done = serve_open_loop(
                engine,
                arrival_ms=(np.cumsum(gaps) * 1000.0 / rate_rps).tolist(),
                input_tokens=prompt.tolist(),
                output_tokens=answer.tolist(),
            )
            steady = done[len(done) // ends[0] : -(len(done) // ends[1])]
            ttft += [one.first_token_ms - one.arrival_ms for one in steady]
            itl += [
                (one.last_token_ms - one.first_token_ms) / (one.output_tokens - 1)
                for one in steady
                if one.output_tokens > 1
            ]
        pairs = ((ttft, self.ttft_ms), (itl, self.itl_ms))
        if math.isnan(share):
            return max(float(np.mean(times)) / target for times, target in pairs)
        return max(float(np.quantile(times, share)) / target for times, target in pairs)


def bracket(over: Callable[[float], float], start: float) -> tuple[float, float] | None:
    """Rates that hold and fail, from a guess; None where none is found near it."""
    low = high = start
    factor = 1.06
    up = over(start) <= 1.0
    while True:
        following = high * factor if up else low / factor
        if following > FARTHEST * start or following < start / FARTHEST:
            return None
        if (over(following) <= 1.0) != up:
            low, high = (high, following) if up else (following, low)
            break
        low = high = following
        factor = min(1.1 * factor, 1.3)
    while high / low > WIDTH:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if over(middle) <= 1.0 else (low, middle)
    return low, high


def measured(seed: int, requests: int) -> dict[str, Any] | None:
    """One case: what the model takes, and brackets; None where the model holds nothing."""
    replica = Replica(seed)
    first = replica.runs(3, 1500, 1)
    engines = replica.engines(first)
    bound = bool(engines.kv_binds[0])
    short = 500 if bound else 1500
    kinds = {
        "record": (replica.runs(3, short, 1), (8, 8)),
        "other": (replica.runs(3, short, 2), (8, 8)),
        "long": (replica.runs(4, requests, 3), (10, 40)),
    }
    rates: dict[str, dict[str, tuple[float, float] | None]] = {}
    for name, share in PERCENTILES.items():
        start = sized(engines, replica.ttft_ms, replica.itl_ms, share)
        if math.isnan(start):
            return None
        for kind, (runs, ends) in kinds.items():
            over = partial(replica.over, runs, share, ends)
            rates.setdefault(kind, {})[name] = bracket(over, start)
    columns = ("input_tokens", "output_tokens", "input_cv", "output_cv")
    return {
        "seed": seed,
        "step_ms": replica.step_ms,
        "max_num_seqs": replica.seqs,
        "max_num_batched_tokens": replica.budget,
        "kv_blocks": replica.blocks,
        "ttft": replica.ttft_ms,
        "itl": replica.itl_ms,
        "rates": rates,
        **{name: float(getattr(engines, name)[0]) for name in columns},
    }


def sized(engines: Engines, ttft_ms: float, itl_ms: float, share: float) -> float:
    """The model's largest rate; NaN where it holds none."""
    return float(
        size_engines(engines, ttft_ms=ttft_ms, itl_ms=itl_ms, percentile=share).rate_rps[0]
    )


def table(cases: list[dict[str, Any]]) -> list[str]:
    """Lines by what is compared, of cases that the KV cache bounds and of others."""
    text = []
    kinds = {"KV < 15": (0, 15), "KV < 50": (15, 50), "KV more": (50, math.inf), "others": (0, 0)}
    for name, share in PERCENTILES.items():
        low, high = GOALS[name]
        of: dict[tuple[str, str], list[tuple[bool, float]]] = {}
        for case in cases:
            engines = Engines(
                **dict(zip(STEPS, case["step_ms"], strict=True)),
                **{key: case[key] for key in case if key.startswith(("max_", "input_", "output_"))},
                kv_tokens=BLOCK_TOKENS * case["kv_blocks"],
            )
            batch = float(engines.kv_batch[0]) if engines.kv_binds[0] else -1.0
            kind = next(
                (one for one, ends in kinds.items() if ends[0] <= batch < ends[1]), "others"
            )
            rates = {key: pair[name] for key, pair in case["rates"].items()}
            truth = {
                key: CENTER * math.sqrt(pair[0] * pair[1]) for key, pair in rates.items() if pair
            }
            model = sized(engines, case["ttft"], case["itl"], share)
            for what, rate, against in (
                ("model, long run", model, rates["long"]),
                ("model, records", model, rates["record"]),
                ("long run, records", truth.get("long"), rates["record"]),
                ("records, others", truth.get("other"), rates["record"]),
            ):
                if rate is not None and against is not None:
                    near, far = rate / against[1] - 1.0, rate / against[0] - 1.0
                    met = low <= far and near <= high
                    of.setdefault((what, kind), []).append((met, (near + far) / 2.0))
        for (what, kind), rows in sorted(of.items()):
            errors = np.quantile([error for _, error in rows], (0.05, 0.5, 0.95))
            ends = "".join(f"{error:>+8.1%}" for error in errors)
            share_met = np.mean([met for met, _ in rows])
            text.append(f"{name:<6}{what:<20}{kind:<9}{len(rows):>5}{share_met:>7.0%}{ends}")
    return text


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", type=int, default=40, metavar="N", help="Number of replicas. Default 40"
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=5000,
        metavar="N",
        help="Requests of one long run. Default 5000",
    )
    add_seed(parser)
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="JSON file of what was measured, read first and written. Default: none",
    )
    asked = parser.parse_args()
    cases: dict[str, dict[str, Any] | None] = {}
    if asked.record is not None and asked.record.exists():
        cases = json.loads(asked.record.read_text(encoding="utf-8"))
    for seed in range(asked.seed, asked.seed + asked.cases):
        if str(seed) not in cases:
            cases[str(seed)] = measured(seed, asked.requests)
            if asked.record is not None:
                asked.record.write_text(json.dumps(cases) + "\n", encoding="utf-8")
    print(
        f"{'of':<6}{'what, against':<20}{'bound by':<9}{'cases':>5}{'goals':>7}   error (5th, 50th, 95th)"
    )
    print("\n".join(table([case for case in cases.values() if case is not None])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
