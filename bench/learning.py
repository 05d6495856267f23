"""How soon step times are right: a profile that is 30 % off, an estimate, and no profile at all.

Replicas are driven in virtual time by `emulator.engines.scheduler_engine`, which knows nothing of the
formulas that are learned with: `python -P bench/learning.py`. One window is a minute; load moves between a
fifth and four fifths of what a replica holds, or stays at half of it. Capacity is the largest rate with an
ITL of 2.5 times the base.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

from analyzer.engine import learning
from analyzer.engine.learning import PARAMETERS, State, StepObservation
from analyzer.step_times import Lengths, StepTimes

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.fakes.replay.scheduled_windows import (
    LARGE,
    LONG,
    SHORT,
    SMALL,
    capacity,
    windows,
)

WINDOWS = 20
ENGINES = {"small": SMALL, "large": LARGE}
LENGTHS = (SHORT, LONG)


def wrong_by(true: StepTimes, factors: tuple[float, ...]) -> StepTimes:
    """Step times that are off by these factors, in the order of `PARAMETERS`."""
    return StepTimes(
        **{
            name: getattr(true, name) * factor
            for name, factor in zip(PARAMETERS, factors, strict=True)
        }
    )


def taught(state: State, seen: tuple[StepObservation, ...]) -> State:
    """The state after these windows."""
    for one in seen:
        state = learning.update(state, one).state
    return state


def usable_after(state: State, seen: tuple[StepObservation, ...]) -> str:
    """Windows until sizing uses the step times."""
    for number, one in enumerate(seen, start=1):
        state = learning.update(state, one).state
        if state.usable:
            return str(number)
    return f"> {len(seen)}"


def main() -> None:
    """Print one line per engine, lengths and kind of load."""
    print(
        "worst of 16 combinations of 30 % in each step time; capacity after 10 and 20 minutes, ITL after 10"
    )
    print(
        f"{'engine':6s} {'in/out':9s} {'load':8s} {'before':>7s} {'10 min':>7s} {'20 min':>7s} {'ITL':>6s}",
        end="",
    )
    print("   minutes until used (capacity then): estimate 25 % off, no profile")
    for (name, true), lengths, moves in itertools.product(ENGINES.items(), LENGTHS, (True, False)):
        target = 2.5 * true.base_ms
        top = capacity(true, lengths, target)
        swing = 0.3 * np.sin(np.arange(WINDOWS) / 10 * 2 * np.pi) if moves else np.zeros(WINDOWS)
        seen = tuple(windows(true, lengths, top * (0.5 + swing)))

        def off(
            steps: StepTimes, lengths: Lengths = lengths, target: float = target, top: float = top
        ) -> float:
            return capacity(steps, lengths, target) / top - 1.0

        errors = []
        for signs in itertools.product((0.7, 1.3), repeat=len(PARAMETERS)):
            start = learning.start(wrong_by(true, signs))
            early = taught(start, seen[:10])
            late = taught(early, seen[10:])
            errors.append((off(start.seed), off(early.latency), off(late.latency), early.itl_error))
        worst = [max(column, key=abs) for column in zip(*errors, strict=True)]
        estimate = learning.start(wrong_by(true, (1.25,) * 4), error=0.1)
        shown = [
            f"{usable_after(start, seen)} ({off(taught(start, seen[:10]).latency):+.0%} at 10)"
            for start in (estimate, learning.start())
        ]
        print(
            f"{name:6s} {lengths.input_tokens:.0f}/{lengths.output_tokens:<5.0f}"
            f" {'moving' if moves else 'constant':8s} "
            + " ".join(f"{value:+7.1%}" for value in worst[:3])
            + f" {worst[3]:+6.1%}   {', '.join(shown)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
