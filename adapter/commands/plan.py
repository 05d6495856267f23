"""`variant-adapter plan`: one optimization of a fleet that a file describes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from adapter.commands import flags
from adapter.errors import InputError, UsageError
from adapter.logs import printable
from optimizer.errors import OptimizerError
from optimizer.problem import POLICIES, SolverName

if TYPE_CHECKING:
    from adapter.planning import plan as planning


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Chooses accelerator, replicas and max batch of every variant of a fleet file (YAML or JSON), within"
        " its capacity, by priority, at least cost. Reads system documents of the workload-variant-autoscaler"
        " too. What cannot be planned is set aside with its reason; the exit status is 1 if all variants are."
    )
    command.add_argument(
        "-f",
        "--file",
        action=flags.Once,
        type=flags.input_path,
        required=True,
        metavar="FILE",
        help="Fleet to plan, YAML or JSON; - reads standard input. Required",
    )
    command.add_argument("--json", action="store_true", help="Print JSON instead of a table")
    command.add_argument(
        "--explain", action="store_true", help="Print the reason of every variant's allocation"
    )
    _add_settings(command.add_argument_group("Settings that override those of the file"))
    command.add_argument(
        "--what-if",
        action="append",
        default=[],
        metavar="CHANGE",
        help="Change to compare the plan with: capacity.TYPE=VALUE or SECTION.NAME.FIELD=VALUE, SECTION one"
        " of accelerator, budget, class, group, variant; may be repeated. Default none",
    )
    command.set_defaults(run=run)


def _add_settings(settings: argparse._ArgumentGroup) -> None:
    settings.add_argument(
        "--solver",
        **flags.choice(*get_args(SolverName)),
        help="Solver to use; auto is branch-and-bound where capacity is limited. Default that of the file,"
        " else auto",
    )
    settings.add_argument(
        "--saturation-policy",
        **flags.choice(*POLICIES),
        help="Order of giving out remaining capacity when it cannot serve every variant. Default that of the"
        " file, else None",
    )
    settings.add_argument(
        "--delayed-best-effort",
        action=argparse.BooleanOptionalAction,
        help="Give out remaining capacity after all priorities were served (greedy solver). Default"
        " that of the file, else off",
    )
    settings.add_argument(
        "--time-limit",
        type=flags.seconds,
        metavar="DURATION",
        help="Time limit of branch-and-bound. Default that of the file, else 10s",
    )
    settings.add_argument(
        "--stability-margin",
        type=flags.share,
        metavar="SHARE",
        help="Share of a replica's highest service rate that stays unused. Default that of the file,"
        " else 0.1 for alpha and beta, 0.05 for step times",
    )


def run(args: argparse.Namespace) -> int:
    """Plan, and plan again with the changes of --what-if."""
    # The planner loads numpy and schemas, which `--help` does not need, here and below.
    from adapter.formats import fleet_file  # noqa: PLC0415

    document = fleet_file.read(args.file)
    overrides = {
        "solver": args.solver,
        "saturation_policy": args.saturation_policy,
        "delayed_best_effort": args.delayed_best_effort,
        "time_limit": args.time_limit,
        "stability_margin": args.stability_margin,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = {} if document.get("settings") is None else document["settings"]
    if isinstance(settings, dict):
        document = {**document, "settings": {**settings, **given}}
    first = document
    before = _planned(document, str(args.file))
    for line in fleet_file.unused(document):
        print(printable(f"not used: {args.file}: {line}"), file=sys.stderr)
    if not args.what_if:
        _show(args, before, document)
        return _status(before)
    for change in args.what_if:
        document = _changed(document, change, before.set_aside)
    after = _planned(document, f"{args.file} with {', '.join(args.what_if)}")
    if args.json:
        shown = {"before": _document(before, first), "after": _document(after, document)}
        print(json.dumps(shown))
    else:
        _print(_comparison(before, after), numbers=[3])
        for name, why in after.set_aside.items():
            if name not in before.set_aside:
                print(printable(f"set aside: {name}: {why}"))
    return _status(after)


def _status(plan: planning.Plan) -> int:
    """Exit status of a plan: of none of its variants there is one where all were set aside."""
    if plan.decisions or not plan.set_aside:
        return 0
    print("error: no variant could be planned: all were set aside", file=sys.stderr)
    return 1


def _changed(
    document: Mapping[str, Any], change: str, set_aside: Mapping[str, str]
) -> dict[str, Any]:
    """The document with one change of --what-if.

    Raises:
        UsageError: there is no such thing to change, or a variant that was not set aside would be.

    """
    from adapter.formats import fleet_file  # noqa: PLC0415 - see `run`

    try:
        edited = fleet_file.changed(document, change)
        _, left_out = fleet_file.parse(edited, change)
    except InputError as error:
        raise UsageError(f"--what-if: {error}") from error
    for name, why in left_out.items():
        if name not in set_aside:
            raise UsageError(f"--what-if: {change}: {name}: {why}")
    return edited


def _planned(document: Mapping[str, Any], place: str) -> planning.Plan:
    from adapter.formats import fleet_file  # noqa: PLC0415 - see `run`
    from adapter.planning import plan as planning  # noqa: PLC0415

    snapshot, left_out = fleet_file.parse(document, place)
    try:
        plan = planning.plan(snapshot)
    except OptimizerError as error:
        raise InputError(f"{place}: {error}") from error
    return dataclasses.replace(plan, set_aside={**left_out, **plan.set_aside})


def _show(args: argparse.Namespace, plan: planning.Plan, document: Mapping[str, Any]) -> None:
    if args.json:
        print(json.dumps(_document(plan, document, explain=args.explain)))
        return
    _print(_rows(plan), numbers=range(2, 8))
    if plan.groups:
        print()
        _print(_group_rows(plan), numbers=range(1, 4))
    for ceiling in plan.ceilings:
        print(printable(str(ceiling)))
    print(printable(_summary(plan)))
    for name, why in plan.set_aside.items():
        print(printable(f"set aside: {name}: {why}"))
    if args.explain:
        for line in _explained(plan):
            print(printable(line))


def _document(
    plan: planning.Plan, given: Mapping[str, Any], *, explain: bool = False
) -> dict[str, Any]:
    """The answer of --json; `given` is the fleet's document."""
    variants: dict[str, Any] = {}
    for name, decision in plan.decisions.items():
        chosen = decision.candidate
        variants[name] = {
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
            **({"notes": list(decision.notes)} if decision.notes else {}),
            **({"group": decision.group, "share": decision.share} if decision.group else {}),
            **({"cut_by": [item.name for item in decision.cut_by]} if decision.cut_by else {}),
        }
        if explain:
            variants[name]["explanation"] = dataclasses.asdict(decision.explanation)
    return {
        "solver": plan.solver,
        "termination": plan.termination,
        "gap": plan.gap,
        "total_cost": plan.total_cost,
        "plan": variants,
        **({"groups": _groups(plan, given)} if given.get("groups") else {}),
        **({"budgets": list(map(dataclasses.asdict, plan.ceilings))} if plan.ceilings else {}),
        "set_aside": dict(plan.set_aside),
    }


def _groups(plan: planning.Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    from adapter.formats import fleet_groups  # noqa: PLC0415 - see `run`

    aside = fleet_groups.set_aside(given["groups"], plan.set_aside, plan.groups)
    return {
        name: {
            "cost": 0.0,
            "demand_rpm": demand,
            "capacity_rpm": 0.0,
            "binding": "set aside",
            "served": "none",
            "shares": {},
            "marginal_costs": {},
            "runner_up": "",
            "cut_by": [],
            "reason": why,
        }
        for name, (demand, why) in aside.items()
    } | {
        name: {
            "cost": group.cost,
            "demand_rpm": group.demand_rpm,
            "capacity_rpm": group.capacity_rpm,
            "binding": group.binding,
            "served": group.served,
            "shares": dict(group.shares),
            "marginal_costs": dict(group.marginal_costs),
            "runner_up": group.runner_up,
            "cut_by": [item.name for item in group.cut_by],
            "reason": group.reason,
        }
        for name, group in plan.groups.items()
    }


def _group_rows(plan: planning.Plan) -> Iterator[tuple[str, ...]]:
    """A header, and one row per group."""
    yield "group", "cost", "demand req/min", "capacity req/min", "served", "binding", "shares"
    for name, group in plan.groups.items():
        shares = ", ".join(f"{variant} {share:.0%}" for variant, share in group.shares.items())
        yield (
            name,
            f"{group.cost:g}",
            f"{group.demand_rpm:.2f}",
            f"{group.capacity_rpm:.2f}",
            group.served,
            group.binding,
            shares,
        )


def _rows(plan: planning.Plan) -> Iterator[tuple[str, ...]]:
    """A header, and one row per variant."""
    yield ("variant", "accelerator", "replicas", "max batch", "cost", "ITL ms", "TTFT ms",
           "req/min each", "served")  # fmt: skip
    for name, decision in plan.decisions.items():
        chosen = decision.candidate
        yield (
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


def _summary(plan: planning.Plan) -> str:
    counts = {
        served: sum(1 for decision in plan.decisions.values() if decision.served == served)
        for served in ("full", "partial", "none")
    }
    gap = "" if plan.gap is None else f", gap {plan.gap:.2g}"
    return (
        f"{plan.total_cost:g} cents/h; served {counts['full']} in full, {counts['partial']} in part,"
        f" {counts['none']} not; {plan.solver}: {plan.termination}{gap}"
    )


def _explained(plan: planning.Plan) -> Iterator[str]:
    for name, group in plan.groups.items():
        yield f"group {name}: {group.reason}"
        for variant, price in group.marginal_costs.items():
            yield f"  {variant}: {price:.3g} cents per 1,000 requests of one replica more"
        if group.runner_up:
            yield f"  runner-up: {group.runner_up}"
    for name, decision in plan.decisions.items():
        yield f"{name}: {decision.reason}"
        if decision.runner_up:
            runner_up = decision.explanation.runner_up
            worth = f", value {runner_up.value:+g}" if runner_up else ""
            yield f"  runner-up: {decision.runner_up}{worth} (chosen {decision.value:+g})"
        for note in decision.notes:
            yield f"  note: {note}"


def _comparison(before: planning.Plan, after: planning.Plan) -> Iterator[tuple[str, ...]]:
    """Both plans side by side: variants that change, and the sums."""
    yield "variant", "before", "after", "cost change"
    same = 0
    for name in {**before.decisions, **after.decisions}:
        first, second = before.decisions.get(name), after.decisions.get(name)
        if first and second and _short(first) == _short(second) and first.served == second.served:
            same += 1
            if first.candidate.cost == second.candidate.cost:
                continue
        change = (second.candidate.cost if second else 0) - (first.candidate.cost if first else 0)
        yield name, _short(first), _short(second), f"{change:+g}"
    yield f"({same} with the same replicas)", "", "", ""
    for name in {**before.groups, **after.groups}:
        one, other = before.groups.get(name), after.groups.get(name)
        change = (other.cost if other else 0) - (one.cost if one else 0)
        shown = ["set aside" if group is None else f"{group.cost:g}" for group in (one, other)]
        yield f"group {name}", shown[0], shown[1], f"{change:+g}"
    change = after.total_cost - before.total_cost
    yield "total", f"{before.total_cost:g}", f"{after.total_cost:g}", f"{change:+g}"
    served = [
        sum(1 for decision in plan.decisions.values() if decision.served == "full")
        for plan in (before, after)
    ]
    yield "served in full", str(served[0]), str(served[1]), ""
    yield "end", before.termination, after.termination, ""


def _short(decision: planning.Decision | None) -> str:
    if decision is None:
        return "set aside"
    if decision.served == "none":
        return "not served"
    chosen = decision.candidate
    if not chosen.replicas:
        return "0 replicas"
    part = " (part)" if decision.served == "partial" else ""
    return f"{chosen.replicas} x {chosen.accelerator}{part}"


def _print(rows: Iterator[tuple[str, ...]], numbers: Sequence[int]) -> None:
    """Print rows in columns, numbers to the right; rich would take as long to load as the planning takes."""
    table = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(printable("  ".join(cells).rstrip()))
