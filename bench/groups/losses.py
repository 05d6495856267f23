"""What the loss of one variant costs a group: requests that miss, beside those of one cycle and one start-up.

    python -P bench/groups/losses.py --traces DIR [--part first|second] [--minute 12] [--scale 2] [--seed N]

A group on azure_conv loses all its H100 in that minute, and none comes back. A loop that sees it one cycle
later has other replicas after one start-up more; whatever the group had put on the lost replicas misses until
then, which is all of its requests where nothing else serves. The second replay keeps its H100.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import structlog

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from bench.groups import replays  # noqa: E402
from emulator.replay import compare  # noqa: E402


def lost(row: replays.Row, gone: float, folder: Path, part: str, seed: int) -> str:
    """What is missed and paid with the loss and without, and what comes in one cycle and one start-up.

    Args:
        row: Traffic and targets.
        gone: Minute of the loss.
        folder: Folder of the trace.
        part: Half of the trace, first or second.
        seed: Seed of the requests that are repeated; 0 for that of the table.

    """
    missed, cents = [], []
    for each in (row._replace(gone=gone), row):
        scenario, traffic = replays.offered(each, folder, part, seed)
        result = compare.compare(scenario, traffic, ("ours",), jobs=1).results[0]
        missed.append(round(sum(item.requests * (1 - item.within) for item in result.classes)))
        cents.append(replays.counted(result, scenario.warm_up).cents)
    startup = max(item.startup_time.p95 for item in scenario.variants)
    seconds = scenario.loop.interval + startup
    (arrivals,) = (item.trace.arrival_seconds for item in traffic.values())
    first, end = np.searchsorted(arrivals, [60.0 * gone, 60.0 * gone + seconds])
    return (
        f"missed {missed[0]}, without the loss {missed[1]}: {missed[0] - missed[1]} more; {end - first} came"
        f" within {seconds:.0f} s of it; {cents[0]:.0f} and {cents[1]:.0f} cents"
    )


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", default=os.environ.get("VARIANT_ADAPTER_TRACES", ""))
    parser.add_argument("--part", choices=("first", "second"), default="second")
    parser.add_argument("--minute", type=float, default=12.0)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    row = replays.ROWS[0]._replace(scale=given.scale)
    text = lost(row, given.minute, Path(given.traces), given.part, given.seed)
    print(f"azure_conv x {given.scale:g}, {given.part} half, minute {given.minute:g}: {text}")


if __name__ == "__main__":
    main()
