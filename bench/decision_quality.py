"""Policies side by side over a suite of traffic whose seeds were not used for tuning, against our targets.

    .venv/bin/python -P bench/decision_quality.py --write docs/decision-quality.md

makes the page and its picture. A plain run is `--quick`: one seed, three traces. Each replay is
`variant-adapter replay` with manifests/samples/replay/scenario.yaml and one of the suite's `TRACES`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import decision_plot  # noqa: E402 - the clone is what is measured
from bench import decision_suite as suite  # noqa: E402
from bench.decision_suite import GOAL, OURS, RIVAL, Case  # noqa: E402
from emulator.replay import tables  # noqa: E402
from emulator.replay.results import Comparison  # noqa: E402
from emulator.replay.running import DRAIN_SECONDS  # noqa: E402


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """One row of the table of targets.

    Attributes:
        target: Description of the target.
        measured: Measured values.
        met: Whether the target is met; None where nothing could be measured.
        why: Explanations of each miss, one sentence each.

    """

    target: str
    measured: str
    met: bool | None
    why: Sequence[str] = ()


_MET = {True: "met", False: "**missed**", None: tables.NONE}


def target_results(cases: Sequence[Case]) -> list[TargetResult]:
    """Measure every target."""
    return [_attainment(cases), _cost(cases), _scale_events(cases), _recovery(cases)]


def _attainment(cases: Sequence[Case]) -> TargetResult:
    meeting = [case for case in cases if case.of(OURS).within >= tables.GOAL]
    missed = [case for case in cases if case not in meeting]
    worst = min(cases, key=lambda case: case.of(OURS).within)
    return TargetResult(
        target=f"at least {GOAL} of requests within the SLO",
        measured=(
            f"{len(meeting)} of {len(cases)} replays; worst {tables.percent(worst.of(OURS).within)}"
            f" ({worst})"
        ),
        met=not missed,
        why=[_why_missed(case) for case in missed],
    )


def _why_missed(case: Case) -> str:
    head = f"{case}: {tables.percent(case.of(OURS).within)} at {tables.ratio(case.cost)}"
    best = case.without_foresight
    if case.reachable:
        return (
            f"{head}. Reachable without foresight: {tables.percent(best.within)} at up to"
            f" {tables.ratio(suite.COST_LIMIT)}, if every moment's true rate is known."
        )
    end = (
        f"{GOAL} takes {tables.ratio(best.cost)}"
        if math.isfinite(best.cost)
        else f"{GOAL} is not reached with {max(suite.SPARE_FACTORS):g} times the replicas"
    )
    return (
        f"{head}. Not reachable without foresight: the best of {suite.SCHEDULES} schedules by each moment's"
        f" true rate keeps {tables.percent(best.within)} at up to {tables.ratio(suite.COST_LIMIT)}; {end}."
    )


def _cost(cases: Sequence[Case]) -> TargetResult:
    meeting = [case for case in cases if case.of(OURS).within >= tables.GOAL]
    expensive = [case for case in meeting if case.cost > suite.COST_LIMIT]
    median = statistics.median(case.cost for case in meeting) if meeting else math.nan
    return TargetResult(
        target=f"where that is met, at most {tables.ratio(suite.COST_LIMIT)} the clairvoyant's cost",
        measured=(
            f"{len(meeting) - len(expensive)} of {len(meeting)} replays; median {tables.ratio(median)}, worst"
            f" {tables.ratio(max((case.cost for case in meeting), default=math.nan))}"
        ),
        met=not expensive if meeting else None,
        why=[
            f"{case}: {tables.ratio(case.cost)} for {tables.percent(case.of(OURS).within)}, on average"
            f" {_gpus(case, OURS) - _gpus(case, 'clairvoyant'):.1f} GPUs above the bound's"
            f" {_gpus(case, 'clairvoyant'):.1f}. The rate must be estimated from noisy counts; with each"
            f" moment's true rate, {GOAL} costs {tables.ratio(case.without_foresight.cost)}."
            for case in expensive
        ],
    )


def _gpus(case: Case, policy: str) -> float:
    """GPUs that the policy held on average."""
    hours = (case.comparison.duration_seconds + DRAIN_SECONDS) / 3600
    return case.of(policy).gpu_hours / hours


def _scale_events(cases: Sequence[Case]) -> TargetResult:
    ours, rival = (sum(suite.events(case.of(name)) for case in cases) for name in (OURS, RIVAL))
    bound = sum(suite.events(case.of("clairvoyant")) for case in cases)
    more = [case for case in cases if suite.events(case.of(OURS)) >= suite.events(case.of(RIVAL))]
    return TargetResult(
        target="fewer scale events than the HPA on queue length",
        measured=(
            f"{ours}, the HPA {rival}, the clairvoyant {bound}; fewer in {len(cases) - len(more)} of"
            f" {len(cases)} replays"
        ),
        met=ours < rival and not more,
        why=[
            f"{case}: {suite.events(case.of(OURS))}, the HPA {suite.events(case.of(RIVAL))}; the HPA keeps"
            f" {tables.percent(case.of(RIVAL).within)} within the SLO at"
            f" {tables.ratio(case.comparison.cost_ratio(case.of(RIVAL)))}, and the clairvoyant has"
            f" {suite.events(case.of('clairvoyant'))} scale events."
            for case in more
        ],
    )


def _recovery(cases: Sequence[Case]) -> TargetResult:
    replayed = suite.suite_scenario()
    startup = max(item.startup for item in replayed.variants)
    limit = startup + suite.RECOVERY_CYCLES * replayed.loop.interval
    times = [(case, item) for case in cases for item in case.of(OURS).recovery_seconds]
    # Written so that NaN, which means never, is late.
    late = [(case, item) for case, item in times if not item <= limit]
    return TargetResult(
        target=(
            f"recovery from a threefold step within start-up + {suite.RECOVERY_CYCLES} decision cycles,"
            f" {limit:g} s"
        ),
        measured=f"median / worst of {len(times)}: {tables.recovery(item for _, item in times)}",
        met=not late if times else None,
        why=[
            f"{case}: {'never' if math.isnan(item) else f'{item:.0f} s'}; the clairvoyant"
            f" {tables.recovery(case.of('clairvoyant').recovery_seconds)}."
            for case, item in late
        ],
    )


def targets_table(results: Iterable[TargetResult]) -> str:
    lines = ["| target | measured | |", "| --- | --- | --- |"]
    whys = []
    for item in results:
        lines.append(f"| {item.target} | {item.measured} | {_MET[item.met]} |")
        if item.why:
            whys += [
                "",
                f"Missed: {item.target}:",
                "",
                *(f"- {sentence}" for sentence in item.why),
            ]
    return "\n".join([*lines, *whys])


def cases_table(cases: Sequence[Case]) -> str:
    """The adapter on each replay beside the best that is possible without foresight."""
    heads = (
        "replay", "adapter within", "cost", f"without foresight, up to {tables.ratio(suite.COST_LIMIT)}",
        f"cost of {GOAL} without foresight", f"scale events, adapter / {RIVAL}", "recovery",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    for case in cases:
        ours = case.of(OURS)
        cells = (
            str(case), tables.percent(ours.within), tables.ratio(case.cost),
            tables.percent(case.without_foresight.within), tables.ratio(case.without_foresight.cost),
            f"{suite.events(ours)} / {suite.events(case.of(RIVAL))}", tables.recovery(ours.recovery_seconds),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(cases: Sequence[Case], command: str, picture: str | None) -> str:
    """The page in Markdown; `picture` is the file name of its picture, None without one."""
    parts = [
        *_introduction(cases, command, picture),
        "## Targets",
        f"“Adapter” is the policy “{cases[0].of(OURS).title}”.",
        targets_table(target_results(cases)),
        "## Replay by replay",
        _prose(
            f"*Without foresight* is the best of {suite.SCHEDULES} schedules that know the true rate of the"
            " 75 s around each moment, but create replicas only at that moment: for that rate times"
            f" {suite.SPARE_FACTORS[0]:g} to {suite.SPARE_FACTORS[-1]:g}, kept for"
            f" {_seconds(suite.HOLD_SECONDS)} after the rate has fallen. Their misses occur while replicas"
            " start; avoiding them takes spare capacity, or knowledge of the future."
        ),
        cases_table(cases),
        *_conditions(cases),
        "## All policies",
        tables.markdown([_without_remarks(case.comparison) for case in cases]),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _introduction(cases: Sequence[Case], command: str, picture: str | None) -> list[str]:
    seeds = ", ".join(dict.fromkeys(str(case.seed) for case in cases))
    held_out = {case.seed for case in cases} <= {*suite.SEEDS}
    parts = [
        "# Decision quality",
        _prose(
            f"Generated by `{command}`; do not edit. Seeds {seeds}"
            f"{', held out: no parameter was tuned on them' if held_out else ''}."
            " SLO attainment and cost of each policy on the same traffic, in virtual time on emulated"
            " replicas. The clairvoyant schedules replicas with knowledge of the whole traffic, at the least"
            f" cost that keeps {GOAL} of requests within the SLO: the bound."
        ),
    ]
    if picture is not None:
        parts += [
            f"![Requests within the SLO over cost, by policy]({picture})",
            "Medians over all replays; the shaded corner is the goal.",
        ]
    return parts


def _conditions(cases: Sequence[Case]) -> list[str]:
    """Scenario and traffic of the replays."""
    first = cases[0].comparison
    notes = dict.fromkeys(f"{item.title}: {note}" for item in first.results for note in item.notes)
    models = ", ".join(
        f"{item.model}: TTFT {item.slo.ttft:g} ms, ITL {item.slo.itl:g} ms"
        for item in suite.suite_scenario().models
    )
    path = suite.SCENARIO.relative_to(ROOT)
    tokens = "; ".join(f"{side}, {_words(spec)}" for side, spec in suite.TOKENS.items())
    names = {case.trace for case in cases}
    return [
        "## Scenario",
        _prose(f"[{path}](../{path}) with a warm-up of {suite.WARM_UP_SECONDS:g} s; {models}."),
        "\n".join(
            [f"- {name}: {value}" for name, value in first.facts.items()]
            + [f"- {note}" for note in notes]
        ),
        f"Traffic, with lognormal tokens: {tokens}.",
        "\n".join(
            f"- {name}: {_words(spec)}" for name, spec in suite.TRACES.items() if name in names
        ),
    ]


def _without_remarks(comparison: Comparison) -> Comparison:
    """The same without facts and notes, which the page has once."""
    results = tuple(replace(item, notes=()) for item in comparison.results)
    return replace(comparison, facts={}, results=results)


def _prose(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _seconds(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:-1]) + f" or {values[-1]:g} s"


def _words(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())


def main() -> None:
    """Print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--seeds",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        metavar="A,B",
        help=f"seeds of the traces. Default: {','.join(map(str, suite.SEEDS))}",
    )
    parser.add_argument(
        "--traces",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B",
        help=f"traces to replay, out of {', '.join(suite.TRACES)}. Default: all",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the page to FILE, and its picture beside it",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="replay three traces with one seed; the default without --seeds, --traces and --write",
    )
    parser.add_argument("--jobs", type=int, default=2, help="number of processes. Default: 2")
    args = parser.parse_args()
    quick = args.quick or not (args.seeds or args.traces or args.write)
    seeds = args.seeds or (suite.SEEDS[:1] if quick else suite.SEEDS)
    names = args.traces or (suite.QUICK if quick else tuple(suite.TRACES))
    if unknown := sorted(set(names) - set(suite.TRACES)):
        parser.error(f"--traces: no {', '.join(unknown)}; there are {', '.join(suite.TRACES)}")
    cases = suite.measure_all([(name, seed) for name in names for seed in seeds], args.jobs)
    command = ".venv/bin/python -P bench/decision_quality.py"
    if args.seeds:
        command += f" --seeds {','.join(map(str, args.seeds))}"
    if args.traces:
        command += f" --traces {','.join(args.traces)}"
    if args.write is None:
        print(page(cases, command, None))
        return
    picture = args.write.with_suffix(".png")
    decision_plot.draw(cases, picture)
    command += f" --write {args.write}"
    args.write.write_text(page(cases, command, picture.name), encoding="utf-8")


if __name__ == "__main__":
    main()
