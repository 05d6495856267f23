"""Targets across reconcile cycles: the window retains them, but not on devices planned for others."""

from __future__ import annotations

import dataclasses

import pytest

from adapter.controller import stabilization
from adapter.controller.settings import LoopSettings
from adapter.controller.stabilization import Stabilization, StableTarget
from adapter.planning import fleet, plan
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from analyzer.latency import LatencyParameters
from optimizer import problem
from optimizer.explain import Explanation
from optimizer.stabilization import StabilizationLimits

WINDOW = StabilizationLimits(down_seconds=100.0)
FALL = StabilizationLimits(down_seconds=100.0, fall_seconds=50.0)


def source(name: str, *, replicas: int = 0) -> VariantSource:
    """A variant that runs on GPU units of two devices each."""
    profile = fleet.Profile(
        accelerator="2xG", max_batch=4, latency=LatencyParameters(alpha_ms=10, beta_ms=1)
    )
    return VariantSource(
        namespace="n", name=name, model="m", service_class="c", profiles=(profile,),
        targets=fleet.Targets(), accelerator="2xG", endpoints=(), replicas=replicas,
        spec_replicas=replicas,
    )  # fmt: skip


def decision(replicas: int, accelerator: str = "2xG") -> plan.Decision:
    candidate = problem.Candidate(
        accelerator=accelerator, replicas=replicas, max_batch=4, cost=1.0, itl_ms=1.0,
        ttft_ms=1.0, max_rate_rpm=1.0,
    )  # fmt: skip
    explanation = Explanation(binding="", sized="", runner_up=None, shortages=())
    return plan.Decision(
        candidate=candidate, value=0.0, served="full", arrival_rate_rps=1.0,
        why=plan.Why(plan.Reasons(explanation, "")),
    )  # fmt: skip


def inputs(*sources: VariantSource, devices: int | None) -> Inputs:
    unit = fleet.Accelerator(name="2xG", device_type="G", unit_cost=1.0, multiplicity=2)
    return Inputs(
        accelerators=(unit,),
        variants=sources,
        capacity=None if devices is None else {"G": devices},
    )


Before = dict[str, Stabilization]


def stabilized(
    planned: dict[str, int],
    published: dict[str, int],
    before: Before | None = None,
    *,
    now: float,
    accelerator: str = "2xG",
    present: int = 0,
    brief: bool = False,
    rising: bool = False,
    partial: bool = False,
    rate_rps: float | None = None,
    limits: StabilizationLimits = WINDOW,
) -> tuple[dict[str, StableTarget], Before]:
    """Targets by variant name, and the stabilization of the next cycle."""
    targets = {
        name: stabilization.apply(
            (before or {}).get(name, Stabilization()),
            decision(replicas, accelerator),
            published=published.get(name),
            accelerator="2xG",
            maximum=None,
            now=now,
            limits=limits,
            present=present,
            brief=brief,
            rising=rising,
            partial=partial,
            rate_rps=rate_rps,
        )
        for name, replicas in planned.items()
    }
    return targets, {name: target.stabilization for name, target in targets.items()}


def replicas(targets: dict[str, StableTarget]) -> dict[str, int]:
    return {name.removeprefix("n/"): target.replicas for name, target in targets.items()}


def test_a_new_leader_counts_the_published_target_as_just_recommended() -> None:
    """It knows no earlier recommendations, and lowers nothing for a whole window."""
    targets, before = stabilized({"v": 2}, {"v": 5}, now=0.0)
    assert replicas(targets) == {"v": 5}
    targets, before = stabilized({"v": 2}, {"v": 5}, before, now=99.0)
    assert replicas(targets) == {"v": 5}
    targets, _ = stabilized({"v": 2}, {"v": 5}, before, now=101.0)
    assert replicas(targets) == {"v": 2}


def test_after_a_start_what_runs_counts_as_just_recommended() -> None:
    """Without any target that is known, the first window lowers nothing either."""
    targets, before = stabilized({"v": 2}, {}, now=0.0, present=7)
    assert replicas(targets) == {"v": 7}
    targets, before = stabilized({"v": 2}, {"v": 7}, before, now=99.0, present=7)
    assert replicas(targets) == {"v": 7}
    targets, _ = stabilized({"v": 2}, {"v": 7}, before, now=101.0, present=7)
    assert replicas(targets) == {"v": 2}


def test_replicas_for_a_queue_are_not_kept_for_the_whole_window() -> None:
    """What a flash asked for goes soon after it has been worked off; what the arrivals asked for stays."""
    _, before = stabilized({"v": 5}, {"v": 5}, now=0.0)
    _, before = stabilized({"v": 20}, {"v": 5}, before, now=10.0, brief=True)
    targets, before = stabilized({"v": 5}, {"v": 20}, before, now=35.0)
    assert replicas(targets) == {"v": 20}
    targets, _ = stabilized({"v": 4}, {"v": 20}, before, now=45.0)
    assert replicas(targets) == {"v": 5}


def test_replicas_for_a_queue_stay_while_it_is_there() -> None:
    """Those that load are not given up because what is ordered suffices meanwhile."""
    _, before = stabilized({"v": 20}, {"v": 5}, now=10.0, brief=True)
    targets, _ = stabilized({"v": 12}, {"v": 20}, before, now=90.0, brief=True)
    assert replicas(targets) == {"v": 20}


def test_a_target_that_is_held_for_missing_metrics_is_not_asked_for() -> None:
    """New pods without metrics hold what a queue asked for; after their first metrics it goes as it would."""
    _, before = stabilized({"v": 20}, {"v": 5}, now=0.0, brief=True)
    _, before = stabilized({"v": 8}, {"v": 20}, before, now=10.0)
    targets, before = stabilized({"v": 20}, {"v": 20}, before, now=40.0, partial=True)
    assert replicas(targets) == {"v": 20}
    targets, _ = stabilized({"v": 8}, {"v": 20}, before, now=50.0)
    assert replicas(targets) == {"v": 8}


def test_what_was_asked_for_before_metrics_were_missing_counts_on() -> None:
    """However long they were, the first cycle that knows the whole load lowers nothing."""
    _, before = stabilized({"v": 9}, {"v": 9}, now=0.0)
    for now in (50.0, 100.0, 150.0):
        _, before = stabilized({"v": 9}, {"v": 9}, before, now=now, partial=True)
    targets, _ = stabilized({"v": 2}, {"v": 9}, before, now=200.0)
    assert replicas(targets) == {"v": 9}


def test_more_than_is_published_is_asked_for_whatever_part_is_known() -> None:
    """A part of the load is a lower bound: a rise counts, and for the whole window."""
    _, before = stabilized({"v": 4}, {"v": 4}, now=0.0)
    targets, before = stabilized({"v": 9}, {"v": 4}, before, now=10.0, partial=True)
    assert replicas(targets) == {"v": 9}
    targets, _ = stabilized({"v": 4}, {"v": 9}, before, now=100.0)
    assert replicas(targets) == {"v": 9}


def test_replicas_stay_while_the_rate_rises() -> None:
    """The window is over, but the rate is on its way up; once it stands, they go."""
    _, before = stabilized({"a": 2}, {}, now=0.0)
    held, before = stabilized({"a": 2}, {"a": 4}, before, now=150.0, rising=True)
    assert held["a"].replicas == 4
    assert "rises" in held["a"].reason
    gone, _ = stabilized({"a": 2}, {"a": 4}, before, now=160.0)
    assert gone["a"].replicas == 2


def test_a_rise_does_not_keep_what_a_queue_asked_for() -> None:
    """It has been worked off; what the arrivals asked for meanwhile stays while the rate rises."""
    _, before = stabilized({"v": 9}, {"v": 9}, now=0.0)
    _, before = stabilized({"v": 20}, {"v": 9}, before, now=10.0, brief=True)
    targets, before = stabilized({"v": 8}, {"v": 20}, before, now=45.0, rising=True)
    assert replicas(targets) == {"v": 9}
    # And beyond the window, as what the arrivals asked for does.
    targets, _ = stabilized({"v": 7}, {"v": 9}, before, now=190.0, rising=True)
    assert replicas(targets) == {"v": 9}


def test_a_rise_keeps_what_a_queue_asked_for_while_it_is_there() -> None:
    """Requests still wait, and more arrive: beyond the window too, no replica of those that start goes."""
    _, before = stabilized({"v": 20}, {"v": 9}, now=10.0, brief=True)
    targets, before = stabilized({"v": 12}, {"v": 20}, before, now=111.0, brief=True, rising=True)
    assert replicas(targets) == {"v": 20}
    # While the rate stands, the window alone counts.
    targets, _ = stabilized({"v": 12}, {"v": 20}, before, now=120.0, brief=True)
    assert replicas(targets) == {"v": 12}


def test_load_that_came_back_keeps_its_replicas_longer() -> None:
    """It was away for 200 s, and the window is 100 s: the next fall waits for twice that time."""
    before: Before | None = None
    published, targets = 9, dict[int, int]()
    for now in range(0, 1500, 10):
        needed = 9 if now < 300 or 500 <= now < 800 else 4
        steady, before = stabilized(
            {"v": needed}, {"v": published}, before, now=float(now), rate_rps=needed
        )
        targets[now] = published = steady["v"].replicas
    assert (targets[380], targets[400], targets[490]) == (9, 4, 4)
    assert (targets[510], targets[1190], targets[1250]) == (9, 9, 4)


def test_load_of_which_a_part_was_not_known_is_no_load_that_came_back() -> None:
    """Half of the pods do not answer for 200 s: the next fall waits for no more than the window."""
    before: Before | None = None
    published, targets = 9, dict[int, int]()
    for now in range(0, 1100, 10):
        hidden = 300 <= now < 500
        needed = 9 if now < 800 else 4
        steady, before = stabilized(
            {"v": needed}, {"v": published}, before,
            now=float(now), partial=hidden, rate_rps=4.5 if hidden else needed,
        )  # fmt: skip
        targets[now] = published = steady["v"].replicas
    assert (targets[870], targets[910]) == (9, 4)


def test_a_raised_target_is_dated() -> None:
    """Its replicas are ready a start-up later, not a start-up after each cycle."""
    _, before = stabilized({"v": 5}, {"v": 2}, now=10.0)
    _, before = stabilized({"v": 5}, {"v": 5}, before, now=20.0)
    assert before["v"].raised_at == 10.0


def test_replicas_of_another_accelerator_are_another_number() -> None:
    """A change of accelerator applies at once, whatever was recommended on the former one."""
    _, before = stabilized({"v": 5}, {"v": 5}, now=0.0)
    targets, _ = stabilized({"v": 2}, {"v": 5}, before, now=10.0, accelerator="other")
    assert replicas(targets) == {"v": 2}


def test_the_window_retains_no_more_than_is_published() -> None:
    """Without the recommendations of a former cycle, only the published target is retained."""
    targets, _ = stabilized({"v": 9}, {"v": 9}, now=0.0)
    assert replicas(targets) == {"v": 9}
    targets, _ = stabilized({"v": 2}, {"v": 5}, now=10.0)
    assert replicas(targets) == {"v": 5}


@pytest.mark.parametrize(
    ("free", "retained"),
    [
        pytest.param(14, 5, id="enough"),
        pytest.param(13, 2, id="short"),
    ],
)
def test_devices_planned_for_others_are_not_retained(free: int, retained: int) -> None:
    """Five replicas of one variant and two of another take fourteen devices: with fewer, the plan counts."""
    targets, _ = stabilized({"v": 2, "w": 2}, {"v": 5, "w": 2}, now=0.0)
    released = stabilization.release_devices(
        {f"n/{name}": target for name, target in targets.items()},
        {f"n/{name}": decision(2) for name in targets},
        inputs(source("v"), source("w"), devices=20),
        {"G": free},
    )
    assert replicas(released) == {"v": retained, "w": 2}
    expected = "" if retained == 5 else "devices are needed elsewhere"
    assert (released["n/v"].reason == expected) is (retained == 2)


def test_devices_of_a_held_variant_are_not_free() -> None:
    """What runs, or is asked for, keeps its devices while its load is not known."""
    held = source("held", replicas=3)
    assert stabilization.free_capacity(inputs(held, devices=10), [held]) == {"G": 4}
    assert stabilization.free_capacity(inputs(held, devices=4), [held]) == {"G": 0}
    assert stabilization.free_capacity(inputs(held, devices=None), [held]) is None


def test_what_a_spec_asks_for_alone_takes_no_devices() -> None:
    """Thousands of replicas of which no pod exists, or replicas that need more devices than there are."""
    held = dataclasses.replace(source("held", replicas=1), spec_replicas=9999, existing=3)
    assert stabilization.free_capacity(inputs(held, devices=10), [held]) == {"G": 4}
    assert stabilization.free_capacity(inputs(held, devices=1), [held]) == {"G": 1}


def test_a_held_variant_whose_accelerator_is_not_known_takes_no_devices() -> None:
    """Such as one whose price has gone; the others are planned with what there is."""
    held = dataclasses.replace(source("held", replicas=3), accelerator="gone")
    assert stabilization.free_capacity(inputs(held, devices=10), [held]) == {"G": 10}


def test_variants_without_a_profile_take_their_devices_first() -> None:
    """One unit per replica; what does not fit is cut and said, and the rest is left to plan with."""
    bare = [dataclasses.replace(source(name), profiles=()) for name in ("a", "b")]
    rule = {"n/a": decision(3), "n/b": decision(2)}
    fitting, left = stabilization.within_capacity(rule, inputs(*bare, devices=9), {"G": 9})
    assert {key: item.candidate.replicas for key, item in fitting.items()} == {"n/a": 3, "n/b": 1}
    assert (fitting["n/a"].served, fitting["n/b"].served) == ("full", "partial")
    assert fitting["n/b"].reason.startswith("1 of 2 replicas: G short")
    assert left == {"G": 1}
    assert stabilization.within_capacity(rule, inputs(*bare, devices=None), None) == (rule, None)


def test_what_a_queue_asked_for_is_no_load_that_falls_and_returns() -> None:
    """Replicas that work off a queue go when it is gone; another queue is no return of the load."""
    before: Before | None = None
    published, targets = 4, dict[int, int]()
    for now in range(0, 700, 10):
        queue = 100 <= now < 140 or 400 <= now < 440
        steady, before = stabilized(
            {"v": 12 if queue else 4}, {"v": published}, before, now=float(now), brief=queue,
            rate_rps=4.0,
        )  # fmt: skip
        targets[now] = published = steady["v"].replicas
    assert (targets[130], targets[190], targets[430], targets[490]) == (12, 4, 12, 4)


def lowered_at(phases: list[tuple[int, int]], limits: StabilizationLimits = FALL) -> list[int]:
    """Seconds at which the target goes down, under phases of so many seconds, each of so many replicas."""
    before: Before | None = None
    published, now, times = phases[0][1], 0, list[int]()
    for seconds, needed in phases:
        end = now + seconds
        while now < end:
            steady, before = stabilized(
                {"v": needed}, {"v": published}, before,
                now=float(now), rate_rps=needed, limits=limits,
            )  # fmt: skip
            if steady["v"].replicas < published:
                times.append(now)
            published = steady["v"].replicas
            now += 10
    return times


def test_what_a_far_fall_leaves_without_need_goes_before_the_window_ends() -> None:
    """The last cycle of the former load was at 290 s."""
    assert lowered_at([(300, 9), (300, 4)], WINDOW) == [390]
    assert lowered_at([(300, 9), (300, 4)]) == [340]


def test_one_replica_less_waits_for_the_whole_window() -> None:
    """That may be the noise of the rate."""
    assert lowered_at([(300, 9), (300, 8)]) == [390]


def test_load_that_came_back_once_has_the_whole_window_again() -> None:
    """The first fall is followed early; after the return, the second one waits longer."""
    first, second = lowered_at([(300, 9), (60, 4), (300, 9), (300, 4)])
    assert first == 340
    assert second >= 750


def test_load_that_varies_after_a_fall_has_the_whole_window() -> None:
    """Back to less than what it fell from is no return that is remembered, and no new fall either."""
    fall, *_, last = lowered_at([(300, 9), (200, 3), (100, 6), (300, 3)])
    assert fall == 340
    assert last >= 690


def test_after_a_start_a_fall_that_no_rate_has_shown_waits_for_the_window() -> None:
    """What ran before is known, but not for which load."""
    _, before = stabilized({"v": 2}, {"v": 7}, now=0.0, rate_rps=2.0, limits=FALL)
    held, before = stabilized({"v": 2}, {"v": 7}, before, now=60.0, rate_rps=2.0, limits=FALL)
    assert replicas(held) == {"v": 7}
    gone, _ = stabilized({"v": 2}, {"v": 7}, before, now=101.0, rate_rps=2.0, limits=FALL)
    assert replicas(gone) == {"v": 2}


@pytest.mark.parametrize(
    ("startup", "window", "fall"), [(20.0, 90.0, 90.0), (60.0, 120.0, 90.0), (117.0, 234.0, 117.0)]
)
def test_a_far_fall_is_held_for_a_start_up(startup: float, window: float, fall: float) -> None:
    """But no shorter than the shortest window; where windows are off, it is too."""
    slow = dataclasses.replace(source("v"), startup_seconds=startup)
    limits = LoopSettings().limits_for(slow)
    assert (limits.down_seconds, limits.fall_seconds) == (window, fall)
    off = LoopSettings(limits=StabilizationLimits()).limits_for(slow)
    assert (off.down_seconds, off.fall_seconds) == (0.0, None)
