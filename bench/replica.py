"""What one replica holds by the model, against replicas that were driven by a real engine's scheduler.

    python -P bench/replica.py [--capacity FILE] [--drift FILE]

Each FILE is a JSON list as in tests/data/replica (see its README), which is the default. Exit status 1 when
the largest rate of a case leaves its goal: -12 to +3 % of the true one for means, -15 to +5 % for the 95th
percentile; 15 % either way where only the lengths have moved since the profile was made.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from analyzer.engine.columns import Engine
from analyzer.engine.sizing import size_engine
from analyzer.step_times import EngineLimits, Lengths, StepTimes

DATA = Path(__file__).parent.parent / "tests" / "data" / "replica"
GOALS = {"mean": (-0.12, 0.03), "p95": (-0.15, 0.05)}
DRIFT_GOALS = {"mean": (-0.15, 0.15), "p95": (-0.15, 0.15)}
PERCENTILES = {"mean": None, "p95": 0.95}
BLOCK_TOKENS = 16


def engine(case: dict[str, Any]) -> Engine:
    """The replica of one case."""
    base, request, prefill, context = case["step_ms"]
    return Engine(
        step_times=StepTimes(
            base_ms=base,
            per_request_ms=request,
            per_prefill_token_ms=prefill,
            per_context_token_ms=context,
        ),
        limits=EngineLimits(
            max_num_seqs=case["max_num_seqs"],
            max_num_batched_tokens=case["max_num_batched_tokens"],
            kv_tokens=case["kv_blocks"] * BLOCK_TOKENS,
        ),
        lengths=Lengths(
            input_tokens=case["mean_input"],
            output_tokens=case["mean_output"],
            input_cv=case["cv_input"],
            output_cv=case["cv_output"],
        ),
    )


def errors(rate: float, holds: float, fails: float) -> tuple[float, float]:
    """Relative error against the nearer and the farther end of the bracket of the true rate."""
    return rate / fails - 1.0, rate / holds - 1.0


def table(title: str, cases: list[dict[str, Any]], goals: dict[str, tuple[float, float]]) -> bool:
    """Print one table; whether every goal is met."""
    print(f"\n{title}")
    print(f"{'case':<16}{'of':<6}{'model':>9}{'true':>18}{'error':>18}  {'bound by':<10}goal")
    good = True
    for case in cases:
        for name, (low, high) in goals.items():
            answer = size_engine(
                engine(case),
                ttft_ms=case["ttft"],
                itl_ms=case["itl"],
                percentile=PERCENTILES[name],
            )
            holds, fails = case["max_rate_rps"][name]
            less, more = errors(answer.rate_rps, holds, fails)
            met = low <= more and less <= high
            good &= met
            true, error = f"{holds:g}..{fails:g}", f"{less:+.1%}..{more:+.1%}"
            print(
                f"{case['name']:<16}{name:<6}{answer.rate_rps:>9.3f}{true:>18}{error:>18}"
                f"  {answer.binding:<10}{'met' if met else 'MISSED'}"
            )
    return good


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--capacity", type=Path, default=DATA / "capacity.json")
    parser.add_argument("--drift", type=Path, default=DATA / "drift.json")
    asked = parser.parse_args()
    capacity = json.loads(asked.capacity.read_text())
    drift = json.loads(asked.drift.read_text())
    good = table("Largest rate of one replica, requests per second", capacity, GOALS)
    good &= table("The same step times, other lengths", drift, DRIFT_GOALS)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
