"""Groups on public traces: the loop, each variant alone, and a clairvoyant timetable, side by side.

    python -P bench/groups/replays.py --traces DIR [--part first|second]

A100, H100 and L40S of one model behind one gateway, by manifests/samples/replay/groups.yaml with two
replicas of each. Constants of the loop were chosen on the first halves of the traces; the second
halves are what counts. The last row loses all H100 in the middle.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import yaml

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from emulator import trace_folder  # noqa: E402
from emulator.replay import compare  # noqa: E402
from emulator.replay import scenario as scenarios  # noqa: E402
from emulator.replay.results import PolicyResult  # noqa: E402
from emulator.trace_selection import Selection  # noqa: E402

POLICIES = ("ours", "per-variant", "clairvoyant")


class Row(NamedTuple):
    """One row: part of a trace with SLO targets in ms; `gone`: minute of that part at which all H100 go."""

    trace: str
    scale: float
    ttft: float
    itl: float
    minutes: float
    gone: float | None = None


ROWS = (
    Row("azure_conv", 2.0, 1000.0, 50.0, 57.0),
    Row("azure_conv", 6.0, 1000.0, 50.0, 57.0),
    Row("mooncake_conversation", 1.0, 15000.0, 200.0, 57.0),
    Row("azure_conv", 2.0, 1000.0, 50.0, 57.0, gone=12.0),
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


def replayed(row: Row, folder: Path, part: str) -> list[PolicyResult]:
    """Results of the three policies on one half of the trace."""
    half = 30.0 * row.minutes
    start = 0.0 if part == "first" else half
    scenario = given(row)
    traffic = scenarios.traffic(
        scenario,
        trace_folder.find(Path(row.trace), folder),
        base=folder,
        selection=Selection(scale=row.scale, start=start, end=start + half),
    )
    return list(compare.compare(scenario, traffic, POLICIES, jobs=1).results)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", default=os.environ.get("VARIANT_ADAPTER_TRACES", ""))
    parser.add_argument("--part", choices=("first", "second"), default="second")
    given_ = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    names = (
        "traffic",
        "group %",
        "cents",
        "alone %",
        "cents",
        "clairvoyant %",
        "cents",
        "saved",
        "over",
    )
    print("| " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * (len(names) - 1))
    for row in ROWS:
        ours, alone, bound = replayed(row, Path(given_.traces), given_.part)
        cells = [f"{row.trace} x {row.scale:g}" + (", H100 gone" if row.gone is not None else "")]
        for each in (ours, alone, bound):
            cells += [f"{100 * each.within:.2f}", f"{each.cost_cents:.0f}"]
        cells.append(f"{1 - ours.cost_cents / alone.cost_cents:.0%}")
        cells.append(f"{ours.cost_cents / bound.cost_cents - 1:.0%}")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
