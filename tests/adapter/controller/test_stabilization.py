"""Targets across passes: windows hold them, devices that others need do not stay held."""

from __future__ import annotations

import pytest

from adapter.controller.stabilization import Steadying
from adapter.controller.state import VariantState
from adapter.planning import fleet, plan
from adapter.resources.inputs import Contents
from adapter.resources.variant import VariantSource
from analyzer.latency import LatencyParameters
from optimizer import problem
from optimizer.explain import Explanation
from optimizer.stabilization import Limits

WINDOW = Limits(down_seconds=100.0)


def source(name: str, *, replicas: int = 0) -> VariantSource:
    """A variant that runs on GPU units of two devices each."""
    profile = fleet.Profile(
        accelerator="2xG", max_batch=4, latency=LatencyParameters(alpha_ms=10, beta_ms=1)
    )
    return VariantSource(
        namespace="n", name=name, model="m", service_class="c", profiles=(profile,),
        targets=fleet.Targets(), accelerator="2xG", endpoints=(), replicas=replicas,
        wanted=replicas,
    )  # fmt: skip


def decision(replicas: int, accelerator: str = "2xG") -> plan.Decision:
    candidate = problem.Candidate(
        accelerator=accelerator, replicas=replicas, max_batch=4, cost=1.0, itl_ms=1.0,
        ttft_ms=1.0, max_rate_rpm=1.0,
    )  # fmt: skip
    explanation = Explanation(binding="", sized="", runner_up=None, shortages=())
    return plan.Decision(
        candidate=candidate, value=0.0, served="full", arrival_rate_rps=1.0,
        explanation=explanation, reason="",
    )  # fmt: skip


def contents(*sources: VariantSource, devices: int | None) -> Contents:
    unit = fleet.Accelerator(name="2xG", device_type="G", unit_cost=1.0, multiplicity=2)
    return Contents(
        accelerators=(unit,),
        variants=sources,
        capacity=None if devices is None else {"G": devices},
    )


def steadied(
    steadying: Steadying, wanted: dict[str, int], before: dict[str, int], *,
    now: float, devices: int | None = None, left: int | None = None, accelerator: str = "2xG",
) -> dict[str, int]:  # fmt: skip
    """Replicas by name; `left` of the devices were planned with."""
    sources = {name: source(name) for name in wanted}
    found = steadying.steadied(
        {f"n/{name}": decision(number, accelerator) for name, number in wanted.items()},
        {
            f"n/{name}": VariantState(source=sources[name], desired=number, accelerator="2xG")
            for name, number in before.items()
        },
        contents=contents(*sources.values(), devices=devices),
        capacity=None if left is None else {"G": left},
        now=now,
        limits=WINDOW,
    )
    return {key.partition("/")[2]: replicas for key, (replicas, _) in found.items()}


def test_a_new_leader_takes_the_target_for_just_wanted() -> None:
    """It knows nothing of what was wanted before, and lowers nothing for a whole window."""
    steadying = Steadying()
    assert steadied(steadying, {"v": 2}, {"v": 5}, now=0.0) == {"v": 5}
    assert steadied(steadying, {"v": 2}, {"v": 5}, now=99.0) == {"v": 5}
    assert steadied(steadying, {"v": 2}, {"v": 5}, now=101.0) == {"v": 2}


def test_replicas_of_another_accelerator_are_another_number() -> None:
    """A change of accelerator is followed at once, whatever was wanted on the former one."""
    steadying = Steadying()
    steadied(steadying, {"v": 5}, {"v": 5}, now=0.0)
    assert steadied(steadying, {"v": 2}, {"v": 5}, now=10.0, accelerator="other") == {"v": 2}


def test_who_is_forgotten_begins_anew() -> None:
    """A variant that is gone leaves no window behind."""
    steadying = Steadying()
    steadied(steadying, {"v": 9}, {"v": 9}, now=0.0)
    steadying.keep([])
    assert steadied(steadying, {"v": 2}, {"v": 5}, now=10.0) == {"v": 5}


@pytest.mark.parametrize(
    ("devices", "left", "kept"),
    [
        pytest.param(None, None, 5, id="unlimited"),
        pytest.param(14, 14, 5, id="enough"),
        pytest.param(13, 13, 2, id="short"),
        pytest.param(20, 13, 2, id="others-hold-the-rest"),
    ],
)
def test_nobody_keeps_what_was_promised_to_another(
    devices: int | None, left: int | None, kept: int
) -> None:
    """Five of one kept and two of another take fourteen devices: where fewer can be had, the plan counts."""
    wanted, before = {"v": 2, "w": 2}, {"v": 5, "w": 2}
    found = steadied(Steadying(), wanted, before, now=0.0, devices=devices, left=left)
    assert found == {"v": kept, "w": 2}


def test_devices_of_who_is_held_are_not_free() -> None:
    """What runs, or is asked for, keeps its devices while its load is not known."""
    held = source("held", replicas=3)
    assert Steadying().left(contents(held, devices=10), [held]) == {"G": 4}
    assert Steadying().left(contents(held, devices=4), [held]) == {"G": 0}
    assert Steadying().left(contents(held, devices=None), [held]) is None
