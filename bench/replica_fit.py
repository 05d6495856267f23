"""How well step times fitted to every second row of measured servers predict the other rows.

    python -P bench/replica_fit.py [--measured FILE] [--split even|odd|1|2|3|4|5] [--splits]

FILE is a CSV with the columns backend, version, model, gpu, precision, tp, input_tokens, output_tokens,
concurrency, ttft_ms and itl_ms; by default the repo's copy. Exit status 1 when a group misses its goal:
mean error of ITL 5 % (8 % for mixtures of experts), of TTFT of unsaturated rows 20 %. Two kinds of groups
are named and do not count:

* too few: fewer rows are taught than a step has coefficients (four), so that the form passes through them
  whatever they say; the error is printed all the same;
* contradictory: no monotone function that keeps to the taught rows comes closer to the others than the
  printed floor (`replica_floor`), that floor is above half the goal, and the fit is within the goal of it.

A group is reachable where that floor is within both goals: nothing that the file does not name has to be
known. Of those that miss, these are told apart: the other rows wait for a limit of the batch or the KV cache
that no taught row reaches, which no fit can know. Groups whose rows stand in the file twice are counted.

`--split` takes other rows for teaching: the odd ones, or random halves with the seed 1 to 5; `--splits`
prints one line for each split instead of the table.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from analyzer import errors  # noqa: E402 - the clone is what is measured
from analyzer.fitting import benchmark_rows, step_fit  # noqa: E402
from analyzer.fitting.benchmark_rows import BenchmarkRows  # noqa: E402
from analyzer.replicas import BoolArray  # noqa: E402
from bench import replica_floor  # noqa: E402

MEASURED = REPOSITORY / "tests" / "data" / "replica" / "measured.csv"
GROUP = ("backend", "version", "model", "gpu", "precision", "tp")
LEAST_TAUGHT = 4
"""Coefficients of a step without its bend: a form of four passes through any three rows."""
TOO_FEW, CONTRADICTORY, MISSED = "too few", "contradictory", "MISSED"
EVERY_SECOND = ("even", "odd")
SPLITS = (*EVERY_SECOND, "1", "2", "3", "4", "5")
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
        itl_floor: mean error of ITL that no monotone function avoids.
        ttft: mean relative error of TTFT over the other rows that are not saturated; None without such rows.
        ttft_floor: the same of these.
        goal: for ITL.
        saturated: rows of the group that are marked.
        taught: number of rows that the fit was made from.
        concurrencies: how many different ones they have.
        limit_unseen: others than the taught rows wait for a limit that no taught row shows.
        repeats: group with the same rows; empty where it is the first or only one.
        problem: why there is no fit; empty otherwise.

    """

    name: str
    rows: int
    itl: float | None = None
    itl_floor: float = 0.0
    ttft: float | None = None
    ttft_floor: float = 0.0
    goal: float
    saturated: int = 0
    taught: int
    concurrencies: int
    limit_unseen: bool = False
    repeats: str = ""
    problem: str = ""

    @property
    def verdict(self) -> str:
        """`ok`, or one or a few words with the reason."""
        if self.problem:
            return self.problem
        pairs = [
            (name, error, floor, goal)
            for name, error, floor, goal in (
                ("ITL", self.itl, self.itl_floor, self.goal),
                ("TTFT", self.ttft, self.ttft_floor, TTFT_GOAL),
            )
            if error is not None and error > goal
        ]
        if not pairs:
            return "ok" if self.counts else f"{TOO_FEW}, ok"
        said = ", ".join(f"{name} floor {floor:.1%}" for name, _, floor, _ in pairs)
        if not self.counts:
            return f"{TOO_FEW}; {said}"
        if all(floor > goal / 2 and error <= floor + goal for _, error, floor, goal in pairs):
            return f"{CONTRADICTORY}: {said}"
        unseen = "; no taught row shows the limit that others wait for" if self.limit_unseen else ""
        return f"{MISSED}, taught by {self.taught} rows at {self.concurrencies} concurrencies; {said}{unseen}"

    @property
    def reachable(self) -> bool:
        """Whether some monotone function that keeps to the taught rows is within both goals."""
        return not self.problem and self.itl_floor <= self.goal and self.ttft_floor <= TTFT_GOAL

    @property
    def counts(self) -> bool:
        """Whether at least as many rows were taught as a step has coefficients."""
        return self.taught >= LEAST_TAUGHT


def groups(path: Path) -> Iterator[tuple[str, BenchmarkRows]]:
    """Name and rows of each group, in the order of the file."""
    by_name: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            by_name.setdefault(" ".join(row[name] or "-" for name in GROUP), []).append(row)
    for name, members in by_name.items():
        columns = {
            column: [float(row[column]) for row in members]
            for column in ("concurrency", "input_tokens", "output_tokens", "itl_ms", "ttft_ms")
        }
        yield name, benchmark_rows.rows_of(**columns)


def taught_rows(size: int, split: str) -> BoolArray:
    """The rows to fit of a group: every second one, or a random half."""
    if split in EVERY_SECOND:
        return np.asarray(np.arange(size) % 2 == EVERY_SECOND.index(split))
    taught = np.zeros(size, dtype=np.bool_)
    taught[np.random.default_rng([int(split), size]).permutation(size)[: (size + 1) // 2]] = True
    return taught


def outcome(name: str, rows: BenchmarkRows, split: str = "even") -> Group:
    """Fit half of the rows and predict the others."""
    dense = any(part in name.lower() for part in DENSE)
    taught = taught_rows(rows.size, split)
    group = Group(
        name=name, rows=rows.size, goal=DENSE_GOAL if dense else MOE_GOAL, taught=int(taught.sum()),
        concurrencies=np.unique(rows.concurrency[taught]).size,
    )  # fmt: skip
    if taught.all():
        return replace(group, problem=f"{TOO_FEW}: one row")
    others = rows.part(~taught)
    try:
        whole = step_fit.fit_steps(rows)
        fit = step_fit.fit_steps(rows.part(taught))
    except errors.FitError as error:
        words = f"{TOO_FEW}: " if not group.counts else "not fitted: "
        return replace(group, problem=f"{words}{str(error).partition(':')[0]}")
    itl = float(np.abs(fit.itl_ms(others) / others.itl_ms - 1.0).mean())
    itl_floor = replica_floor.least_errors(rows, rows.itl_ms, taught)[~taught].mean()
    marked = np.zeros(rows.size, dtype=np.bool_)
    marked[[*(row.row for row in whole.saturated), *whole.waited]] = True
    served = ~marked[~taught]
    ttft, ttft_floor = None, 0.0
    if fit.ttft is not None and served.any():
        ttft = float(np.abs(fit.ttft_ms(others) / others.ttft_ms - 1.0)[served].mean())
        unsaturated = rows.part(~marked)
        floors = replica_floor.least_errors(unsaturated, unsaturated.ttft_ms, taught[~marked])
        ttft_floor = float(floors[~taught[~marked]].mean())
    limited = np.zeros(rows.size, dtype=np.bool_)
    limited[[row.row for row in whole.saturated]] = True
    unseen = bool(limited[~taught].any() and not limited[taught].any())
    return replace(
        group, itl=itl, itl_floor=float(itl_floor), ttft=ttft, ttft_floor=ttft_floor,
        saturated=int(marked.sum()), limit_unseen=unseen,
    )  # fmt: skip


def outcomes(path: Path = MEASURED, split: str = "even") -> list[Group]:
    """All groups of a file."""
    results = []
    first: dict[bytes, str] = {}
    for name, rows in groups(path):
        latencies = np.concatenate([rows.concurrency, rows.itl_ms, rows.ttft_ms]).tobytes()
        known = first.setdefault(latencies, name)
        group = outcome(name, rows, split)
        results.append(group if known == name else replace(group, repeats=known))
    return results


def report(path: Path = MEASURED, split: str = "even") -> tuple[str, bool]:
    """The table of all groups, and whether none misses its goals."""
    results = outcomes(path, split)
    lines = [f"{'group':<74} rows  sat.   ITL  goal  TTFT"]
    for group in results:
        itl = "    -" if group.itl is None else f"{group.itl:5.1%}"
        ttft = "    -" if group.ttft is None else f"{group.ttft:5.1%}"
        lines.append(
            f"{group.name:<74} {group.rows:>4} {group.saturated:>5} {itl:>6} {group.goal:>4.0%} {ttft:>6}"
            f"  {group.verdict}"
        )
    lines.append(
        f"{_summary(results)} Rows marked saturated: {sum(one.saturated for one in results)}."
    )
    return "\n".join(lines), not any(group.verdict.startswith(MISSED) for group in results)


def _summary(results: list[Group]) -> str:
    counted = [group for group in results if group.counts and group.itl is not None]
    verdicts = [group.verdict for group in counted]
    few = [group for group in results if not group.counts]
    text = (
        f"{len(results)} groups: {verdicts.count('ok')} of {len(counted)} with enough rows reach their goals,"
        f" {sum(verdict.startswith(CONTRADICTORY) for verdict in verdicts)} are contradictory,"
        f" {sum(verdict.startswith(MISSED) for verdict in verdicts)} miss; {len(few)} have too few rows, of"
        f" which {sum(group.verdict.endswith('ok') for group in few)} reach them all the same."
        f" By the floor {sum(group.reachable for group in counted)} are reachable, of which"
        f" {sum(group.reachable and group.verdict == 'ok' for group in counted)} are reached and"
        f" {sum(group.verdict.startswith(MISSED) and group.limit_unseen for group in counted)} miss by a"
        f" limit that no taught row shows; {sum(bool(group.repeats) for group in counted)} repeat another's"
        " rows."
    )
    if counted:
        itl = np.median([group.itl for group in counted if group.itl is not None])
        ttft = [group.ttft for group in counted if group.ttft is not None]
        text += f" Median error: ITL {itl:.1%}, TTFT {np.median(ttft) if ttft else np.nan:.1%}."
    return text


def main() -> int:
    """Print the table; 1 when a group misses its goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=Path, default=MEASURED, metavar="FILE")
    parser.add_argument("--split", choices=SPLITS, default="even", help="rows that are fitted")
    parser.add_argument("--splits", action="store_true", help="one line for each split")
    args = parser.parse_args()
    if args.splits:
        for split in SPLITS:
            print(f"{split:<5} {_summary(outcomes(args.measured, split))}")
        return 0
    text, reached = report(args.measured, args.split)
    print(text)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
