"""`variant-adapter replay`: replay traffic in virtual time under several policies and compare them."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adapter import errors
from adapter.commands import flags
from adapter.formats import files
from emulator.replay import CURVE, DEFAULT, KNOWN

_PADDING = re.compile(r"[ ]+((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)
"""Blanks at the end of a line, before what ends its colours."""

if TYPE_CHECKING:
    from rich.console import Console

    from emulator.replay.results import Comparison
    from emulator.trace_selection import Selection


def _number(text: str) -> float:
    """Read a number; a factor out of range is the trace's to refuse."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number > 0, not {text!r}") from None


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Replays traffic in virtual time on emulated vLLM replicas with start-up delays, GPU pools and HPAs,"
        " once per scaling policy, and compares SLO attainment and cost. The same inputs give the same"
        " output, to the last bit."
    )
    _add_traffic(command)
    _add_policies(command)
    command.add_argument(
        "--out",
        type=flags.path,
        metavar="DIR",
        help="Folder that keeps the result of each finished policy: a comparison that was interrupted goes on"
        " where it stopped. Default none",
    )
    command.add_argument(
        "--jobs",
        type=flags.argument(_jobs),
        default=None,
        metavar="N",
        help="Number of processes. Default 2 where the work is worth it and there are cores, else 1",
    )
    command.add_argument("--json", action="store_true", help="Print JSON instead of a table")
    command.add_argument(
        "--html",
        type=flags.path,
        metavar="FILE",
        help="HTML report with plots to write. Default none",
    )
    command.add_argument("--quiet", action="store_true", help="Show no progress bar")
    command.set_defaults(run=run)


def _add_traffic(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trace",
        action=flags.Once,
        type=flags.path,
        metavar="FILE",
        help="Traffic of the first model: Azure LLM inference CSV, BurstGPT CSV, Mooncake or Qwen-Bailian"
        " JSONL, clients of ServeGen, or YAML of a generator; a path, or a name in the folder of --traces."
        " Default the trace that the scenario names",
    )
    command.add_argument(
        "--traces",
        type=flags.path,
        metavar="DIR",
        help="Folder of public traces, whose names --trace and the scenario may use. Default that of the"
        " environment variable VARIANT_ADAPTER_TRACES",
    )
    command.add_argument(
        "--trace-format",
        **flags.choice("azure", "burstgpt", "mooncake", "bailian"),
        help="Format of --trace, for a file that does not say it. Default the one of its fields",
    )
    command.add_argument(
        "--scenario",
        action=flags.Once,
        type=flags.path,
        required=True,
        metavar="FILE",
        help="YAML file with models, variants, GPUs and HPA settings. Required",
    )
    command.add_argument(
        "--scale",
        type=flags.argument(_number),
        default=1.0,
        metavar="X",
        help="Factor on the request rate of each trace: requests are left out or repeated, the time pattern"
        " stays. Default 1",
    )
    command.add_argument(
        "--from",
        dest="begin",
        type=flags.argument(_seconds),
        default=0.0,
        metavar="TIME",
        help="Beginning of the part of each trace that is replayed, such as 10m. Default that of the trace",
    )
    command.add_argument(
        "--to",
        dest="end",
        type=flags.argument(_seconds),
        default=math.inf,
        metavar="TIME",
        help="End of the part of each trace that is replayed, such as 40m. Default that of the trace",
    )


def _add_policies(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--policies",
        type=lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
        default=None,
        metavar="A,B",
        help=f"Policies to compare, where ours is this adapter, out of {KNOWN}. Default"
        f" {','.join(DEFAULT)}, with the adapter at the percentiles {', '.join(CURVE)}",
    )
    command.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="adapter.SETTING=A,B",
        help="Values of one of the adapter's settings, such as adapter.percentile=0.9,0.95,0.99: the"
        " adapter is replayed with each; several of these flags make a grid. Default none",
    )


def _jobs(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"must be >= 1, not {number}")
    return number


def _seconds(text: str) -> float:
    from emulator.replay.replicas import fields  # noqa: PLC0415 - see `run`

    return fields.seconds(text)


def _selection(args: argparse.Namespace) -> Selection:
    """The part of the traces that the flags select; UsageError for a wrong one."""
    from emulator.trace_selection import Selection  # noqa: PLC0415 - see `run`
    from emulator.traces import TraceError  # noqa: PLC0415

    try:
        return Selection(scale=args.scale, start=args.begin, end=args.end)
    except TraceError as error:
        field, _, problem = str(error).partition(": ")
        flag = "--scale" if field == "scale" else "--from, --to"
        raise errors.UsageError(f"{flag}: {problem}") from error


def _folder(args: argparse.Namespace) -> Path | None:
    """The folder of traces; UsageError for one that does not exist."""
    from emulator import trace_folder  # noqa: PLC0415 - see `run`
    from emulator.traces import TraceError  # noqa: PLC0415

    try:
        return trace_folder.folder_of(args.traces)
    except TraceError as error:
        raise errors.UsageError(str(error)) from error


@contextlib.contextmanager
def _how_to_resume(console: Console, out: Path | None) -> Iterator[None]:
    """Say at Ctrl-C what is kept in the folder of `--out`."""
    try:
        yield
    except KeyboardInterrupt:
        if out is not None:
            kept = f"interrupted: finished policies are in {out}; rerun the command to resume"
            console.print(kept, markup=False, soft_wrap=True)
        raise


@contextlib.contextmanager
def _html_errors(page: Path) -> Iterator[None]:
    """Name the flag of a report that cannot be written."""
    try:
        yield
    except OSError as error:
        raise errors.UsageError(f"--html {page}: {error.strerror}") from error


def run(args: argparse.Namespace) -> int:
    """Replay the traffic and print the comparison."""
    # The adapter, the emulator and numpy, which `--help` does not need, here and above.
    from rich.console import Console  # noqa: PLC0415

    from adapter import logs  # noqa: PLC0415
    from emulator.replay import compare, progress, report, scenario, tables  # noqa: PLC0415
    from emulator.replay.choices import names, settings  # noqa: PLC0415
    from emulator.replay.replicas import planner  # noqa: PLC0415

    # The control loop would log every decision of the simulated hours.
    logs.configure("text", quiet=True)
    sweeps = tuple(settings.parse(text) for text in args.sweep)
    policies = DEFAULT if args.policies is None else args.policies
    if args.policies is None and not sweeps:
        sweeps = (settings.parse(f"adapter.percentile={','.join(CURVE)}"),)
    names.check(policies, sweeps)
    if args.html is not None:
        with _html_errors(args.html):
            files.check_writable(args.html)
    settings.grid(sweeps)  # a setting that is there twice is an error before anything is read
    replayed = scenario.read(args.scenario)
    traffic = scenario.traffic(
        replayed,
        args.trace,
        base=args.scenario.parent,
        selection=_selection(args),
        folder=_folder(args),
        trace_format=args.trace_format,
    )
    for variant in replayed.variants:
        planner.check_profile(variant)
    # To stderr, so that the output can be piped.
    console = Console(stderr=True)
    for offered in traffic.values():
        for line in offered.trace.left_out:
            console.print(
                logs.printable(f"left out: {line}"), markup=False, highlight=False, soft_wrap=True
            )
    with _how_to_resume(console, args.out), progress.bar(console, quiet=args.quiet) as report_share:
        comparison = compare.compare(
            replayed,
            traffic,
            policies,
            sweeps=sweeps,
            jobs=args.jobs,
            out=args.out,
            progress=report_share,
        )
    if args.html is not None:
        with _html_errors(args.html):
            files.write_text(args.html, report.html(comparison))
    if args.json:
        print(json.dumps(tables.document(comparison), indent=2, allow_nan=False), flush=True)
    else:
        _print(comparison)
        if args.html is not None:
            print(f"written: {args.html}")
    return 0


def _print(comparison: Comparison) -> None:
    from rich.console import Console  # noqa: PLC0415 - see `run`

    from emulator.replay import tables  # noqa: PLC0415
    from emulator.replay.frontier import terminal  # noqa: PLC0415

    out = Console()
    out.width = max(out.width, tables.WIDTH)
    with out.capture() as captured:
        out.print(terminal.table(comparison))
        for line in terminal.lines(comparison):
            out.print(line)
    # By print, and at once: rich makes of a reader that is gone (`replay | head`) an exit of its own.
    print(_PADDING.sub(r"\1", captured.get()), end="", flush=True)
