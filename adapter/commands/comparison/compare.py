"""`variant-adapter compare`: the present autoscaler beside this adapter, from what was recorded."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from adapter import errors
from adapter.app.prometheus import command_options
from adapter.commands import explain, flags, kubeconfig
from adapter.commands.views import leader
from adapter.logs import printable
from adapter.settings.control import Prometheus

DAY_SECONDS = 86400.0

NOTE = """\
present: replicas that the scale target's spec asked for, whatever set them, and latencies observed with them
ours:    replicas that were decided, and latencies predicted for them; nothing served them where they differ
within:  share of the time in which mean latencies were within the SLO targets"""


_NOTHING_REMEMBERED = (
    "there is no history of any variant in that time: the leader keeps it in memory, from its second"
    " reconcile cycle on; give --prometheus for the time before"
)

_NOTHING_SCRAPED = (
    "Prometheus has no history of any variant in that time: it must have scraped the adapter's /metrics"
    " (variant_adapter_present_replicas) for more than a minute; without --prometheus the leader's memory of"
    " the last day is compared"
)

_SHOWN = 10
"""Most names of variants in an error."""


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Compares what each variant had, under its present autoscaler, with what this adapter decided:"
        " replicas, cost and SLO attainment of both, and how often replicas would have been different. From"
        " Prometheus where one is given, else from the leader's own memory of the last day at most."
    )
    command.add_argument(
        "variant",
        nargs="?",
        type=explain.variant_name,
        metavar="NAMESPACE/NAME",
        help="Variant to compare. Default all variants",
    )
    command.add_argument(
        "--since",
        type=flags.seconds,
        default="24h",
        metavar="DURATION",
        help="Time to compare, back from now; more than 24h needs --prometheus. Default %(default)s",
    )
    command.add_argument("--json", action="store_true", help="Print JSON instead of text")
    leader.add_flags(command)
    kubeconfig.add_flags(command)
    flags.add(
        command,
        Prometheus,
        config_map=False,
        defaults={"prometheus": "none: the leader's own memory"},
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Query, compare and print."""
    if args.since <= 0:
        raise errors.UsageError("--since: must be more than 0")
    options = command_options(vars(args), os.environ)
    if options is not None:
        # The client of Prometheus takes half a second to load, and `--help` needs none of it.
        from adapter.commands.comparison import series  # noqa: PLC0415

        variants = series.compared(options, since=args.since, now=time.time())
    else:
        if args.since > DAY_SECONDS:
            raise errors.UsageError(
                "--since: the adapter remembers 24h; give --prometheus for a longer time"
            )
        path = f"/variants/comparison?since={args.since:.0f}"
        variants = leader.document(args, path)["variants"]
    if args.variant and variants and args.variant not in variants:
        known = sorted(variants)
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise errors.InputError(
            f"{args.variant}: there is no history of it in that time; there is of"
            f" {', '.join(known[:_SHOWN])}{more}"
        )
    if not variants:
        raise errors.InputError(_NOTHING_REMEMBERED if options is None else _NOTHING_SCRAPED)
    if args.variant:
        variants = {args.variant: variants[args.variant]}
    if args.json:
        print(json.dumps({"variants": variants}, indent=2))
        return 0
    for line in lines(variants):
        print(printable(line))
    return 0


def lines(variants: Mapping[str, Any]) -> list[str]:
    """A table of the variants, what would have been different, and what the columns are."""
    rows: list[tuple[str, ...]] = [
        ("VARIANT", "HOURS", "REPLICAS", "COST, CENTS", "WITHIN SLO", "DIFFERENT")
    ]
    rows.append(("", "", "present / ours", "present / ours", "present / ours", ""))
    rows += [(key, *_cells(item)) for key, item in variants.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    present, ours = (
        sum(item[side]["costCents"] for item in variants.values()) for side in ("present", "ours")
    )
    change = f" ({(ours - present) / present:+.1%})" if present > 0 else ""
    return [
        *table,
        f"cost of all: {_number(present)} / {_number(ours)} cents{change}",
        "",
        *NOTE.splitlines(),
    ]


def _cells(item: Mapping[str, Any]) -> tuple[str, ...]:
    present, ours = item["present"], item["ours"]
    more, fewer = item["moreReplicas"], item["fewerReplicas"]
    different = [
        f"{_part(part['share'])} of the time {word}, by up to {part['most']}"
        for word, part in (("more", more), ("fewer", fewer))
        if part["most"] > 0
    ]
    return (
        f"{item['hours']:.{1 if item['hours'] >= 1 else 2}f}",
        f"{present['meanReplicas']:.2f} / {ours['meanReplicas']:.2f}",
        f"{_number(present['costCents'])} / {_number(ours['costCents'])}",
        f"{_share(present['attainment'])} / {_share(ours['attainment'])}",
        "; ".join(different) or "never",
    )


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if value == 1 or value < 0.9995 else "> 99.9%"  # rounding hides no miss


def _part(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "< 1%"


def _number(cents: float) -> str:
    """Cents with three digits where they are few: a first minute costs less than one of them."""
    if 0 < cents < 0.01:
        return "< 0.01"
    return f"{cents:.{0 if cents >= 100 or cents == 0 else 1 if cents >= 10 else 2}f}"
