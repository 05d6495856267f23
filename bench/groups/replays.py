"""Groups on public traces: the loop, each variant alone, and what foresight is worth, side by side.

    python -P bench/groups/replays.py --traces DIR [--part first|second] [--no-bounds | --seeds N]

A100, H100 and L40S of one model behind one gateway, by manifests/samples/replay/groups.yaml with two
replicas of each. Constants of the loop were chosen on the first halves of the traces; the second
halves are what counts. The fourth row loses all H100 in the middle; the load of the fifth comes and goes.
Mooncake's timestamps are multiples of 3 s, so that 11 requests come at once and none in between. The last row
has these requests within the 3 s, at random.

Requests and costs count after the warm-up of 240 s, in which the loop gets to know the demand. The timetable
knows the traffic, starts replicas ahead of it and holds whole ones. It keeps 99 % at least, and in a second
search what the group kept. What the group costs more than that has two factors: foresight, which a policy
without it pays too though it knows the engines (`reactive.py`), and what the loop pays more than that one.
`--no-bounds` leaves these searches out: they take most of the time.

`--seeds N` replays each row N times, with other requests repeated at other times where the rate is scaled,
and others within the 3 s: the mean difference of what the group and the variants alone keep, in percentage
points, with its 95 % interval by Student's t. Rows with nothing random in them are left out.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import yaml

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from bench.groups import reactive  # noqa: E402
from emulator import trace_folder  # noqa: E402
from emulator.replay import clairvoyant, compare  # noqa: E402
from emulator.replay import scenario as scenarios  # noqa: E402
from emulator.replay.results import PolicyResult  # noqa: E402
from emulator.replay.running import Run  # noqa: E402
from emulator.replay.scenario import OfferedTraffic  # noqa: E402
from emulator.trace_selection import Selection  # noqa: E402

POLICIES = ("ours", "per-variant")
BOUNDS = ("timetable %", "cents", "as much %", "cents", "no foresight %", "cents")
COMPARED = ("over", "over, as much", "foresight", "loop")
MOST_FACTOR = 3.0
"""Largest factor on the model's number of replicas for the timetable."""


class Row(NamedTuple):
    """One row: part of a trace with SLO targets in ms.

    `gone`: minute of that part at which all H100 go. `rounded`: seconds to whose multiples the trace's
    arrivals are rounded down; they are placed within these at random.
    """

    trace: str
    scale: float
    ttft: float
    itl: float
    minutes: float
    gone: float | None = None
    rounded: float = 0.0


ROWS = (
    Row("azure_conv", 2.0, 1000.0, 50.0, 57.0),
    Row("azure_conv", 6.0, 1000.0, 50.0, 57.0),
    Row("mooncake_conversation", 1.0, 15000.0, 200.0, 57.0),
    Row("azure_conv", 2.0, 1000.0, 50.0, 57.0, gone=12.0),
    Row("azure_code", 6.0, 2000.0, 100.0, 57.0),
    Row("mooncake_conversation", 1.0, 15000.0, 200.0, 57.0, rounded=3.0),
)


def given(row: Row) -> scenarios.Scenario:
    """The sample with the row's targets."""
    path = ROOT / "manifests/samples/replay/groups.yaml"
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["models"][0]["slo"] = {"ttft": row.ttft, "itl": row.itl}
    document["warmUp"] = 240
    for variant in document["variants"]:
        variant |= {"replicas": 2, "maxReplicas": 60}
        if row.gone is not None and variant["accelerator"] == "H100":
            variant["unschedulable"] = {"from": 60.0 * row.gone, "evict": True}
    return scenarios.Scenario.model_validate(document)


def spread(traffic: OfferedTraffic, seconds: float, *, seed: int = 1) -> OfferedTraffic:
    """The traffic with each request up to so many seconds later, at random."""
    trace, rng = traffic.trace, np.random.default_rng(seed)
    later = trace.arrival_seconds + rng.uniform(0.0, seconds, len(trace.arrival_seconds))
    arrivals = np.minimum(later, trace.duration_seconds)
    order = np.argsort(arrivals, kind="stable")
    return replace(
        traffic,
        trace=replace(
            trace,
            arrival_seconds=arrivals[order],
            input_tokens=trace.input_tokens[order],
            output_tokens=trace.output_tokens[order],
            lines=None,
        ),
    )


SEEDS = (2, 12)
"""Least and largest number of seeds."""

STUDENT = dict(
    enumerate((12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201), 2)
)
"""Two-sided 95 % quantiles of Student's t by the number of values."""


class Costs(NamedTuple):
    """Share of requests within their targets, and cents after the warm-up."""

    within: float
    cents: float


NOTHING = Costs(math.nan, math.nan)
"""Of a search without a result."""


def counted(result: PolicyResult, warm_up: float) -> Costs:
    """What counts of a result."""
    before = sum(
        float(np.interp(warm_up, curves.seconds, curves.cost_cents))
        for curves in result.curves.values()
    )
    return Costs(result.within, result.cost_cents - before)


def offered(
    row: Row, folder: Path, part: str, seed: int = 0
) -> tuple[scenarios.Scenario, dict[str, OfferedTraffic]]:
    """Scenario and traffic of a row; `seed` 0 is that of the table."""
    half = 30.0 * row.minutes
    start = 0.0 if part == "first" else half
    scenario = given(row)
    traffic = scenarios.traffic(
        scenario,
        trace_folder.find(Path(row.trace), folder),
        base=folder,
        selection=Selection(scale=row.scale, start=start, end=start + half, seed=seed),
    )
    if row.rounded:
        traffic = {
            model: spread(item, row.rounded, seed=seed or 1) for model, item in traffic.items()
        }
    return scenario, dict(traffic)


def repeated(row: Row, folder: Path, part: str, seeds: int) -> str:
    """What the group keeps more than the variants alone, over some seeds."""
    lost: list[tuple[float, float]] = []
    cents = np.zeros(2)
    for seed in range(1, seeds + 1):
        scenario, traffic = offered(row, folder, part, seed)
        results = compare.compare(scenario, traffic, POLICIES, jobs=1).results
        costs = [counted(result, scenario.warm_up) for result in results]
        lost.append((1 - costs[0].within, 1 - costs[1].within))
        cents += [item.cents for item in costs]
    more = 100 * np.array([group - alone for group, alone in lost])
    means = 100 * np.mean(lost, axis=0)
    interval = STUDENT[seeds] * float(np.std(more, ddof=1)) / math.sqrt(seeds)
    return (
        f"missed {means[0]:.3f} and {means[1]:.3f} %, {more.mean():+.3f} points +- {interval:.3f};"
        f" {cents[0] / seeds:.0f} and {cents[1] / seeds:.0f} cents, {1 - cents[0] / cents[1]:.0%} saved"
    )


def replayed(row: Row, folder: Path, part: str, *, bounds: bool) -> list[Costs]:
    """The group, each variant alone, timetables for 99 % and as much as the group, and without foresight.

    Without bounds the first two only.
    """
    scenario, traffic = offered(row, folder, part)
    results = list(compare.compare(scenario, traffic, POLICIES, jobs=1).results)
    if not bounds:
        return [counted(result, scenario.warm_up) for result in results]
    known = Run(
        scenario=scenario,
        traffic={model: item.trace for model, item in traffic.items()},
        steps={model: item.steps for model, item in traffic.items()},
    )
    for within in (clairvoyant.WITHIN_TARGET, results[0].within):
        bound, _ = clairvoyant.search(
            known, lambda _: lambda _: None, within=within, most=MOST_FACTOR
        )
        results.append(bound)
    known_past = reactive.search(
        known, results[0].within, lambda result: counted(result, scenario.warm_up).cents
    )
    costs = [counted(result, scenario.warm_up) for result in results]
    return [*costs, counted(known_past, scenario.warm_up) if known_past else NOTHING]


def named(row: Row) -> str:
    """What the first column says."""
    return (
        f"{row.trace} x {row.scale:g}"
        + (", H100 gone" if row.gone is not None else "")
        + (", not rounded" if row.rounded else "")
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", default=os.environ.get("VARIANT_ADAPTER_TRACES", ""))
    parser.add_argument("--part", choices=("first", "second"), default="second")
    parser.add_argument("--row", type=int, help="only this row, from 0")
    parser.add_argument(
        "--no-bounds", action="store_true", help="the group and each variant alone, nothing else"
    )
    parser.add_argument("--seeds", type=int, choices=range(SEEDS[0], SEEDS[1] + 1))
    given_ = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows = ROWS if given_.row is None else ROWS[given_.row : given_.row + 1]
    if given_.seeds:
        for row in rows:
            if row.scale != 1 or row.rounded:
                print(named(row), repeated(row, Path(given_.traces), given_.part, given_.seeds))
        return
    bounds = not given_.no_bounds
    names = (
        "traffic",
        "group %",
        "cents",
        "alone %",
        "cents",
        *(BOUNDS if bounds else ()),
        "saved",
    )
    names += COMPARED if bounds else ()
    print("| " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * (len(names) - 1))
    for row in rows:
        results = replayed(row, Path(given_.traces), given_.part, bounds=bounds)
        ours, alone = results[:2]
        cells = [named(row)]
        for each in results:
            cells += [f"{100 * each.within:.2f}", f"{each.cents:.0f}"]
        cells.append(f"{1 - ours.cents / alone.cents:.0%}")
        if bounds:
            bound, as_much, past = results[2:]
            cells += [
                f"{more / less - 1:.0%}"
                for more, less in (
                    (ours.cents, bound.cents),
                    (ours.cents, as_much.cents),
                    (past.cents, as_much.cents),
                    (ours.cents, past.cents),
                )
            ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
