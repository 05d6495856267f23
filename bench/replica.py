"""The model of a replica, and the engine of the emulator, against what none of us made.

    python -P bench/replica.py [--runs DIR] [--capacity FILE] [--drift FILE] [--measured FILE] [--plot PNG]

1. The engine repeats every request that vLLM's own scheduler served (DIR of recorded runs): first and last
   token within 0.01 ms, preemptions equal.
2. The largest rate of one replica, as `analyze` answers it, against replicas that were driven by that
   scheduler (FILE): -12 to +3 % of the true one for means, -15 to +5 % for the 95th percentile; 15 % either
   way where only the lengths have moved since the profile was made.
3. Step times fitted to every second row of servers on real GPUs predict the other rows (`replica_fit`).

The defaults are the repository's copies (tests/data, see the READMEs there). Exit status 1 when a goal is
missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from adapter.formats import cases as analyze  # noqa: E402 - the clone is what is measured
from bench import replica_fit  # noqa: E402
from emulator.engines.runs import serve_closed_loop, serve_open_loop  # noqa: E402
from emulator.engines.scheduler_engine import SchedulerEngine  # noqa: E402
from emulator.engines.step_times import SchedulerLimits, StepTimes  # noqa: E402

DATA = REPOSITORY / "tests" / "data" / "replica"
RUNS = REPOSITORY / "tests" / "data" / "vllm_runs"
GOALS = {"mean": (-0.12, 0.03), "p95": (-0.15, 0.05)}
DRIFT_GOALS = {"mean": (-0.15, 0.15), "p95": (-0.15, 0.15)}
PERCENTILES = {"mean": None, "p95": 95}
BLOCK_TOKENS = 16
TOLERANCE_MS = 0.01
STEPS = ("base_ms", "per_request_ms", "per_prefill_token_ms", "per_context_token_ms")


def repeated(runs: list[Path]) -> bool:
    """Print how far the engine is from each recorded run; whether it repeats them all."""
    print(f"Requests of recorded runs, repeated by the engine; differences in ms\n{'run':<20}{'requests':>9}"
          f"{'first token':>13}{'last token':>12}{'preemptions':>13}  goal")  # fmt: skip
    good = bool(runs)
    for path in runs:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        config, expected = recorded["config"], recorded["requests"]
        engine = SchedulerEngine(
            StepTimes(**dict(zip(STEPS, config["step_ms"], strict=True))),
            SchedulerLimits(
                max_num_seqs=config["max_num_seqs"],
                max_num_batched_tokens=config["max_num_batched_tokens"],
                kv_blocks=config["kv_blocks"],
            ),
        )
        tokens = {name: expected[name] for name in ("input_tokens", "output_tokens")}
        if "concurrency" in config:
            served = serve_closed_loop(engine, concurrency=config["concurrency"], **tokens)
        else:
            served = serve_open_loop(engine, arrival_ms=expected["arrival_ms"], **tokens)
        far = [
            max(
                abs(getattr(one, name) - true)
                for one, true in zip(served, expected[name], strict=True)
            )
            for name in ("first_token_ms", "last_token_ms")
        ]
        preempted = [one.preemptions for one in served]
        met = max(far) <= TOLERANCE_MS and preempted == list(expected["preemptions"])
        good &= met
        counts = f"{sum(preempted)}/{sum(expected['preemptions'])}"
        print(f"{path.stem:<20}{len(served):>9}{far[0]:>13.4f}{far[1]:>12.4f}{counts:>13}"
              f"  {'met' if met else 'MISSED'}")  # fmt: skip
    return good


def question(case: dict[str, Any], percentile: float | None) -> dict[str, Any]:
    """One case as `analyze --jsonl` takes it."""
    asked = {f"step_{name}": ms for name, ms in zip(STEPS, case["step_ms"], strict=True)}
    return {
        **asked,
        "max_num_seqs": case["max_num_seqs"],
        "max_num_batched_tokens": case["max_num_batched_tokens"],
        "kv_tokens": case["kv_blocks"] * BLOCK_TOKENS,
        "input_tokens": case["mean_input"],
        "output_tokens": case["mean_output"],
        "input_tokens_cv": case["cv_input"],
        "output_tokens_cv": case["cv_output"],
        "target_ttft_ms": case["ttft"],
        "target_itl_ms": case["itl"],
        "percentile": percentile,
    }


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
            (line,) = analyze.answer_lines([json.dumps(question(case, PERCENTILES[name]))])
            answer = json.loads(line)
            rate = answer.get("max_rate_rps") or 0.0
            holds, fails = case["max_rate_rps"][name]
            less, more = errors(rate, holds, fails)
            met = low <= more and less <= high
            good &= met
            bound = answer.get("binding") or answer.get("error") or "nothing"
            true, error = f"{holds:g}..{fails:g}", f"{less:+.1%}..{more:+.1%}"
            print(
                f"{case['name']:<16}{name:<6}{rate:>9.3f}{true:>18}{error:>18}"
                f"  {bound:<10}{'met' if met else 'MISSED'}"
            )
    return good


def plot(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the model's largest rates against the true ones, with the goals of the first table."""
    from adapter.formats import plots  # noqa: PLC0415 - loads matplotlib

    figure = plots.new_figure((6.5, 6.0))
    axis = figure.subplots()
    ends = [0.8, 45.0]
    for name, (low, high) in GOALS.items():
        color = "C0" if name == "mean" else "C1"
        axis.fill_between(
            ends, [(1 + low) * end for end in ends], [(1 + high) * end for end in ends],
            color=color, alpha=0.12, linewidth=0, label=f"goal, {name}",
        )  # fmt: skip
        for marker, (title, cases) in zip("os", tables.items(), strict=True):
            lines = analyze.answer_lines(
                [json.dumps(question(case, PERCENTILES[name])) for case in cases]
            )
            brackets = [case["max_rate_rps"][name] for case in cases]
            axis.errorbar(
                [(holds + fails) / 2 for holds, fails in brackets],
                [json.loads(line)["max_rate_rps"] for line in lines],
                xerr=[(fails - holds) / 2 for holds, fails in brackets],
                fmt=marker, color=color, markersize=5, label=f"{title}, {name}",
            )  # fmt: skip
    axis.plot(ends, ends, color="grey", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("largest rate of a replica that vLLM's scheduler drives (req/s)")
    axis.set_ylabel("largest rate by the model (req/s)")
    axis.legend(loc="upper left", fontsize="small")
    plots.save(figure, path)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add the seed that cases are drawn from."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="Seed of the first case. Default 0"
    )


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR")
    parser.add_argument("--capacity", type=Path, default=DATA / "capacity.json", metavar="FILE")
    parser.add_argument("--drift", type=Path, default=DATA / "drift.json", metavar="FILE")
    parser.add_argument("--measured", type=Path, default=replica_fit.MEASURED, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    asked = parser.parse_args()
    good = repeated(sorted(asked.runs.glob("*.json")))
    capacity = json.loads(asked.capacity.read_text(encoding="utf-8"))
    drift = json.loads(asked.drift.read_text(encoding="utf-8"))
    good &= table("Largest rate of one replica, requests per second", capacity, GOALS)
    good &= table("The same step times, other lengths", drift, DRIFT_GOALS)
    if asked.plot is not None:
        plot({"capacity": capacity, "other lengths": drift}, asked.plot)
    text, reached = replica_fit.report(asked.measured)
    print(f"\nStep times fitted to every second row, mean relative error of the others\n{text}")
    good &= reached
    print(f"\n{'all goals met' if good else 'goals MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
