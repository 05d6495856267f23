"""Results of a replay as rows of text, sentences and a JSON document."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emulator.replay.frontier import curves as curves_of
from emulator.replay.frontier.curves import Frontier
from emulator.replay.results import ClassResult, Comparison, PolicyResult

GOAL = 0.99
"""Share of requests within their SLO from which a policy meets it."""
_GOAL = f"{GOAL * 100:g} %"
WIDTH = 100
"""Columns of the narrowest terminal that fits the table."""
MOST_POLICIES = 12
"""Policies that a page or a screen shows one by one; of more, the best of each curve."""
NONE = "–"  # noqa: RUF001 - the dash that typography has for "no value"
COLUMNS = (
    "policy",
    "within SLO",
    "TTFT p95",
    "ITL p95",
    "GPU-hours",
    "cost, cents",
    "cost / bound",
    "scaled up + down",
    "recovery, median / worst",
    "queue peak",
)
_NO_CELLS = ("",) * 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: a policy, or one of its service classes where there are several.

    Attributes:
        label: Text of the first column.
        cells: Texts of the other columns.
        result: Result of the policy.
        service_class: Result of the service class; None in the row of the policy itself.

    """

    label: str
    cells: tuple[str, ...]
    result: PolicyResult
    service_class: ClassResult | None = None


def rows(comparison: Comparison) -> tuple[Row, ...]:
    """Rows of the table, in the order of the policies."""
    return tuple(row for result in comparison.results for row in _rows(comparison, result))


def best_shown(comparison: Comparison) -> Comparison:
    """The comparison with the best of each curve, where there are more policies than fit one screen."""
    if len(comparison.results) <= MOST_POLICIES:
        return comparison
    return replace(comparison, results=curves_of.best_of_each(comparison.results, GOAL))


def document(comparison: Comparison, *, curves: bool = False) -> dict[str, Any]:
    """Results for programs, as a JSON object: numbers of six digits, null for a missing one."""
    return {
        "scenario": comparison.scenario,
        "trace": comparison.trace,
        "duration_seconds": _number(comparison.duration_seconds),
        "requests": comparison.requests,
        "warm_up_seconds": _number(comparison.warm_up_seconds),
        "facts": dict(comparison.facts),
        "outcomes": [_policy_result(comparison, item, curves) for item in comparison.results],
        "frontier": _frontier(curves_of.frontier(comparison.results)),
    }


def _frontier(frontier: Frontier) -> dict[str, Any]:
    return {
        "ours": [_rounded(dataclasses.asdict(point)) for point in frontier.ours],
        "rivals": {
            name: [_rounded(dataclasses.asdict(point)) for point in points]
            for name, points in frontier.rivals.items()
        },
        "best_rivals": [_rounded(dataclasses.asdict(point)) for point in frontier.best],
        "ours_beside_best_rival": [
            _rounded(dataclasses.asdict(item.point))
            | {
                "rival": item.rival,
                "rival_within": _number(item.rival_within),
                "ahead": _number(item.ahead),
            }
            for item in frontier.beside
        ],
    }


def findings(comparison: Comparison) -> tuple[str, ...]:
    """Sentences: the cheapest policy that meets the SLO, and how the others compare."""
    others = [item for item in comparison.results if item is not comparison.bound]
    if not others:
        return ("No policy was replayed.",)
    meeting = sorted((i for i in others if i.within >= GOAL), key=lambda i: i.cost_cents)
    if not meeting:
        sentences = [_closest(comparison, max(others, key=lambda item: item.within))]
    else:
        sentences = [_best(comparison, meeting[0]), *_rest(comparison, meeting[1:], len(others))]
    bound = comparison.bound
    if bound is not None and bound.within < GOAL:
        sentences.append(f"Even the clairvoyant keeps only {percent(bound.within)} within the SLO.")
    return tuple(sentences)


def percent(share: float) -> str:
    """A share as a percentage, rounded down so that 100 % means every request."""
    return NONE if math.isnan(share) else f"{math.floor(share * 1e4 + 1e-6) / 100:.2f} %"


def duration_ms(value: float) -> str:
    """A duration with three digits, in ms or, from one second on, in s."""
    if not math.isfinite(value):
        return NONE
    number, unit = (value / 1000, "s") if value >= 999.5 else (value, "ms")
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:,.{digits}f} {unit}"


def target_ms(value: float) -> str:
    """A latency target without trailing zeros, in ms or s."""
    if not math.isfinite(value):
        return NONE
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def plain(name: str) -> str:
    """A name with unprintable characters replaced by blanks: safe for terminals and XML."""
    return "".join(letter if letter.isprintable() else " " for letter in name)


def ratio(value: float | None) -> str:
    """A cost divided by the bound's, with two decimals."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.2f}×"  # noqa: RUF001


def recovery(seconds: Iterable[float]) -> str:
    """Median and worst recovery time; a step without recovery counts as the worst."""
    values = [math.inf if math.isnan(item) else item for item in seconds]
    if not values:
        return NONE
    middle, worst = statistics.median(values), max(values)
    if math.isinf(middle):
        return "never"
    return f"{middle:,.0f} s / never" if math.isinf(worst) else f"{middle:,.0f} / {worst:,.0f} s"


def _rows(comparison: Comparison, result: PolicyResult) -> Iterable[Row]:
    only = result.classes[0] if len(result.classes) == 1 else None
    latency = map(duration_ms, (only.ttft_p95_ms, only.itl_p95_ms)) if only else ("", "")
    yield Row(
        label=plain(result.title),
        cells=(
            percent(result.within),
            *latency,
            f"{result.gpu_hours:,.2f}",
            f"{result.cost_cents:,.0f}",
            ratio(comparison.cost_ratio(result)),
            f"{result.scale_ups} + {result.scale_downs}",
            recovery(result.recovery_seconds),
            f"{result.queue_peak:,}",
        ),
        result=result,
    )
    if only:
        return
    models = {item.model for item in result.classes}
    for item in result.classes:
        yield Row(
            label=plain(item.service_class + (f", {item.model}" if len(models) > 1 else "")),
            cells=(
                percent(item.within),
                duration_ms(item.ttft_p95_ms),
                duration_ms(item.itl_p95_ms),
                *_NO_CELLS,
            ),
            result=result,
            service_class=item,
        )


def title(comparison: Comparison) -> str:
    return plain(
        f"{comparison.trace} on {comparison.scenario}: {comparison.requests:,} requests in"
        f" {comparison.duration_seconds:,.0f} s, the first {comparison.warm_up_seconds:,.0f} s not counted"
    )


def _price(comparison: Comparison, result: PolicyResult) -> str:
    cost_ratio = comparison.cost_ratio(result)
    if cost_ratio is None:
        return f"for {result.cost_cents:,.0f} cents"
    more = round((cost_ratio - 1) * 100)
    if more == 0:
        return "for what the clairvoyant bound costs"
    return f"for {abs(more)} % {'more' if more > 0 else 'less'} than the clairvoyant bound costs"


def _best(comparison: Comparison, result: PolicyResult) -> str:
    return (
        f"“{plain(result.title)}” keeps {percent(result.within)} of requests within the SLO"
        f" {_price(comparison, result)}."
    )


def _closest(comparison: Comparison, result: PolicyResult) -> str:
    return (
        f"No policy keeps {_GOAL} of requests within the SLO; closest is “{plain(result.title)}”"
        f" with {percent(result.within)} {_price(comparison, result)}."
    )


def _rest(comparison: Comparison, meeting: Sequence[PolicyResult], total: int) -> list[str]:
    """Sentences on the other policies that meet the SLO, and on those that miss it."""
    if total == 1:
        return []
    missed = total - 1 - len(meeting)
    if not meeting:
        others = "The other policy misses" if missed == 1 else f"The other {missed} policies miss"
        return [f"{others} {_GOAL}."]
    sentences = [f"Next is “{plain(meeting[0].title)}” {_price(comparison, meeting[0])}."]
    if missed:
        sentences.append(
            f"{missed} of {total} policies {'miss' if missed > 1 else 'misses'} {_GOAL}."
        )
    return sentences


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _policy_result(comparison: Comparison, result: PolicyResult, curves: bool) -> dict[str, Any]:  # noqa: FBT001
    steps = [math.inf if math.isnan(item) else item for item in result.recovery_seconds]
    cost_ratio = comparison.cost_ratio(result)
    document: dict[str, Any] = {
        "policy": result.policy,
        "title": result.title,
        "family": result.family or result.policy,
        "settings": dict(result.settings),
        "within": _number(result.within),
        "gpu_hours": _number(result.gpu_hours),
        "cost_cents": _number(result.cost_cents),
        "cost_ratio": None if cost_ratio is None else _number(cost_ratio),
        "scale_ups": result.scale_ups,
        "scale_downs": result.scale_downs,
        "scale_events": result.scale_events,
        "recovery_seconds": [_number(item) for item in steps],
        "recovery_median_seconds": _number(statistics.median(steps)) if steps else None,
        "recovery_worst_seconds": _number(max(steps)) if steps else None,
        "never_recovered": sum(map(math.isinf, steps)),
        "queue_peak": result.queue_peak,
        "classes": [_rounded(dataclasses.asdict(item)) for item in result.classes],
        "notes": list(result.notes),
    }
    if curves:
        document["curves"] = {
            name: _rounded({item.name: getattr(of, item.name) for item in dataclasses.fields(of)})
            for name, of in result.curves.items()
        }
    return document


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_number(item) for item in value.tolist()]
    return _number(value) if isinstance(value, float) else value
