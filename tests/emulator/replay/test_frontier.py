"""Curves of attainment over cost, and ours beside the rivals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rich.console import Console

from emulator.replay import compare, tables
from emulator.replay.frontier import curves, terminal
from emulator.replay.frontier.curves import Point
from emulator.replay.results import Comparison, PolicyResult
from tests.emulator.replay.small_scenarios import generated, one_model
from tests.fakes.replay import results as replay_results


def point(cost: float, within: float, policy: str = "x") -> Point:
    return Point(policy=policy, cost_cents=cost, gpu_hours=cost / 40, within=within)


@pytest.fixture(scope="module")
def template() -> PolicyResult:
    return replay_results.comparison(rules=replay_results.RULES[:1]).results[0]


def made(template: PolicyResult, family: str, cost: float, within: float) -> PolicyResult:
    classes = tuple(replace(item, within=within) for item in template.classes)
    return replace(
        template, policy=f"{family}@{cost:g}", family=family, cost_cents=cost, classes=classes
    )


def test_dominated_points_are_left_out() -> None:
    """What a point of at most its cost equals or beats is not on the curve."""
    points = [point(5, 0.9), point(3, 0.8), point(4, 0.7), point(5, 0.95), point(9, 0.95)]
    kept = [(item.cost_cents, item.within) for item in curves.undominated(points)]
    assert kept == [(3, 0.8), (5, 0.95)]


def test_between_two_thresholds_a_curve_is_linear() -> None:
    """A quarter of the way in cost is a quarter in attainment; nothing below, the last one above."""
    curve = [point(4, 0.8), point(8, 0.96)]
    assert curves.within_at(curve, 5) == pytest.approx(0.84)
    assert curves.within_at(curve, 8) == 0.96
    assert curves.within_at(curve, 80) == 0.96
    assert math.isnan(curves.within_at(curve, 3.9))


def test_ours_beside_the_best_rival(template: PolicyResult) -> None:
    """At each cost of ours the best rival is named with what it keeps there; bounds are no rivals."""
    results = [
        made(template, "ours", 6, 0.97), made(template, "ours", 2, 0.5), made(template, "kpa", 4, 0.9),
        made(template, "kpa", 8, 0.98), made(template, "in-flight", 5, 0.92),
        made(template, "clairvoyant", 1, 1.0), made(template, "without-foresight", 1, 1.0),
    ]  # fmt: skip
    frontier = curves.frontier(results)
    assert [item.cost_cents for item in frontier.ours] == [2, 6]
    none, beside = frontier.beside
    assert (none.rival, none.ahead) == (None, math.inf)
    assert beside.rival == "kpa"
    assert beside.rival_within == pytest.approx(0.94)  # half way from 0.9 to 0.98
    assert beside.ahead == pytest.approx(0.03)
    assert [item.cost_cents for item in frontier.best] == [4, 5, 8]
    said = terminal.sentences(frontier)
    assert said[0] == "ours@2: 50.00 % at 0.05 GPU-hours; no rival is that cheap".replace(
        "0.05", f"{template.gpu_hours:.2f}"
    )
    assert said[1].endswith("best rival there kpa 94.00 %: 3.00 points more")


def test_the_plot_has_ours_and_rivals(template: PolicyResult) -> None:
    """Ours is drawn at its place, above the rivals' curve where it keeps more; nothing without a rival."""
    base = replay_results.comparison(rules=replay_results.RULES[:1])
    results = (
        made(template, "ours", 6, 0.999),
        made(template, "kpa", 4, 0.9),
        made(template, "kpa", 8, 0.98),
    )
    lines = [line.plain for line in terminal.lines(replace(base, results=results))]
    ours = next(i for i, line in enumerate(lines) if "#" in line)
    rivals = [i for i, line in enumerate(lines) if "o" in line.partition("|")[2]]
    assert len(rivals) == 2
    assert ours < min(rivals)
    assert "99 %" in "".join(lines)
    assert all(len(line) <= tables.WIDTH for line in lines)
    assert terminal.lines(replace(base, results=results[:1])) == []


def test_many_policies_fit_one_screen(template: PolicyResult) -> None:
    """Of each curve the best row, and how many more there are; with the plot no more than 40 lines."""
    base = replay_results.comparison(rules=replay_results.RULES[:1])
    sweeps = [
        made(template, name, cost, 1 - 0.4 / cost**2)
        for name in ("ours", "kpa", "rps", "kv")
        for cost in range(2, 7 if name == "ours" else 12)
    ]
    swept = replace(base, results=tuple(sweeps))
    console = Console(width=tables.WIDTH)
    with console.capture() as captured:
        console.print(terminal.table(swept))
    printed = captured.get()
    assert len(terminal.table(swept).rows) == 4
    assert "--json has 31 more" in printed
    assert len(printed.splitlines()) + len(terminal.lines(swept)) <= 40


def test_the_document_has_settings_and_frontier() -> None:
    """JSON: what was asked for of every policy, and the curves."""
    offered = generated(kind="step", levels=[[200, 60], [200, 200]])
    comparison: Comparison = compare.compare(
        one_model(), {"m": offered}, ("ours", "in-flight@4", "in-flight@7")
    )
    document = tables.document(comparison)
    for result in document["outcomes"]:
        assert {"within", "gpu_hours", "cost_cents", "scale_events", "recovery_seconds", "queue_peak",
                "settings", "family"} <= set(result)  # fmt: skip
        assert result["scale_events"] == result["scale_ups"] + result["scale_downs"]
    assert [item["settings"] for item in document["outcomes"]] == [
        {"percentile": 0.99}, {"threshold": 4.0}, {"threshold": 7.0},
    ]  # fmt: skip
    frontier = document["frontier"]
    assert set(frontier["rivals"]) == {"in-flight"}
    (beside,) = frontier["ours_beside_best_rival"]
    assert beside["policy"] == "ours"
    assert {"rival", "rival_within", "ahead"} <= set(beside)
