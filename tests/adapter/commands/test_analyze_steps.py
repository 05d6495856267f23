"""`variant-adapter analyze` of replicas that step times describe."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter import cli
from adapter.formats import cases, step_cases

CAPACITY: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "replica" / "capacity.json").read_text()
)
CASE: dict[str, Any] = {
    "step_base_ms": 7.0,
    "step_per_request_ms": 0.05,
    "step_per_prefill_token_ms": 0.04,
    "step_per_context_token_ms": 4e-5,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "kv_tokens": 432_000,
    "input_tokens": 512,
    "output_tokens": 128,
    "input_tokens_cv": 0.9,
    "output_tokens_cv": 0.65,
}
SIZED = {**CASE, "target_ttft_ms": 1000, "target_itl_ms": 25}
LINEAR = {"alpha": 20.58, "beta": 0.41, "max_batch": 4, "output_tokens": 178, "rate_rps": 0.1}


def ask(*given_cases: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in cases.answer_lines([json.dumps(item) for item in given_cases])
    ]


def recorded(case: dict[str, Any], percentile: float | None) -> dict[str, Any]:
    base, request, prefill, context = case["step_ms"]
    asked = {
        "step_base_ms": base, "step_per_request_ms": request,
        "step_per_prefill_token_ms": prefill, "step_per_context_token_ms": context,
        "max_num_seqs": case["max_num_seqs"],
        "max_num_batched_tokens": case["max_num_batched_tokens"],
        "kv_tokens": 16 * case["kv_blocks"],
        "input_tokens": case["mean_input"], "output_tokens": case["mean_output"],
        "input_tokens_cv": case["cv_input"], "output_tokens_cv": case["cv_output"],
        "target_ttft_ms": case["ttft"], "target_itl_ms": case["itl"],
    }  # fmt: skip
    return asked if percentile is None else {**asked, "percentile": percentile}


@pytest.mark.parametrize(
    ("name", "percentile", "low", "high"), [("mean", None, 0.88, 1.03), ("p95", 95, 0.85, 1.05)]
)
def test_rates_are_those_that_the_real_scheduler_holds(
    name: str, percentile: float | None, low: float, high: float
) -> None:
    """Within the bracket of each case, less or more than its goal."""
    for case, answer in zip(
        CAPACITY, ask(*(recorded(c, percentile) for c in CAPACITY)), strict=True
    ):
        holds, fails = case["max_rate_rps"][name]
        assert low * holds <= answer["max_rate_rps"] <= high * fails, case["name"]


def test_an_answer_has_todays_fields_and_those_of_the_engine() -> None:
    """The rate of each target alone is at least that of all; the tails are those at the largest rate."""
    (answer,) = ask({**SIZED, "target_itl_ms": 23, "target_tps": 100, "percentile": 95, "id": 7})
    assert answer["id"] == 7
    assert answer["binding"] == "itl"
    assert answer["infeasible"] is None
    assert answer["max_rate_rps"] == answer["goodput_rps"] == answer["max_rate_itl_rps"]
    assert answer["max_rate_ttft_rps"] > answer["max_rate_rps"]
    assert answer["max_rate_tps_rps"] > answer["max_rate_rps"]
    assert answer["max_batch"] == 64
    assert answer["kv_bound_batch"] > 400
    assert answer["ttft_p95_ms"] <= 1000
    assert 20 < answer["itl_p95_ms"] <= 23


def test_no_target_alone_is_said_to_hold_less_than_all() -> None:
    """Both are missed at nearly the same rate; more may be kept free of one than of the other."""
    (answer,) = ask({**SIZED, "percentile": 95})
    assert answer["binding"] == "ttft"
    assert answer["max_rate_rps"] <= answer["max_rate_itl_rps"] < 1.02 * answer["max_rate_rps"]


@pytest.mark.parametrize(
    ("percentile", "tails"), [("95", []), ("0.95", []), ("95%", []), ("p99", ["p99: TTFT"])]
)
def test_the_table_shows_each_percentile_once(
    percentile: str, tails: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """p95 always has lines of its own; another percentile gets one below them."""
    flags = [
        word for name, value in CASE.items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert cli.main(["analyze", *flags, "--rate", "5", "--percentile", percentile]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert sum(line.startswith("TTFT p95") for line in lines) == 1
    assert [line[:9] for line in lines if line.startswith("p9")] == tails


@pytest.mark.parametrize(("margin", "share"), [("20%", 0.2), ("0.2", 0.2)])
def test_a_margin_may_be_written_in_percent(
    margin: str, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `plan`."""
    flags = ["--alpha", "10", "--beta", "0.1", "--max-batch", "64", "--output-tokens", "128"]
    sized = ["analyze", "--json", *flags, "--tps", "1", "--stability-margin", margin]
    assert cli.main(sized) == 0
    answer = json.loads(capsys.readouterr().out)
    (full,) = ask(
        {
            "alpha": 10, "beta": 0.1, "max_batch": 64, "output_tokens": 128, "target_tps": 1,
            "stability_margin": share,
        }
    )  # fmt: skip
    assert answer["max_rate_rps"] == full["max_rate_rps"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*sized[:-1], "120%"])
    assert ended.value.code == 2
    assert "--stability-margin: must be a number >= 0 and < 1" in capsys.readouterr().err


def test_what_binds_is_named() -> None:
    """A small KV cache, a slow step, many tokens a second, and nothing but stability."""
    small = {**CASE, "kv_tokens": 20_000, "input_tokens": 2000, "output_tokens": 400}
    kv, itl, tps, unknown = ask(
        {**small, "target_ttft_ms": 60_000},
        {**CASE, "target_itl_ms": 9},
        {**CASE, "target_tps": 1},
        {**SIZED, "kv_tokens": None},
    )
    assert (kv["binding"], kv["kv_bound_batch"]) == ("kv", kv["max_batch"])
    assert itl["binding"] == "itl"
    assert tps["binding"] == "tps"
    assert unknown["kv_bound_batch"] is None


def test_a_rate_is_analyzed_and_counted_in_replicas() -> None:
    """Each replica gets its part; a percentile of one's own is between those that are always there."""
    alone, counted = ask(
        {**CASE, "rate_rps": 10.0, "percentile": 92},
        {**SIZED, "rate_rps": 200.0, "min_replicas": 2},
    )
    assert alone["ttft_p90_ms"] < alone["ttft_percentile_ms"] < alone["ttft_p95_ms"]
    assert alone["itl_p90_ms"] < alone["itl_percentile_ms"] < alone["itl_p95_ms"]
    assert alone["stable"]
    assert counted["replicas"] == -(-200.0 // counted["max_rate_rps"])
    assert counted["offered_rps"] == pytest.approx(200.0 / counted["replicas"])
    assert counted["ttft_ms"] <= 1000


def test_overload_is_an_answer() -> None:
    """A TTFT that grows without end has no number; the throughput is what the replica can."""
    (answer,) = ask({**CASE, "rate_rps": 500.0})
    assert not answer["stable"]
    assert answer["ttft_ms"] is None
    assert 10 < answer["throughput_rps"] < 100


def test_a_target_that_cannot_be_met_says_so() -> None:
    """With the best that an idle replica gives."""
    (answer,) = ask({**SIZED, "target_itl_ms": 5})
    assert answer["infeasible"]["target"] == "itl"
    assert answer["infeasible"]["best_ms"] > 7
    assert answer["max_rate_rps"] is None
    assert answer["binding"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"step_base_ms": 0}, "step_base_ms: must be a number > 0, not 0"),
        ({"step_base_ms": 1e-9}, "step_base_ms: must be at least 1e-06, not 1e-09"),
        ({"step_base_ms": 1e10}, "step_base_ms: must be at most 1e+09, not 1e+10"),
        ({"step_base_ms": float("inf")}, "step_base_ms: must be a number > 0, not inf"),
        ({"step_per_request_ms": -1}, "step_per_request_ms: must be a number >= 0, not -1"),
        (
            {"step_per_context_token_ms": float("nan")},
            "step_per_context_token_ms: must be a number",
        ),
        ({"kv_tokens": 600}, "kv_tokens: 600 tokens do not hold one request of the given lengths"),
        ({"input_tokens": 1e6}, "kv_tokens: 432000 tokens do not hold one request"),
        ({"max_num_seqs": 0}, "max_num_seqs: must be a number > 0"),
        ({"max_num_seqs": 4.5}, "max_num_seqs: must be a whole number"),
        ({"max_num_batched_tokens": 64}, "max_num_batched_tokens: must exceed max_num_seqs"),
        ({"input_tokens_cv": -0.1}, "input_tokens_cv: must be a number >= 0"),
        ({"output_tokens": 0}, "output_tokens: must be a number >= 1"),
        ({"cached_tokens": 513}, "cached_tokens: must be at most input_tokens, not 513"),
        ({"rate_rps": float("nan")}, "rate_rps: must be a number >= 0"),
        ({"percentile": 100}, "percentile: must be < 100"),
        ({"alpha": 1.0}, "alpha, step_base_ms: two descriptions of one replica"),
        ({"max_batch": 64}, "max_batch: belongs to alpha and beta"),
        ({"step_base": 3}, "step_base: is not known"),
        (dict.fromkeys(step_cases.STEP_FIELDS), "alpha, step_base_ms: is missing"),
        ({"step_per_prefill_token_ms": None}, "step_per_prefill_token_ms: must be a number"),
    ],
)
def test_a_wrong_case_is_answered_with_its_error(wrong: dict[str, Any], said: str) -> None:
    """The error names the field and the fix, and the lines around it are answered."""
    before, answer, linear, after = ask(SIZED, {**SIZED, **wrong}, LINEAR, SIZED)
    assert answer["error"].startswith(said)
    assert list(answer) == ["error"]
    assert before == after
    assert before["max_rate_rps"] > 0
    assert linear["offered_rps"] == 0.1


def test_limits_of_an_engine_need_step_times() -> None:
    """With alpha and beta they would be ignored, so they are refused."""
    (answer,) = ask({**LINEAR, "kv_tokens": 1000})
    assert answer["error"].startswith("kv_tokens: needs step times")


numbers = st.none() | st.floats() | st.integers() | st.sampled_from(["", "1", "nan"])
FIELDS = [name for name in step_cases.StepCase.model_fields if name != "max_num_seqs"]


@given(st.lists(st.dictionaries(st.sampled_from([*FIELDS, "x"]), numbers), max_size=5))
def test_every_line_has_one_answer(documents: list[dict[str, Any]]) -> None:
    """Whatever comes in, one JSON object comes out for each line, none with NaN."""
    lines = cases.answer_lines([json.dumps({**CASE, **document}) for document in documents])
    assert len(lines) == len(documents)
    for line in lines:
        json.loads(line, parse_constant=pytest.fail)


FLAGS = [
    "analyze", "--step-base-ms", "7", "--step-per-request-ms", "0.05",
    "--step-per-prefill-token-ms", "0.04", "--step-per-context-token-ms", "4e-5",
    "--max-num-seqs", "64", "--kv-tokens", "20000", "--input-tokens", "2000",
    "--output-tokens", "400", "--input-tokens-cv", "0.9",
]  # fmt: skip


def test_flags_print_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """The KV cache binds, and one line says so."""
    assert cli.main([*FLAGS, "--ttft", "60000", "--rate", "20"]) == 0
    text = capsys.readouterr().out
    assert "bound by kv" in text
    assert "KV cache for 8 requests" in text
    assert "ITL p95" in text
    assert cli.main([*FLAGS, "--rate", "500"]) == 0
    assert "grows without end" in capsys.readouterr().out


def test_flags_of_both_forms_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and one line that names both."""
    assert cli.main([*FLAGS, "--alpha", "3", "--rate", "1"]) == 2
    assert "--alpha, --step-base-ms: two descriptions" in capsys.readouterr().err


@pytest.mark.parametrize(
    "replica",
    [
        '"step_base_ms": 10, "step_per_prefill_token_ms": 0.05, "input_tokens": 500',
        '"alpha": 8, "beta": 0.5, "max_batch": 96',
    ],
)
def test_a_percentile_may_be_a_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], replica: str
) -> None:
    """0.95 means what 95 means, in both forms of a case."""
    cases = [
        f'{{{replica}, "output_tokens": 128, "target_itl_ms": 40, "percentile": {percentile}}}'
        for percentile in (0.95, 95, 90)
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(cases).encode())))
    assert cli.main(["analyze", "--jsonl"]) == 0
    share, percent, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert share == percent
    assert percent != other


def test_the_plot_of_step_times_is_a_png(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--plot draws step times as it draws alpha and beta."""
    picture = tmp_path / "steps.png"
    flags = (
        "--step-base-ms 10 --step-per-prefill-token-ms 0.05 --input-tokens 512 --output-tokens 128"
    )
    assert cli.main(["analyze", *flags.split(), "--itl", "40", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "can serve" in capsys.readouterr().out


def test_short_answers_bound_the_percentile_of_the_itl() -> None:
    """A tenth of the answers has a handful of tokens: p99 is theirs; means hardly move."""
    asked = {**CASE, "target_itl_ms": 25, "percentile": 99, "input_tokens": 4000}
    plain, short, zeros = ask(
        asked,
        {**asked, "short_answers": [0.0, 0.08, 0.1, 0.12]},
        {**asked, "short_answers": [0, 0, 0, 0]},
    )
    assert 0 < short["max_rate_rps"] < 0.8 * plain["max_rate_rps"]
    assert zeros["max_rate_rps"] == pytest.approx(plain["max_rate_rps"], rel=1e-6)


@pytest.mark.parametrize("shares", [[0.1, 0.05, 0.2, 0.3], [0.1], [0, 0, 0, 2], ["a"] * 4])
def test_wrong_short_answers_are_named(shares: list[Any]) -> None:
    """The case is not answered."""
    (answer,) = ask({**SIZED, "short_answers": shares})
    assert answer["error"].startswith("short_answers")
