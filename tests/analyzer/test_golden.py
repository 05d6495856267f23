"""The reference's cases: against their float64 truth, and against the Go program within its float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzer import capacity, errors, queueing

CASES = json.loads((Path(__file__).parent / "golden.json").read_text())["cases"]
VALID = [case for case in CASES if "newErr" not in case]

# The reference subtracts a gamma there that its service time does not contain, or divides 0 by 0.
ITL_DIFFERS = {"edge:inTokens=0,gamma>0", "edge:outTokens=1,inTokens=0", "edge:beta=delta=0"}
# Of a constant function the reference reads float32 noise as its slope.
FLAT = {"edge:maxBatch=1", "edge:maxBatch=1,maxQueue=0", "edge:beta=0", *ITL_DIFFERS}


def f32(value: float) -> float:
    """The reference read its parameters as float32."""
    return float(np.float32(value))


def replica(case: dict[str, Any]) -> queueing.Replica:
    return queueing.Replica(
        alpha_ms=f32(case["alpha"]),
        beta_ms=f32(case["beta"]),
        gamma_ms=f32(case["gamma"]),
        delta_ms=f32(case["delta"]),
        input_tokens=case["inTokens"],
        output_tokens=case["outTokens"],
        max_batch=case["maxBatch"],
        max_queue=case["maxQueue"],
    )


def analyzed() -> list[tuple[dict[str, Any], dict[str, Any], queueing.Performance]]:
    """Every solve of the reference that has a truth, with ours."""
    return [
        (case, row, queueing.analyze(replica(case), f32(row["rate"])))
        for case in VALID
        for row in case["analyze"]
        if "t" in row
    ]


Sized = tuple[dict[str, Any], Any, Any, float, str, capacity.Capacity | capacity.Unreachable]


def sized() -> list[Sized]:
    """Every search of the reference: case, truth, Go's rate or None, target, its name, and ours."""
    searches: list[Sized] = []
    for case in VALID:
        for row in case["size"]:
            for place, target in enumerate(capacity.TARGETS):
                wanted = f32(row[target])
                if wanted <= 0 or "t" not in row:
                    continue
                ours = (
                    capacity.size(replica(case), ttft_ms=wanted)
                    if target == "ttft"
                    else capacity.size(replica(case), itl_ms=wanted)
                )
                go = f32(row["rates"][place]) if "rates" in row and row["agree"] else None
                searches.append((case, row["t"][place], go, wanted, target, ours))
    return searches


def rate(size: capacity.Capacity | capacity.Unreachable, target: str) -> float:
    assert isinstance(size, capacity.Capacity), str(size)
    value = size.ttft_rate_rps if target == "ttft" else size.itl_rate_rps
    assert value is not None
    return value


def test_analysis_equals_the_truth() -> None:
    """All seven figures agree with the float64 truth to 1e-9 of themselves, the waiting time too."""
    rows = analyzed()
    assert len(rows) > 1000
    for case, row, ours in rows:
        figures = {
            "throughput": ours.throughput_rps,
            "response": ours.response_ms,
            "waiting": ours.waiting_ms,
            "in_service": ours.in_service,
            "prefill": ours.prefill_ms,
            "itl": ours.itl_ms,
            "utilization": ours.utilization,
        }
        for (name, figure), truth in zip(figures.items(), row["t"], strict=True):
            if truth == "NaN" or (name == "itl" and case["tag"] in ITL_DIFFERS):
                continue
            assert figure == pytest.approx(truth, rel=1e-9, abs=1e-280), (case["id"], name)


def test_analysis_equals_go_within_float32() -> None:
    """The same against the Go program, with the tolerance that its float32 noise calls for."""
    compared = 0
    for case, row, ours in analyzed():
        go = row.get("m")
        if go is None:
            continue
        compared += 1
        noise = 1e-4 * ours.response_ms
        where = (case["id"], row["rate"])
        assert ours.throughput_rps == pytest.approx(go["tput"], rel=1e-5), where
        assert ours.in_service == pytest.approx(go["rho"] * case["maxBatch"], rel=1e-5), where
        assert ours.utilization == pytest.approx(go["rho"], rel=1e-5), where
        assert ours.response_ms == pytest.approx(go["resp"], rel=1e-4), where
        assert ours.waiting_ms == pytest.approx(go["wait"], abs=noise), where
        if case["tag"] not in ITL_DIFFERS:
            assert ours.itl_ms == pytest.approx(go["itl"], rel=1e-5), where
            assert ours.prefill_ms == pytest.approx(
                go["prefill"],
                rel=1e-2 if case["gamma"] < 1e-3 else 1e-4,
                abs=1e-5 * ours.response_ms,
            ), where
            assert ours.ttft_ms == pytest.approx(go["wait"] + go["prefill"], abs=noise), where
    assert compared > 1000


def test_sizing_equals_the_truth() -> None:
    """Every largest rate agrees to 1e-9, and every verdict `max` and `infeasible` is the same."""
    rates = 0
    for case, truth, _, wanted, target, ours in sized():
        where = (case["id"], target, wanted)
        if truth == "NaN" or (target == "itl" and case["tag"] in ITL_DIFFERS):
            continue
        if truth == "infeasible":
            assert isinstance(ours, capacity.Unreachable), where
            assert ours.target == target
            assert ours.best_ms > wanted
            continue
        expected = 0.999 * replica(case).max_rate_rps if truth == "max" else truth
        assert rate(ours, target) == pytest.approx(expected, rel=1e-9), where
        rates += 1
    assert rates > 500


def test_sizing_equals_go_within_float32() -> None:
    """Go's rate gives the target in our model, or differs by no more than its search's tolerance."""
    compared = 0
    for case, truth, go, wanted, target, ours in sized():
        if go is None or truth in {"NaN", "max", "infeasible"} or case["tag"] in FLAT:
            continue
        at_go, beside = (queueing.analyze(replica(case), value) for value in (go, go * 1.0001))
        there, near = (getattr(steady, f"{target}_ms") for steady in (at_go, beside))
        elasticity = (near / there - 1.0) / 1e-4
        # Go's waiting time is a difference of two response times in float32.
        noise = 1e-6 * at_go.response_ms if target == "ttft" else 0.0
        met = there == pytest.approx(wanted, rel=1e-5, abs=noise)
        close = rate(ours, target) == pytest.approx(
            go, rel=max(1e-4, 5e-6 / max(elasticity, 1e-12))
        )
        assert met or close, (case["id"], target, wanted)
        compared += 1
    assert compared > 300


@pytest.mark.parametrize("case", [c for c in CASES if "newErr" in c], ids=lambda case: case["tag"])
def test_what_the_reference_refuses_is_refused(case: dict[str, Any]) -> None:
    """Invalid cases are refused here too, by the name of the parameter."""
    names = {
        "maxBatch": "max_batch",
        "maxQueue": "max_queue",
        "in": "input_tokens",
        "out": "output_tokens",
    }
    with pytest.raises(errors.InvalidParameterError) as caught:
        replica(case)
    assert caught.value.parameter == names[case["tag"].removeprefix("edge:invalid-")]


def test_overload_that_the_reference_refuses_has_a_result() -> None:
    """Rates above its largest are analyzed: goodput stays below mu(N), the rest is blocked."""
    rows = [
        (case, row["rate"])
        for case in VALID
        for row in case["analyze"]
        if "max allowed rate" in row.get("err", "")
    ]
    assert rows
    for case, offered in rows:
        ours = queueing.analyze(replica(case), f32(offered))
        assert 0 < ours.throughput_rps < replica(case).max_rate_rps
        assert ours.blocking > 0


def test_the_published_log_lines_of_august_2025() -> None:
    """The first published version: decoding only, 10 N in the system, an exponential 95 % margin.

    Its mean of K tokens per request is K decodes, and its wait target is divided by -ln(1 - 0.95).
    """
    ours = queueing.Replica(
        alpha_ms=20.58, beta_ms=0.41, gamma_ms=0, delta_ms=0,
        input_tokens=0, output_tokens=178 + 1, max_batch=4, max_queue=9 * 4,
    )  # fmt: skip
    target = 500 / -np.log1p(-0.95)
    size = capacity.size(ours, ttft_ms=target, itl_ms=24)
    assert isinstance(size, capacity.Capacity)
    assert size.binding == "ttft"
    assert size.rate_rps * 60 == pytest.approx(25.31145, rel=2e-6)
    replicas = capacity.replicas_needed(40 / 60, size.rate_rps)
    assert replicas == 2
    steady = queueing.analyze(ours, 40 / 60 / 2)
    assert steady.itl_ms == pytest.approx(21.49347, rel=1e-6)
    assert steady.waiting_ms == pytest.approx(69.7666, rel=1e-5)  # float32 noise in the log line
    assert steady.waiting_ms == pytest.approx(69.766788, rel=1e-7)
    assert steady.busy == pytest.approx(0.71789724, rel=1e-6)
