"""`variant-adapter explain`: why a variant has its target, and what keeps its replicas from it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

from adapter.commands import kubeconfig
from adapter.commands.views import leader
from adapter.logs import printable

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Shows a variant's load, the decision of the last reconcile cycle, what limits a replica, the next"
        " best candidate, and what keeps the replicas from their target. Without a name: all variants, one"
        " line each. The adapter that holds the Lease answers."
    )
    command.add_argument(
        "variant",
        nargs="?",
        type=variant_name,
        metavar="NAMESPACE/NAME",
        help="Variant to explain. Default all variants",
    )
    command.add_argument("--json", action="store_true", help="Print JSON instead of text")
    leader.add_flags(command)
    kubeconfig.add_flags(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Query and print."""
    path = "/variants" + (f"/{args.variant}" if args.variant else "")
    document = leader.document(args, path)
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    # `--help` needs none of what answers, here and below.
    from adapter.diagnostics import explain_text  # noqa: PLC0415

    for line in explain_text.lines(document) if args.variant else overview(document):
        print(printable(line))
    return 0


def overview(document: Mapping[str, Any]) -> list[str]:
    """One line per variant."""
    rows = [("VARIANT", "CURRENT", "TARGET", "WHY")]
    for item in document["variants"]:
        desired, advised = item.get("desiredReplicas"), item.get("advisedReplicas")
        obstacles = item.get("heldBackBy") or []
        why = item.get("problem") or "; ".join([*filter(None, [item.get("reason")]), *obstacles])
        rows.append(
            (
                f"{item['namespace']}/{item['name']}",
                str(item.get("currentReplicas", "-")),
                f"({advised})" if advised is not None else "-" if desired is None else str(desired),
                why,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]


def variant_name(text: str) -> str:
    """Read NAMESPACE/NAME, for argparse."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be NAMESPACE/NAME, not {text!r}")
    return text
