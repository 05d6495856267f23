"""The adapter's decisions beside those of plain rules, on public and generated traffic, against our targets.

    .venv/bin/python -P bench/decision_quality.py --traces DIR --out RESULTS --write docs/decision-quality.md

makes the page and its picture; DIR is a folder of public traces (docs/replay.md says where they are).
`--quick` replays a part of the suite in about half an hour on two cores. With `--out` an interrupted run goes
on where it stopped, and after a change of the adapter's loop only the adapter is replayed again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.decisions import plot as decision_plot  # noqa: E402 - the clone is what is measured
from bench.decisions import suite  # noqa: E402
from bench.decisions.suite import Done  # noqa: E402
from bench.decisions.targets import Target, points, targets  # noqa: E402
from emulator import trace_folder  # noqa: E402
from emulator.replay import tables  # noqa: E402
from emulator.replay.frontier import curves, terminal  # noqa: E402

_MET = {True: "met", False: "**missed**", None: tables.NONE}


def page(done: Sequence[Done], command: str, picture: str | None) -> str:
    """The page in Markdown; `picture` is the file name of its picture, None without one."""
    parts = [
        "# Decision quality",
        _prose(
            f"Generated on {datetime.now(UTC):%Y-%m-%d} by `{command}`; do not edit. In virtual time, on"
            " emulated replicas ([replay.md](replay.md)): vLLM's scheduler, and policies that plan with a fit"
            " of a benchmark of that engine, unless a case says otherwise. “Ours” has its default settings,"
            " one for all traffic. Rivals are swept over their thresholds and picked in hindsight at each"
            " cost."
        ),
        _prose(
            "Held out: seeds 101 and 102, which no default was chosen on; mmpp's and llm-d's ramp's (7 to 11)"
            " were looked at while the rules for returns of load and queues were written. Not held out: the"
            " traces azure_conv, azure_code, mooncake_conversation and mooncake_synthetic and ServeGen's"
            " deepseek-r1, which were looked at while the rules were written; no number of a rule was fitted"
            " to them. What a new load is taken to change by is about the spread of clients of ServeGen's"
            " m-mid, m-large and deepseek-r1. Windows begin with the trace; with start-ups of 600 s others"
            " are worse where load rises before it was seen to change (azure_conv `--from 900 --to 3300`), or"
            " multiplies at once. Not replayed with real GPUs: the engine is a model of vLLM's scheduler"
            " too, but not the one that is planned with."
        ),
        "## Targets",
        _targets_table(targets(done)),
    ]
    parts += ["## Where a rival wins", _lost(done)]
    public = [item for item in done if item.case.group == "public"]
    if public:
        parts += ["## Public traces", *_public_part(public, picture)]
    else:
        parts.append(
            _prose("Public traces were not replayed: no folder was given with `--traces`.")
        )
    parts += [
        "## Case by case",
        _cases_table([item for item in done if item.case.group != "public"]),
    ]
    parts += ["## Conditions", _conditions(done)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _lost(done: Sequence[Done]) -> str:
    """Every point of ours beside which a rival keeps more at the same cost, the worst first."""
    behind = [
        (beside, item.case)
        for item in done
        for beside in curves.frontier(item.comparison.results).beside
        if beside.rival is not None and beside.ahead < 0
    ]
    if not behind:
        return "Nowhere in these replays."
    lines = ["| case | ours | GPU-hours | rival at that cost | keeps | ours, points |"]
    lines.append("| --- | --- | ---: | --- | ---: | ---: |")
    for beside, case in sorted(behind, key=lambda item: item[0].ahead):
        point = beside.point
        lines.append(
            f"| {case.group}: {case.name} | {point.policy}: {tables.percent(point.within)} |"
            f" {point.gpu_hours:.2f} | {beside.rival} | {tables.percent(beside.rival_within)} |"
            f" {points(beside.ahead)} |"
        )
    return "\n".join(lines)


def _public_part(done: Sequence[Done], picture: str | None) -> list[str]:
    parts = []
    if picture is not None:
        parts.append(
            f"![Requests within the SLO over cost, ours and the rivals' frontier]({picture})"
        )
    heads = (
        "trace",
        "ours",
        "GPU-hours",
        "best rival at that cost",
        "keeps",
        "ours, points",
        "99 % takes",
    )
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | ---: | --- | ---: | ---: | ---: |"]
    for item in done:
        bound = item.comparison.bound
        hours = f"{bound.gpu_hours:.2f}" if bound and bound.within >= tables.GOAL else tables.NONE
        for beside in curves.frontier(item.comparison.results).beside:
            point = beside.point
            within = tables.percent(point.within)
            lines.append(
                f"| {item.case.name} | {point.policy}: {within} | {point.gpu_hours:.2f} |"
                f" {beside.rival or tables.NONE} | {tables.percent(beside.rival_within)} |"
                f" {points(beside.ahead) if beside.rival else tables.NONE} | {hours} |"
            )
    return [*parts, "\n".join(lines)]


def _cases_table(done: Sequence[Done]) -> str:
    lines = ["| case | policy | within | GPU-hours | cost / bound | scale events | recovery |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for item in done:
        for result in item.comparison.results:
            lines.append(  # noqa: PERF401 - two nested loops
                f"| {item.case.group}: {item.case.name} | {result.policy} | {tables.percent(result.within)} |"
                f" {result.gpu_hours:.2f} | {tables.ratio(item.comparison.cost_ratio(result))} |"
                f" {result.scale_events} | {tables.recovery(result.recovery_seconds)} |"
            )
    return "\n".join(lines)


def _conditions(done: Sequence[Done]) -> str:
    groups = {item.case.group: item for item in done}
    lines = []
    for group, item in groups.items():
        slo = item.case.scenario.models[0].slo
        facts = "; ".join(f"{name}: {value}" for name, value in item.comparison.facts.items())
        lines.append(f"- {group}: TTFT {slo.ttft:g} ms, ITL {slo.itl:g} ms; {facts}")
    lines.append(
        f"- public: each trace scaled to a mean of {suite.MEAN_REPLICAS:g} replicas at mean latencies on"
        " target (3 with `--quick`), its first hour (25 minutes, 40 with start-ups of 600 s);"
        " requests beyond the KV cache left out"
    )
    return "\n".join(lines)


def _targets_table(measured_targets: Sequence[Target]) -> str:
    lines = ["| target | measured | |", "| --- | --- | --- |"]
    lines += [f"| {item.text} | {item.measured} | {_MET[item.met]} |" for item in measured_targets]
    return "\n".join(lines)


def _prose(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--traces", type=Path, metavar="DIR",
        help=f"folder of public traces. Default: {trace_folder.VARIABLE}",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder that keeps finished replays"
    )
    parser.add_argument("--quick", action="store_true", help="replay a part of the suite")
    parser.add_argument(
        "--groups", type=lambda text: tuple(text.split(",")), metavar="A,B",
        help="parts of the suite: public, stationary, drift, wrong, none, suite, llm-d. Default: all",
    )  # fmt: skip
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the page to FILE, and its picture beside it",
    )
    parser.add_argument(
        "--jobs", type=int, default=None, help="number of processes. Default: 2 where it pays"
    )
    args = parser.parse_args()
    todo = suite.cases(trace_folder.folder_of(args.traces), quick=args.quick)
    if args.groups:
        todo = [case for case in todo if case.group in args.groups]
    if not todo:
        parser.error("no case; without --traces there are no public ones")
    done = suite.measure(todo, jobs=args.jobs, out=args.out)
    for item in done:
        for sentence in terminal.sentences(curves.frontier(item.comparison.results)):
            print(f"{item.case.name}: {sentence}", file=sys.stderr)
    command = ".venv/bin/python -P bench/decision_quality.py"
    if args.traces:
        command += " --traces DIR"
    command += " --quick" if args.quick else ""
    command += f" --groups {','.join(args.groups)}" if args.groups else ""
    if args.write is None:
        print(page(done, command, None))
        return
    public = [item for item in done if item.case.group == "public"]
    picture = args.write.with_suffix(".png")
    if public:
        decision_plot.draw(public, picture)
    command += f" --write {shlex.quote(str(args.write))}"
    args.write.write_text(page(done, command, picture.name if public else None), encoding="utf-8")


if __name__ == "__main__":
    main()
