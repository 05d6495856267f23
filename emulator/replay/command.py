"""`variant-adapter replay`: traffic replayed in virtual time, policies side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from adapter import errors, logs
from emulator.replay import compare, progress, report, scenario, tables


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Replays traffic in virtual time on emulated vLLM replicas with start-up delays, GPU"
        " pools and HPAs, once for each policy: how many requests are within their targets, and at what cost."
        " The same inputs give the same output, to the last bit."
    )
    command.add_argument(
        "--trace",
        type=Path,
        help="Azure LLM inference CSV, BurstGPT CSV, Mooncake JSONL, or YAML of a generator",
    )
    command.add_argument(
        "--scenario", type=Path, required=True, help="YAML: models, variants, GPUs"
    )
    command.add_argument(
        "--policies",
        type=lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
        default=compare.POLICIES,
        metavar="A,B",
        help=f"of {', '.join(compare.POLICIES)} (all)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a report to look at")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay and print."""
    # Every decision of hours would be logged.
    logs.configure("text", quiet=True)
    unknown = sorted(set(args.policies) - set(compare.POLICIES))
    if unknown:
        known = ", ".join(compare.POLICIES)
        raise errors.UsageError(f"--policies: no {', '.join(unknown)}; there are {known}")
    found = scenario.read(args.scenario)
    traffic = scenario.traffic(found, args.trace, base=args.scenario.parent)
    # To stderr, so that what is printed can be piped.
    with progress.shown(Console(stderr=True), quiet=args.quiet) as tell:
        comparison = compare.compare(found, traffic, args.policies, progress=tell)
    if args.html is not None:
        try:
            args.html.write_text(report.html(comparison), encoding="utf-8")
        except OSError as error:
            raise errors.UsageError(f"--html {args.html}: {error.strerror}") from error
    if args.json:
        print(json.dumps(tables.document(comparison), indent=2, allow_nan=False))
    else:
        out = Console()
        out.width = max(out.width, tables.WIDTH)
        out.print(tables.table(comparison))
        if args.html is not None:
            print(f"written: {args.html}")
    return 0
