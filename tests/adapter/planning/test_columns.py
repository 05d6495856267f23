"""Fleets are sized as columns: what a variant gets does not depend on those beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.planning import fleet as fleets
from adapter.planning import plan as planning
from bench import planned_fleets

FEW = 60


def mixed() -> fleets.Fleet:
    """Lines, step times, both, and what cannot be sized, by turns; queues, bounds and no load among them."""
    lines, steps = planned_fleets.fleet(FEW), planned_fleets.fleet(FEW, steps=True)
    variants = []
    for number, (line, step) in enumerate(zip(lines.variants, steps.variants, strict=True)):
        profiles = (*line.profiles[: number % 5], *step.profiles[number % 5 :])
        load = line.load
        if number % 7 == 0:
            load = replace(load, in_flight=40.0 * number, ordered=1, surge=number % 2 == 0)
        if number % 7 == 1:
            load = replace(load, backlog_rps=0.5 * load.arrival_rate_rps, queued_at=2)
        if number % 7 == 2:
            load = replace(load, arrival_rate_rps=0.0)
        if number % 7 == 3:
            profiles = (profiles[0], replace(profiles[1], accelerator="unknown"), *profiles[2:])
        if number % 7 == 4:
            load = replace(load, output_tokens=1e9 if number % 2 else load.output_tokens)
        variants.append(
            replace(
                line,
                profiles=profiles,
                load=load,
                min_replicas=number % 3,
                max_replicas=None if number % 4 else 3,
                routing="random" if number % 2 else "least-loaded",
                service_class="none" if number == 11 else line.service_class,
            )
        )
    return replace(lines, variants=tuple(variants))


def test_variants_of_all_kinds_have_the_decisions_that_they_have_among_others() -> None:
    """In another order and among fewer: reasons, bounds and replicas are the same, numbers to nine digits."""
    fleet = mixed()
    together = planning.plan(fleet)
    kinds = set()
    for start in range(3):
        fewer = planning.plan(replace(fleet, variants=fleet.variants[start::3][::-1]))
        for variant in fleet.variants[start::3]:
            reason = fewer.set_aside.get(variant.name)
            assert together.set_aside.get(variant.name) == reason
            if reason:
                kinds.add("set aside")
                continue
            its, expected = together.decisions[variant.name], fewer.decisions[variant.name]
            kinds.add(expected.candidate.binding)
            assert its.reason == expected.reason
            assert its.explanation.shortages == expected.explanation.shortages
            assert str(its.runner_up) == str(expected.runner_up)
            assert its.value == pytest.approx(expected.value, rel=1e-9)
            for one, other in zip(its.candidate, expected.candidate, strict=True):
                close = isinstance(other, float)
                assert one == (pytest.approx(other, rel=1e-9) if close else other)
    assert kinds >= {"set aside", "minimum", "maximum", "itl", "ttft"}
