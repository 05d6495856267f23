"""`variant-adapter plan`: one optimization of a fleet in a file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from adapter.commands.serve import share
from adapter.errors import InputError
from adapter.formats import fleet_file
from adapter.planning import plan as planning
from optimizer.errors import OptimizerError
from optimizer.problem import POLICIES
from optimizer.solvers import SolverName

_WIDTH = 200


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Decides accelerator, replicas and max batch of every variant of a YAML or JSON fleet,"
        " within its capacity, by priority, at least cost. Reads the workload-variant-autoscaler's"
        " system documents too."
    )
    command.add_argument("-f", "--file", type=Path, required=True, metavar="FILE")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--explain", action="store_true", help="say why, for every variant")
    command.add_argument("--solver", choices=get_args(SolverName), help="overrides the file")
    command.add_argument("--saturation-policy", choices=POLICIES, help="overrides the file")
    command.add_argument(
        "--delayed-best-effort",
        action=argparse.BooleanOptionalAction,
        help="hand out leftovers after all priorities (greedy)",
    )
    command.add_argument("--time-limit", type=positive, metavar="SECONDS", help="(10)")
    command.add_argument("--stability-margin", type=share, metavar="SHARE", help="(0.1)")
    command.add_argument(
        "--what-if",
        action="append",
        default=[],
        metavar="CHANGE",
        help="compare with accelerator.NAME.FIELD=, capacity.TYPE=, class.NAME.FIELD= or"
        " variant.NAME.FIELD= changed; may be repeated",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Plan, and plan again with what is changed."""
    document = fleet_file.read(args.file)
    flags = {
        "solver": args.solver,
        "saturation_policy": args.saturation_policy,
        "delayed_best_effort": args.delayed_best_effort,
        "time_limit": args.time_limit,
        "stability_margin": args.stability_margin,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    settings = document.get("settings") or {}
    if isinstance(settings, dict):
        document = {**document, "settings": {**settings, **given}}
    before = _planned(document, str(args.file))
    if not args.what_if:
        _show(args, before)
        return 0
    for change in args.what_if:
        document = fleet_file.changed(document, change)
    after = _planned(document, f"{args.file} with {', '.join(args.what_if)}")
    if args.json:
        print(json.dumps({"before": _document(before), "after": _document(after)}))
    else:
        _print(_comparison(before, after))
    return 0


def positive(text: str) -> float:
    """A number > 0 for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number > 0, not {text!r}")
    return value


def _planned(document: Mapping[str, Any], place: str) -> planning.Plan:
    snapshot, left_out = fleet_file.parse(document, place)
    try:
        found = planning.plan(snapshot)
    except OptimizerError as error:
        raise InputError(f"{place}: {error}") from error
    return dataclasses.replace(found, set_aside={**left_out, **found.set_aside})


def _show(args: argparse.Namespace, found: planning.Plan) -> None:
    if args.json:
        print(json.dumps(_document(found, explain=args.explain)))
        return
    _print(_table(found))
    print(_summary(found))
    for name, why in found.set_aside.items():
        print(f"set aside: {name}: {why}")
    if args.explain:
        for line in _explained(found):
            print(line)


def _document(found: planning.Plan, *, explain: bool = False) -> dict[str, Any]:
    plan: dict[str, Any] = {}
    for name, decision in found.decisions.items():
        chosen = decision.candidate
        plan[name] = {
            "accelerator": chosen.accelerator,
            "replicas": chosen.replicas,
            "max_batch": chosen.max_batch,
            "cost": chosen.cost,
            "value": decision.value,
            "itl_ms": chosen.itl_ms,
            "ttft_ms": chosen.ttft_ms,
            "max_rate_rpm": chosen.max_rate_rpm,
            "served": decision.served,
            "reason": decision.reason,
        }
        if explain:
            plan[name]["explanation"] = dataclasses.asdict(decision.explanation)
    return {
        "solver": found.solver,
        "termination": found.termination,
        "gap": found.gap,
        "total_cost": found.total_cost,
        "plan": plan,
        "set_aside": dict(found.set_aside),
    }


def _table(found: planning.Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("variant", "accelerator"):
        table.add_column(name)
    for name in ("replicas", "max batch", "cost", "ITL ms", "TTFT ms", "req/min each"):
        table.add_column(name, justify="right")
    table.add_column("served")
    for name, decision in found.decisions.items():
        chosen = decision.candidate
        table.add_row(
            name,
            chosen.accelerator or "-",
            str(chosen.replicas),
            str(chosen.max_batch),
            f"{chosen.cost:g}",
            f"{chosen.itl_ms:.2f}",
            f"{chosen.ttft_ms:.2f}",
            f"{chosen.max_rate_rpm:.2f}",
            decision.served,
        )
    return table


def _summary(found: planning.Plan) -> str:
    counts = {
        served: sum(1 for decision in found.decisions.values() if decision.served == served)
        for served in ("full", "partial", "none")
    }
    gap = "" if found.gap is None else f", gap {found.gap:.2g}"
    return (
        f"{found.total_cost:g} cents/h; served {counts['full']} in full, {counts['partial']} in part,"
        f" {counts['none']} not; {found.solver}: {found.termination}{gap}"
    )


def _explained(found: planning.Plan) -> Iterator[str]:
    for name, decision in found.decisions.items():
        yield f"{name}: {decision.reason}"
        if decision.runner_up:
            runner_up = decision.explanation.runner_up
            worth = f", value {runner_up.value:+g}" if runner_up else ""
            yield f"  runner-up: {decision.runner_up}{worth} (chosen {decision.value:+g})"


def _comparison(before: planning.Plan, after: planning.Plan) -> Table:
    """Both plans side by side: variants that change, and the sums."""
    table = Table(box=None, pad_edge=False)
    table.add_column("variant")
    for name in ("before", "after"):
        table.add_column(name)
    table.add_column("cost change", justify="right")
    same = 0
    for name in {**before.decisions, **after.decisions}:
        first, second = before.decisions.get(name), after.decisions.get(name)
        if first and second and _short(first) == _short(second) and first.served == second.served:
            same += 1
            if first.candidate.cost == second.candidate.cost:
                continue
        change = (second.candidate.cost if second else 0) - (first.candidate.cost if first else 0)
        table.add_row(name, _short(first), _short(second), f"{change:+g}")
    table.add_row(f"({same} with the same replicas)")
    change = after.total_cost - before.total_cost
    table.add_row("total", f"{before.total_cost:g}", f"{after.total_cost:g}", f"{change:+g}")
    served = [
        sum(1 for decision in found.decisions.values() if decision.served == "full")
        for found in (before, after)
    ]
    table.add_row("served in full", str(served[0]), str(served[1]), "")
    table.add_row("end", before.termination, after.termination, "")
    return table


def _short(decision: planning.Decision | None) -> str:
    if decision is None:
        return "set aside"
    if decision.served == "none":
        return "not served"
    chosen = decision.candidate
    part = " (part)" if decision.served == "partial" else ""
    return f"{chosen.replicas} x {chosen.accelerator or 'nothing'}{part}"


def _print(table: Table) -> None:
    # Wide enough for every column where nobody looks, such as in a pipe or a test.
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(table)
