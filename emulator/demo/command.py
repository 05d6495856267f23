"""`variant-adapter demo`: the whole control loop on one machine, with emulated vLLM servers, load and HPA."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adapter import errors
from adapter.commands import flags

if TYPE_CHECKING:
    from emulator.load import Phase


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Runs emulated vLLM servers, load, adapter and HPA on this machine: the load of one model rises until"
        " a second replica is needed, then stops. All times are scenario seconds."
    )
    command.add_argument(
        "--duration",
        type=flags.seconds,
        metavar="DURATION",
        help="Scenario seconds to run. Default the length of --schedule, else 600",
    )
    command.add_argument(
        "--speed",
        type=speed,
        metavar="FACTOR",
        default=5.0,
        help="Scenario seconds per real second, above 0 and at most 50. Default 5",
    )
    command.add_argument(
        "--schedule",
        type=schedule,
        metavar="JSON",
        help="Load as '[[seconds, requests per minute], ...]'. Default 20, 60 and 0 requests per minute for"
        " 15, 45 and 40 %% of the duration",
    )
    command.add_argument(
        "--arrivals",
        **flags.choice("uniform", "poisson"),
        default="uniform",
        help="Distribution of arrivals. Default uniform",
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="Seed of poisson arrivals. Default 0"
    )
    command.add_argument(
        "--no-tui", action="store_true", help="Print lines instead of the live view"
    )
    command.add_argument(
        "--out",
        type=flags.path,
        default=Path("demo-out"),
        metavar="DIR",
        help="Folder for timeline.csv, timeline.png and replay.html. Default demo-out",
    )
    command.add_argument(
        "--replay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Compare scaling policies in virtual time at the end, and write replay.html. Default on",
    )
    command.add_argument(
        "--port",
        type=flags.port,
        metavar="PORT",
        default=0,
        help="Port of the adapter; 0 picks a free one. Default 0",
    )
    command.set_defaults(run=run)


def speed(text: str) -> float:
    """Parse a speed factor for argparse."""
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor <= 50:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 50, not {text!r}")
    return factor


def schedule(text: str) -> tuple[Phase, ...]:
    """Parse a load schedule for argparse."""
    from emulator import load  # noqa: PLC0415 - see `run`

    try:
        return load.parse_schedule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Run the demo until its end or Ctrl-C, then print and write the timeline."""
    # The adapter and the emulator, which `--help` does not need, here and above.
    import asyncio  # noqa: PLC0415
    import shutil  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from adapter import logs  # noqa: PLC0415
    from emulator.demo import comparison, scenario  # noqa: PLC0415
    from emulator.demo.session import Demo  # noqa: PLC0415

    console = Console()
    # Log lines would break the live table, whose last column shows the reason instead.
    plain = args.no_tui or not console.is_terminal
    logs.configure("text", quiet=not plain)
    phases = args.schedule
    duration = args.duration
    if phases is None:
        duration = duration or 600.0
        phases = scenario.default_phases(duration)
    duration = duration or sum(phase.duration_seconds for phase in phases)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.StartupError(
            f"--out {args.out}: {error.strerror}; name a folder that can be written"
        ) from error
    work = Path(tempfile.mkdtemp(prefix="variant-adapter-demo-"))
    demo = Demo(args=args, phases=phases, duration=duration, work=work, console=console)
    try:
        asyncio.run(demo.run())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    demo.report()
    if args.replay and not demo.interrupted:
        logs.configure("text", quiet=True)
        comparison.show(comparison.replay(console), console, args.out / "replay.html")
    return 0
