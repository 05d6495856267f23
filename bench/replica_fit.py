"""How well step times fitted to every second row of measured servers predict the other rows.

    python -P bench/replica_fit.py [--measured FILE]

FILE is a CSV with the columns backend, version, model, gpu, precision, tp, input_tokens, output_tokens,
concurrency, ttft_ms and itl_ms; by default the repo's copy. Exit status 1 when a group misses its goal:
mean error of ITL 5 % (8 % for mixtures of experts), of TTFT of unsaturated rows 20 %. Groups with fewer
rows than a fit needs, and groups whose rows of equal load differ by more than the goal, are named and do
not count.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analyzer import errors
from analyzer.fitting import benchmark_rows, step_fit
from analyzer.fitting.benchmark_rows import BenchmarkRows

MEASURED = Path(__file__).parent.parent / "tests" / "data" / "replica" / "measured.csv"
GROUP = ("backend", "version", "model", "gpu", "precision", "tp")
LEAST_TAUGHT = 4
"""A step has four coefficients or five; fewer rows than four determine nothing."""
DENSE_GOAL, MOE_GOAL, TTFT_GOAL = 0.05, 0.08, 0.20
DENSE = ("llama", "qwen3-32b")
"""Parts of the names of models that are no mixtures of experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Outcome of one group.

    Attributes:
        name: backend, version, model, GPU, precision and tensor parallelism.
        rows: number of rows.
        itl: mean relative error of ITL over the other rows; None where no fit was possible.
        ttft: mean relative error of TTFT over the other rows that are not saturated; None without such rows.
        goal: for ITL.
        saturated: rows of the group that are marked.
        taught: what the fit was made from, in words.
        disagreement: share by which rows of equal load leave any prediction wrong.
        problem: why there is no fit; empty otherwise.

    """

    name: str
    rows: int
    itl: float | None
    ttft: float | None
    goal: float
    saturated: int
    taught: str
    disagreement: float
    problem: str

    @property
    def missed(self) -> bool:
        """A fit was possible and its error is above a goal."""
        return (self.itl is not None and self.itl > self.goal) or (
            self.ttft is not None and self.ttft > TTFT_GOAL
        )

    @property
    def verdict(self) -> str:
        """One or a few words for the table."""
        if self.problem:
            return self.problem
        if not self.missed:
            return "ok"
        if self.disagreement > self.goal / 2:
            return (
                f"inconsistent: rows of equal load leave {self.disagreement:.0%} to any prediction"
            )
        return f"MISSED, taught by {self.taught}"


def groups(path: Path) -> Iterator[tuple[str, BenchmarkRows]]:
    """Name and rows of each group, in the order of the file."""
    found: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(" ".join(row[name] or "-" for name in GROUP), []).append(row)
    for name, members in found.items():
        columns = {
            column: [float(row[column]) for row in members]
            for column in ("concurrency", "input_tokens", "output_tokens", "itl_ms", "ttft_ms")
        }
        yield name, benchmark_rows.rows_of(**columns)


def outcome(name: str, rows: BenchmarkRows, first: int = 0) -> Group:
    """Fit rows first, first + 2, … and predict the others."""
    dense = any(part in name.lower() for part in DENSE)
    itl: float | None = None
    ttft: float | None = None
    saturated, problem, said = 0, "", ""
    taught = np.arange(rows.size) % 2 == first
    if int(taught.sum()) < LEAST_TAUGHT:
        problem = f"too few rows: {taught.sum()} to fit, {LEAST_TAUGHT} needed"
    else:
        said = f"{taught.sum()} rows at {np.unique(rows.concurrency[taught]).size} concurrencies"
        others = rows.part(~taught)
        try:
            whole = step_fit.fit_steps(rows)
            fit = step_fit.fit_steps(rows.part(taught))
        except errors.FitError as error:
            problem = f"not fitted: {error}"
        else:
            itl = float(np.abs(fit.itl_ms(others) / others.itl_ms - 1.0).mean())
            marked = np.zeros(rows.size, dtype=np.bool_)
            marked[[*(row.row for row in whole.saturated), *whole.waited]] = True
            saturated = int(marked.sum())
            served = ~marked[~taught]
            if fit.ttft is not None and served.any():
                off = np.abs(fit.ttft_ms(others) / others.ttft_ms - 1.0)
                ttft = float(off[served].mean())
    return Group(
        name=name, rows=rows.size, itl=itl, ttft=ttft, goal=DENSE_GOAL if dense else MOE_GOAL,
        saturated=saturated, taught=said, disagreement=benchmark_rows.disagreement(rows), problem=problem,
    )  # fmt: skip


def report(path: Path = MEASURED, first: int = 0) -> tuple[str, bool]:
    """The table of all groups, and whether none misses its goals."""
    found = [outcome(name, rows, first) for name, rows in groups(path)]
    lines = [f"{'group':<74} rows  sat.   ITL  goal  TTFT"]
    for group in found:
        itl = "    -" if group.itl is None else f"{group.itl:5.1%}"
        ttft = "    -" if group.ttft is None else f"{group.ttft:5.1%}"
        lines.append(
            f"{group.name:<74} {group.rows:>4} {group.saturated:>5} {itl:>6} {group.goal:>4.0%} {ttft:>6}"
            f"  {group.verdict}"
        )
    fitted = [group for group in found if group.itl is not None]
    verdicts = [group.verdict for group in fitted]
    missed = sum(verdict.startswith("MISSED") for verdict in verdicts)
    lines.append(
        f"{len(found)} groups: {verdicts.count('ok')} of {len(fitted)} fitted reach their goals,"
        f" {len(fitted) - verdicts.count('ok') - missed} are inconsistent, {missed} miss;"
        f" {len(found) - len(fitted)} not fitted. Rows marked saturated:"
        f" {sum(group.saturated for group in found)}."
    )
    if fitted:
        lines.append(
            f"median error: ITL {np.median([group.itl for group in fitted if group.itl is not None]):.1%},"
            f" TTFT {np.median([group.ttft for group in fitted if group.ttft is not None]):.1%}"
        )
    return "\n".join(lines), missed == 0


def main() -> int:
    """Print the table; 1 when a group misses its goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=Path, default=MEASURED, metavar="FILE")
    parser.add_argument(
        "--first", type=int, choices=(0, 1), default=0, help="first row that is fitted"
    )
    args = parser.parse_args()
    text, reached = report(args.measured, args.first)
    print(text)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
