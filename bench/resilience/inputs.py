"""Faulty inputs of every kind, each at one pod and at all: one table; exit status 1 where a target moved.

Each input of the pages of vLLM, SGLang, TGI, Triton and of an endpoint picker (absent, NaN, negative, stale,
reset, jumps, wrong unit), whole pages (restart, hung, no answer, two processes behind one address) and their
form (units, other models, caches, clocks), read from the pods and from Prometheus, in virtual time. The load
stays the same, so the target must.

    python -P bench/resilience/inputs.py
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).parents[2]))

from emulator.demo import scenario
from tests.adapter.controller import chaos_faults as faults
from tests.adapter.controller import chaos_forms as forms
from tests.adapter.controller import chaos_matrix as chaos
from tests.adapter.controller import chaos_pickers as pickers

ORIGINS: tuple[chaos.Origin, ...] = ("direct", "prometheus")


async def outcomes() -> dict[chaos.Origin, list[chaos.Outcome]]:
    """Outcomes of all cases by source."""
    with tempfile.TemporaryDirectory() as name:
        objects = Path(name) / "objects"
        scenario.write_objects(objects)
        return {
            origin: await chaos.matrix(
                objects, origin, [*faults.cases(), *forms.cases(), *pickers.cases()]
            )
            for origin in ORIGINS
        }


def main() -> None:
    """Run the matrix and print it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    by_origin = asyncio.run(outcomes())
    print(
        f"{'fault, input, where':<60} {'right':>6}  " + "  ".join(f"{name:>10}" for name in ORIGINS)
    )
    moved = 0
    for rows in zip(*by_origin.values(), strict=True):
        cells = [
            str(item.least) if item.least == item.most else f"{item.least} to {item.most}"
            for item in rows
        ]
        moved += sum(not item.holds for item in rows)
        shown = "  ".join(f"{cell:>10}" for cell in cells)
        print(f"{rows[0].case.name:<60} {rows[0].shown:>6}  {shown}")
    print(f"{sum(map(len, by_origin.values()))} cases, {moved} targets moved")
    if moved:
        sys.exit(1)


if __name__ == "__main__":
    main()
