"""`variant-adapter top`: the fleet as a table in the terminal."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapter import errors
from adapter.commands import flags, kubeconfig
from adapter.commands.views import leader
from adapter.logs import printable
from adapter.ui import groups, rows

if TYPE_CHECKING:
    from rich.table import Table

PIPED_WIDTH = 240
"""Columns of output that goes to no terminal."""

_STYLES = {
    "invalid": "red", "short": "red", "held": "red", "stale": "yellow", "drifting": "yellow",
    "slow": "yellow", "scaling": "cyan", "advisory": "dim", "ok": "green",
}  # fmt: skip

COLUMNS = (
    "NAMESPACE", "NAME", "STATE", "READY", "DESIRED", "SHARE", "ACCELERATOR", "LOAD/min",
    "TTFT ms", "P50", "P95", "PREDICTED", "SLO", "ITL ms", "P50", "P95", "PREDICTED", "SLO", "KV", "CENTS/h",
)  # fmt: skip
_NUMBERS = frozenset(COLUMNS) - {"NAMESPACE", "NAME", "STATE", "ACCELERATOR"}


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Shows the fleet as a table: replicas, share of its group's demand, load, measured latencies (mean,"
        " p50, p95) beside predicted means and SLO, KV cache and cost per hour. The adapter that holds the"
        " Lease answers."
    )
    command.add_argument(
        "--sort-by",
        **flags.choice(*rows.SORTS),
        default="name",
        help="Order of the variants: by name, by a column with the highest first, or attention (invalid,"
        " short, held, stale and drifting first). Default name",
    )
    command.add_argument(
        "--namespace",
        type=flags.dns_label,
        metavar="NAME",
        help="Namespace of the variants to show. Default all",
    )
    command.add_argument(
        "--state",
        **flags.choice(*rows.STATES),
        help="State of the variants to show. Default all",
    )
    command.add_argument(
        "--watch",
        type=flags.seconds,
        metavar="DURATION",
        help="Time between two updates, until Ctrl-C. Default none: show once",
    )
    leader.add_flags(command)
    kubeconfig.add_flags(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Query and print, once or again and again."""
    document: Mapping[str, Any] = leader.document(args, "/variants")
    from rich.console import Console  # noqa: PLC0415 - `--help` and failed queries need none

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    if not args.watch:
        grid = table(document, args)
        console.print(grid)
        if not grid.rows:
            print(printable(_none(document, args)), file=sys.stderr)
        return 0
    from rich.live import Live  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    with Live(table(document, args), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(args.watch)
            document, problem = shown_after(document, args)
            grid = table(document, args)
            if problem:
                grid.caption = Text(printable(problem))
            live.update(grid, refresh=True)


def shown_after(
    document: Mapping[str, Any], args: argparse.Namespace
) -> tuple[Mapping[str, Any], str]:
    """The newest document, and empty; or the one before, and why there is no newer one.

    A change of leaders takes seconds, and who watches wants to see its end.
    """
    try:
        return leader.document(args, "/variants"), ""
    except errors.InputError as error:
        return (
            document,
            f"Not updated at {time.strftime('%H:%M:%S')}, tried again: {printable(str(error))}",
        )


def _none(document: Mapping[str, Any], args: argparse.Namespace) -> str:
    """Why the table has no rows."""
    total = len(document["variants"])
    if not total:
        return "no variants: the adapter has no valid VariantAutoscaling"
    flags = {"--namespace": args.namespace, "--state": args.state}
    given = " ".join(f"{flag} {value}" for flag, value in flags.items() if value)
    return f"no variants with {given}; {total} without"


def table(document: Mapping[str, Any], args: argparse.Namespace) -> Table:
    """The document of `/variants` as a table; names are texts, never markup."""
    from rich.table import Table  # noqa: PLC0415 - see `run`
    from rich.text import Text  # noqa: PLC0415

    everything = [rows.of_document(item) for item in document["variants"]]
    some = [
        row
        for row in rows.selected(everything, state=args.state or "")
        if args.namespace in {None, row.namespace}
    ]
    grid = Table(box=None, pad_edge=False, show_footer=bool(some))
    total = groups.total("", some)
    footers = {
        "NAMESPACE": f"{total.variants} variant{'' if total.variants == 1 else 's'}",
        "READY": _ready(total.ready, total.starting),
        "DESIRED": str(total.desired),
        "LOAD/min": _number(total.offered),
        "CENTS/h": _number(total.cost),
    }
    for name in COLUMNS:
        right = name in _NUMBERS
        grid.add_column(
            name, footers.get(name, ""), justify="right" if right else "left", no_wrap=right
        )
    for row in rows.ordered(some, args.sort_by):
        cells = _cells(row)
        styles = ["", "", _STYLES[row.state], *[""] * (len(cells) - 3)]
        grid.add_row(*(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)))
    if not document.get("leading", True):
        grid.caption = (
            "This adapter follows: load, latencies and costs are known to the leader only"
        )
    return grid


def _cells(row: rows.Row) -> Sequence[str]:
    return (
        printable(row.namespace),
        printable(row.name),
        ",".join(row.states),
        _ready(row.ready, row.starting),
        "-" if row.desired is None else str(row.desired),
        _share(row.share),
        printable(row.accelerator) or "-",
        _number(row.offered),
        *map(_number, (row.ttft, row.ttft_p50, row.ttft_p95, row.ttft_predicted, row.ttft_slo)),
        *map(_number, (row.itl, row.itl_p50, row.itl_p95, row.itl_predicted, row.itl_slo)),
        _share(row.kv),
        _number(row.cost),
    )


def _ready(ready: int, starting: int) -> str:
    return f"{ready}+{starting}" if starting else str(ready)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
