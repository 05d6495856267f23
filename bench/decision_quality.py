"""Policies side by side over a suite of traffic whose seeds were not used for tuning, against our targets.

    .venv/bin/python -P bench/decision_quality.py --write docs/decision-quality.md

makes the page and its picture. A plain run is `--quick`: one seed, three traces. Each replay is
`variant-adapter replay` with manifests/samples/replay/scenario.yaml and one of `TRACES`.

What a target leaves open is compared with the best that is possible without foresight: a timetable made from
the true rate around each moment, but carried out only at that moment (see `Unforeseen`).
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import statistics
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from adapter.formats import plots as pictures  # noqa: E402 - the clone is what is measured
from emulator import traces  # noqa: E402
from emulator.replay import clairvoyant, comparing, plots, report, scenario, tables  # noqa: E402
from emulator.replay.policies import Scheduled  # noqa: E402
from emulator.replay.results import Outcome, Replayed  # noqa: E402
from emulator.replay.running import DRAIN_SECONDS, Run, run  # noqa: E402
from emulator.replay.scenario import Scenario, Traffic  # noqa: E402

SCENARIO = ROOT / "manifests/samples/replay/scenario.yaml"
WARM_UP_SECONDS = 300.0
SEEDS = (101, 102)
"""Held out: nothing was tuned on them."""
_TOKENS = {
    "input": {"mean": 128, "cv": 0.8, "max": 2048},
    "output": {"mean": 178, "cv": 0.6, "max": 1024},
}
TRACES: Mapping[str, Mapping[str, Any]] = {
    "poisson": {"kind": "poisson", "duration_seconds": 1800, "rate_rpm": 300},
    "gamma": {"kind": "gamma", "cv": 2.5, "duration_seconds": 1800, "rate_rpm": 300},
    "ramp": {"kind": "ramp", "duration_seconds": 2400, "from_rpm": 100, "to_rpm": 900},
    "diurnal": {
        "kind": "diurnal", "duration_seconds": 3600, "mean_rpm": 600, "amplitude": 0.7,
        "period_seconds": 3600, "noise": 0.1,
    },
    "mmpp": {"kind": "mmpp", "duration_seconds": 3600, "states": [[300, 200], [200, 500]]},
    "step-3x": {"kind": "step", "levels": [[900, 200], [900, 600], [900, 200]]},
    "flash-crowd": {
        "kind": "flash-crowd", "duration_seconds": 2400, "base_rpm": 200, "peak_rpm": 800,
        "start_seconds": 900, "rise_seconds": 60, "hold_seconds": 300, "fall_seconds": 120,
    },
}  # fmt: skip
QUICK = ("poisson", "gamma", "step-3x")

OURS, RIVAL = "ours", "hpa-queue"
GOAL = f"{tables.GOAL * 100:g} %"
COST_LIMIT = 1.15
"""Times the clairvoyant's cost."""
PASSES = 2
"""Beyond a replica's start-up, in which a step must be over."""

SPARE = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.1, 2.5)
"""Factors on the model's number of replicas that are tried without foresight."""
HOLD_SECONDS = (0.0, 120.0, 300.0)
"""For which replicas are kept that are no longer needed; all are tried."""
TIMETABLES = len(SPARE) * len(HOLD_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unforeseen:
    """The best of many timetables that know the true rate of each moment, but not the next one's.

    Replicas for a moment's rate, times a constant factor, are asked for at that moment and start after it.
    The rate is that of the 75 s around the moment, which is even in their favour.

    Attributes:
        within: largest share of requests within their targets for at most `COST_LIMIT` times the bound.
        cost: least cost, over the bound's, with enough requests within their targets; inf: none has.

    """

    within: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One trace with one seed."""

    trace: str
    seed: int
    replayed: Replayed
    unforeseen: Unforeseen

    def of(self, policy: str) -> Outcome:
        return next(item for item in self.replayed.outcomes if item.policy == policy)

    @property
    def cost(self) -> float:
        """Ours over the bound's."""
        return self.replayed.cost_ratio(self.of(OURS)) or math.nan

    @property
    def reachable(self) -> bool:
        """Whether both targets can be met together without foresight."""
        return self.unforeseen.within >= tables.GOAL

    def __str__(self) -> str:
        return f"{self.trace} {self.seed}"


def events(outcome: Outcome) -> int:
    return outcome.scale_ups + outcome.scale_downs


def the_scenario() -> Scenario:
    """The sample, with a warm-up for long traces."""
    return scenario.read(SCENARIO).model_copy(update={"warm_up": WARM_UP_SECONDS})


def spec(trace: str, seed: int) -> dict[str, Any]:
    return {**TRACES[trace], "name": f"{trace}, seed {seed}", "seed": seed, "tokens": _TOKENS}


def measure(what: tuple[str, int]) -> Case:
    """Replay one trace with one seed."""
    # The control loop logs its decisions.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    trace, seed = what
    found, given = the_scenario(), spec(trace, seed)
    model = found.models[0].model
    traffic = Traffic(trace=traces.generate(given), steps=tuple(scenario.steps(given)))
    replayed = comparing.compare(found, {model: traffic})
    bound = replayed.bound
    if bound is None:
        raise AssertionError
    # Curves are not shown here, and heavy.
    outcomes = tuple(replace(item, curves={}) for item in replayed.outcomes)
    return Case(
        trace=trace,
        seed=seed,
        replayed=replace(replayed, outcomes=outcomes),
        unforeseen=_without_foresight(
            Run(scenario=found, traffic={model: traffic.trace}, steps={}), bound.cost_cents
        ),
    )


def _without_foresight(given: Run, bound_cents: float) -> Unforeseen:
    # A timetable for replicas that start at once asks for them when they are needed, not before.
    at_once = tuple(item.model_copy(update={"startup": 0.0}) for item in given.scenario.variants)
    eager = replace(given, scenario=given.scenario.model_copy(update={"variants": at_once}))
    capacity = clairvoyant.rates_of_one(given.scenario, given.traffic)
    within, cost = 0.0, math.inf
    for hold in HOLD_SECONDS:
        for factor in SPARE:
            entries = {
                name: _held(table, hold)
                for name, table in clairvoyant.timetables(eager, capacity, factor).items()
            }
            outcome = run(given, lambda world, entries=entries: Scheduled(world, entries))  # type: ignore[misc]
            ratio = outcome.cost_cents / bound_cents
            if ratio <= COST_LIMIT:
                within = max(within, outcome.within)
            if outcome.within >= tables.GOAL:
                cost = min(cost, ratio)
                if ratio > COST_LIMIT:
                    break  # more only costs more
    return Unforeseen(within=within, cost=cost)


def _held(table: Sequence[tuple[float, int]], hold: float) -> list[tuple[float, int]]:
    """The timetable with every number kept for a while after it is over."""
    ends = [at for at, _ in table[1:]] + [math.inf]
    times = sorted({at for at, _ in table} | {end + hold for end in ends if end < math.inf})
    found: list[tuple[float, int]] = []
    for at in times:
        numbers = [
            number
            for (start, number), end in zip(table, ends, strict=True)
            if start <= at < end + hold
        ]
        if not found or found[-1][1] != max(numbers):
            found.append((at, max(numbers)))
    return found


def measured(wanted: Sequence[tuple[str, int]], jobs: int) -> list[Case]:
    """All of them, in that order, with a line to stderr for each."""
    found = []
    for number, case in enumerate(_each(wanted, jobs), start=1):
        print(f"{number}/{len(wanted)} {case}", file=sys.stderr, flush=True)
        found.append(case)
    return found


def _each(wanted: Sequence[tuple[str, int]], jobs: int) -> Iterator[Case]:
    if jobs == 1:
        yield from map(measure, wanted)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(measure, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One line of the table of targets; `met` is None where there was nothing to measure."""

    target: str
    measured: str
    met: bool | None
    why: Sequence[str] = ()


_VERDICTS = {True: "met", False: "**missed**", None: tables.NONE}


def verdicts(cases: Sequence[Case]) -> list[Verdict]:
    """What became of each target."""
    return [_service(cases), _price(cases), _steadiness(cases), _recovery(cases)]


def _service(cases: Sequence[Case]) -> Verdict:
    good = [case for case in cases if case.of(OURS).within >= tables.GOAL]
    missed = [case for case in cases if case not in good]
    worst = min(cases, key=lambda case: case.of(OURS).within)
    return Verdict(
        target=f"at least {GOAL} of requests within the SLO",
        measured=(
            f"{len(good)} of {len(cases)} replays; worst {tables.percent(worst.of(OURS).within)}"
            f" ({worst})"
        ),
        met=not missed,
        why=[_why_late(case) for case in missed],
    )


def _why_late(case: Case) -> str:
    head = f"{case}: {tables.percent(case.of(OURS).within)} at {tables.ratio(case.cost)}"
    best = case.unforeseen
    if case.reachable:
        return (
            f"{head}. Within reach: without foresight {tables.percent(best.within)} at up to"
            f" {tables.ratio(COST_LIMIT)}, if every moment's true rate is known."
        )
    end = (
        f"{GOAL} takes {tables.ratio(best.cost)}"
        if math.isfinite(best.cost)
        else f"{GOAL} is not reached with {max(SPARE):g} times the replicas"
    )
    return (
        f"{head}. Not without foresight: the best of {TIMETABLES} timetables by each moment's true rate"
        f" keeps {tables.percent(best.within)} at up to {tables.ratio(COST_LIMIT)}; {end}."
    )


def _price(cases: Sequence[Case]) -> Verdict:
    good = [case for case in cases if case.of(OURS).within >= tables.GOAL]
    dear = [case for case in good if case.cost > COST_LIMIT]
    middle = statistics.median(case.cost for case in good) if good else math.nan
    return Verdict(
        target=f"there, at most {tables.ratio(COST_LIMIT)} the clairvoyant's cost",
        measured=(
            f"{len(good) - len(dear)} of {len(good)} replays; median {tables.ratio(middle)}, worst"
            f" {tables.ratio(max((case.cost for case in good), default=math.nan))}"
        ),
        met=not dear if good else None,
        why=[
            f"{case}: {tables.ratio(case.cost)} for {tables.percent(case.of(OURS).within)}, on average"
            f" {_gpus(case, OURS) - _gpus(case, 'clairvoyant'):.1f} GPUs above the bound's"
            f" {_gpus(case, 'clairvoyant'):.1f}. The rate has to be told from noisy counts; who knows each"
            f" moment's true rate needs {tables.ratio(case.unforeseen.cost)} for {GOAL}."
            for case in dear
        ],
    )


def _gpus(case: Case, policy: str) -> float:
    """Held on average."""
    hours = (case.replayed.duration_seconds + DRAIN_SECONDS) / 3600
    return case.of(policy).gpu_hours / hours


def _steadiness(cases: Sequence[Case]) -> Verdict:
    ours, rival = (sum(events(case.of(name)) for case in cases) for name in (OURS, RIVAL))
    bound = sum(events(case.of("clairvoyant")) for case in cases)
    more = [case for case in cases if events(case.of(OURS)) >= events(case.of(RIVAL))]
    return Verdict(
        target="fewer scale events than the HPA on queue length",
        measured=(
            f"{ours} to its {rival}, the clairvoyant's {bound}; fewer in {len(cases) - len(more)} of"
            f" {len(cases)} replays"
        ),
        met=ours < rival and not more,
        why=[
            f"{case}: {events(case.of(OURS))} to {events(case.of(RIVAL))}; the HPA keeps"
            f" {tables.percent(case.of(RIVAL).within)} within the SLO at"
            f" {tables.ratio(case.replayed.cost_ratio(case.of(RIVAL)))}, and the clairvoyant changes"
            f" {events(case.of('clairvoyant'))} times."
            for case in more
        ],
    )


def _recovery(cases: Sequence[Case]) -> Verdict:
    found = the_scenario()
    limit = max(item.startup for item in found.variants) + PASSES * found.loop.interval
    times = [(case, item) for case in cases for item in case.of(OURS).recovery_seconds]
    # Written so that NaN, which is never, is late.
    late = [(case, item) for case, item in times if not item <= limit]
    return Verdict(
        target=f"over a step of 3 times in at most start-up + {PASSES} passes, {limit:g} s",
        measured=f"median / worst of {len(times)}: {tables.recovery(item for _, item in times)}",
        met=not late if times else None,
        why=[
            f"{case}: {'never' if math.isnan(item) else f'{item:.0f} s'}; the clairvoyant, who is early,"
            f" {tables.recovery(case.of('clairvoyant').recovery_seconds)}."
            for case, item in late
        ],
    )


def targets_table(found: Iterable[Verdict]) -> str:
    lines = ["| target | measured | |", "| --- | --- | --- |"]
    whys = []
    for item in found:
        lines.append(f"| {item.target} | {item.measured} | {_VERDICTS[item.met]} |")
        if item.why:
            whys += [
                "",
                f"Missed, {item.target}:",
                "",
                *(f"- {sentence}" for sentence in item.why),
            ]
    return "\n".join([*lines, *whys])


def cases_table(cases: Sequence[Case]) -> str:
    """Ours on each replay beside what is possible without foresight."""
    heads = (
        "replay", "ours within", "cost", f"without foresight, up to {tables.ratio(COST_LIMIT)}",
        f"cost of {GOAL} without foresight", f"scale events, ours / {RIVAL}", "recovery",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    for case in cases:
        ours = case.of(OURS)
        cells = (
            str(case), tables.percent(ours.within), tables.ratio(case.cost),
            tables.percent(case.unforeseen.within), tables.ratio(case.unforeseen.cost),
            f"{events(ours)} / {events(case.of(RIVAL))}", tables.recovery(ours.recovery_seconds),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(cases: Sequence[Case], command: str, picture: str | None) -> str:
    """The whole of it, in Markdown."""
    seeds = ", ".join(dict.fromkeys(str(case.seed) for case in cases))
    held_out = (
        ", held out: nothing was tuned on them" if {c.seed for c in cases} <= {*SEEDS} else ""
    )
    first = cases[0].replayed
    notes = dict.fromkeys(
        f"{outcome.title}: {note}" for outcome in first.outcomes for note in outcome.notes
    )
    plain = [
        replace(
            case.replayed,
            facts={},
            outcomes=tuple(replace(item, notes=()) for item in case.replayed.outcomes),
        )
        for case in cases
    ]
    models = ", ".join(
        f"{item.model}: TTFT {item.slo.ttft:g} ms, ITL {item.slo.itl:g} ms"
        for item in the_scenario().models
    )
    parts = [
        "# Decision quality",
        _prose(
            f"Generated by `{command}`; do not edit. Seeds {seeds}{held_out}."
            " What each policy makes of the same traffic, in virtual time on emulated replicas: requests"
            " within their SLO, and what that costs. The clairvoyant knows the traffic, and is as cheap as"
            f" {GOAL} within the SLO allow: the bound."
        ),
    ]
    if picture is not None:
        parts += [
            f"![Requests within the SLO over cost, by policy]({picture})",
            "Medians over all replays; the shaded corner is what is aimed at.",
        ]
    parts += [
        "## Targets",
        f"“Ours” is: {cases[0].of(OURS).title}.",
        targets_table(verdicts(cases)),
        "## Replay by replay",
        _prose(
            f"*Without foresight* is the best of {TIMETABLES} timetables by someone who knows the true rate"
            " of the 75 s around each moment, but asks for replicas only at that moment: for that rate"
            f" times {SPARE[0]:g} to {SPARE[-1]:g}, kept for {_seconds(HOLD_SECONDS)} after it has gone."
            " What it does not keep within the SLO comes while replicas start: that takes more spare"
            " capacity, or knowledge of the future."
        ),
        cases_table(cases),
        "## Scenario",
        _prose(
            f"[{SCENARIO.relative_to(ROOT)}](../{SCENARIO.relative_to(ROOT)}) with a warm-up of"
            f" {WARM_UP_SECONDS:g} s; {models}."
        ),
        "\n".join(
            [f"- {name}: {value}" for name, value in first.facts.items()]
            + [f"- {note}" for note in notes]
        ),
        f"Traffic, with lognormal tokens: {'; '.join(f'{n}, {_words(t)}' for n, t in _TOKENS.items())}.",
        "\n".join(
            f"- {name}: {_words(given)}"
            for name, given in TRACES.items()
            if name in {case.trace for case in cases}
        ),
        "## All policies",
        tables.markdown(plain),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _prose(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _seconds(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:-1]) + f" or {values[-1]:g} s"


def _words(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())


def draw(cases: Sequence[Case], path: Path) -> None:
    """Share within the SLO over cost, a point for each policy: medians over the suite."""
    first = cases[0].replayed
    names = plots.palette(first)
    colors = report._COLORS  # noqa: SLF001 - the picture looks like the report
    ink, muted, grid, good = (colors[name][0] for name in ("ink", "muted", "grid", "good"))
    figure = pictures.new_figure((8.0, 4.6))
    axes = figure.subplots()
    points = [
        (
            outcome.title,
            statistics.median(
                case.replayed.cost_ratio(case.of(outcome.policy)) or 0.0 for case in cases
            ),
            1.0 - statistics.median(case.of(outcome.policy).within for case in cases),
            colors[names[outcome.policy]][0],
            outcome is first.bound,
        )
        for outcome in first.outcomes
    ]
    right = max(cost for _, cost, _, _, _ in points)
    axes.set_yscale("symlog", linthresh=1e-3, linscale=0.5)
    axes.set_ylim(1.0, -2e-4)
    ticks = {1.0: "0 %", 0.5: "50 %", 0.1: "90 %", 0.01: "99 %", 0.001: "99.9 %", 0.0: "100 %"}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    left = min(0.9, *(cost for _, cost, _, _, _ in points)) - 0.05
    axes.set_xlim(left, right + 0.42 * (right - left))
    axes.grid(color=grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.fill_between(
        [left, COST_LIMIT], 1 - tables.GOAL, -2e-4, color=good, alpha=0.15, linewidth=0
    )
    for title, cost, missed, color, is_bound in points:
        axes.plot([cost], [missed], "D" if is_bound else "o", color=color, markersize=8, zorder=3)
        axes.annotate(title, (cost, missed), (9, _shift(missed, cost, points)), color=ink,
                      textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(muted)
    axes.tick_params(length=0, labelcolor=muted)
    axes.set_xlabel("cost over the clairvoyant's", color=muted)
    axes.set_title(
        f"requests within the SLO, medians over {len(cases)} replays",
        loc="left",
        color=ink,
        fontsize=10,
    )
    pictures.save(figure, path)


def _shift(
    missed: float, cost: float, points: Sequence[tuple[str, float, float, str, bool]]
) -> float:
    """Up or down, away from a point whose label would be in the way."""
    for _, other_cost, other, _, _ in points:
        near = abs(math.log((missed + 1e-3) / (other + 1e-3))) < 0.35 and (
            abs(other_cost - cost) < 1.0
        )
        if near and (other, other_cost) != (missed, cost):
            return 7.0 if (missed, cost) < (other, other_cost) else -7.0
    return 0.0


def main() -> None:
    """Print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--seeds",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        metavar="A,B",
        help=f"of the traces ({','.join(map(str, SEEDS))})",
    )
    parser.add_argument(
        "--traces",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B",
        help=f"of {', '.join(TRACES)} (all)",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page, and a picture")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed, three traces; the default without --seeds, --traces and --write",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    args = parser.parse_args()
    quick = args.quick or not (args.seeds or args.traces or args.write)
    seeds = args.seeds or (SEEDS[:1] if quick else SEEDS)
    names = args.traces or (QUICK if quick else tuple(TRACES))
    if unknown := sorted(set(names) - set(TRACES)):
        parser.error(f"--traces: no {', '.join(unknown)}; there are {', '.join(TRACES)}")
    cases = measured([(name, seed) for name in names for seed in seeds], args.jobs)
    command = ".venv/bin/python -P bench/decision_quality.py"
    if args.seeds:
        command += f" --seeds {','.join(map(str, args.seeds))}"
    if args.traces:
        command += f" --traces {','.join(args.traces)}"
    if args.write is None:
        print(page(cases, command, None))
        return
    picture = args.write.with_suffix(".png")
    draw(cases, picture)
    command += f" --write {args.write}"
    args.write.write_text(page(cases, command, picture.name), encoding="utf-8")


if __name__ == "__main__":
    main()
