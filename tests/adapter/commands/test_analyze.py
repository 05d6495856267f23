"""`variant-adapter analyze`: JSON lines in and out, the table, and errors that name the field."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter import cli
from adapter.formats import cases
from analyzer import capacity, queueing

CASE: dict[str, Any] = {
    "alpha": 20.58,
    "beta": 0.41,
    "gamma": 5.2,
    "delta": 0.1,
    "max_batch": 4,
    "max_queue": 40,
    "input_tokens": 128,
    "output_tokens": 178,
}
REPLICA = queueing.Replica(
    alpha_ms=20.58, beta_ms=0.41, gamma_ms=5.2, delta_ms=0.1,
    input_tokens=128, output_tokens=178, max_batch=4, max_queue=40,
)  # fmt: skip


def ask(*given_cases: Any) -> list[dict[str, Any]]:
    lines = [item if isinstance(item, str) else json.dumps(item) for item in given_cases]
    return [json.loads(line) for line in cases.answer_lines(lines)]


def test_an_arrival_rate_is_analyzed() -> None:
    """The answer has every figure of the steady state under its name."""
    (answer,) = ask({**CASE, "rate_rps": 0.5})
    steady = queueing.analyze(REPLICA, 0.5)
    for name in (
        "throughput_rps", "response_ms", "waiting_ms", "in_service", "prefill_ms",
        "itl_ms", "ttft_ms", "utilization", "blocking",
    ):  # fmt: skip
        assert answer[name] == getattr(steady, name)


def test_targets_are_sized_for() -> None:
    """The answer has the largest rate for each target and for all of them."""
    (answer,) = ask({**CASE, "target_ttft_ms": 500, "target_itl_ms": 24, "target_tps": 1000})
    sized = capacity.size(REPLICA, ttft_ms=500, itl_ms=24, tps=1000)
    assert isinstance(sized, capacity.Capacity)
    assert answer["max_rate_ttft_rps"] == pytest.approx(sized.ttft_rate_rps, rel=1e-12)
    assert answer["max_rate_itl_rps"] == pytest.approx(sized.itl_rate_rps, rel=1e-12)
    assert answer["max_rate_tps_rps"] == pytest.approx(sized.tps_rate_rps, rel=1e-12)
    assert answer["max_rate_rps"] == pytest.approx(sized.rate_rps, rel=1e-12)
    assert (answer["infeasible"], answer["binding"]) == (None, "ttft")


def test_an_unreachable_target_says_which_and_what_is_best() -> None:
    """The rate for the other target is still there; the rate for both is not."""
    (answer,) = ask({**CASE, "target_ttft_ms": 500, "target_itl_ms": 20})
    assert answer["infeasible"]["target"] == "itl"
    assert answer["infeasible"]["target_ms"] == 20
    assert answer["infeasible"]["best_ms"] == pytest.approx(20.99, rel=1e-4)
    assert answer["max_rate_itl_rps"] is None
    assert answer["max_rate_rps"] is None
    assert answer["max_rate_ttft_rps"] > 0


def test_a_rate_with_targets_is_counted_in_replicas() -> None:
    """Replicas carry the rate, or tokens per second if they ask for more, and predict what each does."""
    more = {"target_ttft_ms": 500, "target_itl_ms": 24, "id": ["any", 1]}
    plain, tokens, least, longer = ask(
        {**CASE, **more, "rate_rps": 2.0},
        {**CASE, **more, "rate_rps": 0.0, "target_tps": 2.0 * 178},
        {**CASE, **more, "rate_rps": 0.0, "min_replicas": 2},
        {**CASE, **more, "rate_rps": 2.0, "at_tokens": 356},
    )
    assert plain["id"] == ["any", 1]
    assert plain["replicas"] == -(-2.0 // plain["goodput_rps"])
    assert plain["ttft_ms"] <= 500
    assert plain["offered_rps"] == 2.0 / plain["replicas"]
    assert tokens["replicas"] == plain["replicas"]
    assert (least["replicas"], least["waiting_ms"]) == (2, 0)
    assert longer["max_batch"] == 8


def test_percentiles_are_asked_for_in_percent() -> None:
    """With a percentile the answer has it, and targets bound it."""
    mean, high = ask(
        {**CASE, "target_ttft_ms": 500, "rate_rps": 0.1},
        {**CASE, "target_ttft_ms": 500, "rate_rps": 0.1, "percentile": 95},
    )
    assert high["max_rate_ttft_rps"] < mean["max_rate_ttft_rps"]
    at = queueing.percentiles(REPLICA, high["offered_rps"], 0.95)
    assert high["ttft_percentile_ms"] == at.ttft_ms


def test_a_target_beyond_all_latencies() -> None:
    """It binds nothing, and no warning of the arithmetic reaches the user."""
    flat = {**CASE, "gamma": 0, "delta": 0}
    # Beside a case that is searched for by its percentile.
    _, answer = ask(
        {**flat, "target_ttft_ms": 500, "percentile": 0.5}, {**flat, "target_ttft_ms": 1e300}
    )
    assert answer["binding"] == "stability"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"alpha": -1}, "alpha: must be a number >= 0, not -1"),
        ({"alpha": float("nan")}, "alpha: must be a number >= 0, not nan"),
        ({"beta": None}, "beta: must be a number"),
        ({"max_batch": 0}, "max_batch: must be a whole number from 1"),
        ({"max_batch": 1e300}, "max_batch: must be a whole number from 1"),
        ({"max_batch": 10**400}, "max_batch: "),
        ({"max_batch": 4.5}, "max_batch: must be a whole number"),
        ({"output_tokens": 0}, "output_tokens: must be a number >= 1, not 0"),
        ({"target_itl_ms": 0}, "target_itl_ms: must be a number > 0, not 0"),
        ({"percentile": 100}, "percentile: must be < 100"),
        ({"percentile": 1}, "percentile: 1 lets 99 % of the requests miss the targets"),
        ({"percentile": "p0.9"}, "percentile: must be a number"),
        ({"stability_margin": 1}, "stability_margin: must be a number >= 0 and < 1"),
        ({"rate_rps": -1, "target_ttft_ms": 900}, "rate_rps: must be a number >= 0, not -1"),
        (
            {"rate_rps": float("nan"), "target_ttft_ms": 900},
            "rate_rps: must be a number >= 0, not nan",
        ),
        ({"rate_rps": 1e300}, "rate_rps: must be at most 16666666, which is 1e+09 requests per"),
        ({"rate_rps": float("inf")}, "rate_rps: must be at most 16666666, which is 1e+09"),
        ({"target_tps": 1e300}, "target_tps: must be at most "),
        ({"target_itl_ms": float("nan")}, "target_itl_ms: must be a number > 0, not nan"),
        ({"aplha": 3}, "aplha: is not known; did you mean alpha?"),
        ({"max_batch": None, "maxbatch": 4}, "maxbatch: is not known; did you mean max_batch?"),
        ({"rpm": 3}, "rpm: is not known; did you mean rate_rps (requests per second)?"),
        ({"rate_rpm": 3}, "rate_rpm: is not known; did you mean rate_rps (requests per second)?"),
        ({"at_tokens": 1e9}, "at_tokens: must not scale max_batch to more than 1048576, not 1e+09"),
        ({"zzz": 3}, "zzz: is not known; known are id, alpha, beta"),
        ({"alpha": 0, "beta": 0, "gamma": 0, "delta": 0}, "alpha, beta, gamma, delta: a request"),
    ],
)
def test_a_wrong_case_is_answered_with_its_error(wrong: dict[str, Any], said: str) -> None:
    """The error names the field as the case has it, and the lines around it are answered."""
    good = {**CASE, "target_ttft_ms": 900}
    before, answer, after = ask(good, {**good, **wrong}, good)
    assert answer["error"].startswith(said)
    assert list(answer) == ["error"]
    assert before == after
    assert before["max_rate_rps"] > 0


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_target_next_to_nothing_is_a_miss() -> None:
    """No warning of numpy is printed between the answers."""
    (answer,) = ask({**CASE, "target_ttft_ms": 1e-320})
    assert answer["infeasible"]["target"] == "ttft"


def test_what_is_no_case_is_answered_too() -> None:
    """Text, lists, missing fields and nothing to do are errors of their line."""
    answers = ask("{", [], {"alpha": 1}, CASE, "[" * 100_000, {**CASE, "id": [float("inf")]})
    assert [item["error"].split(":")[0] for item in answers] == [
        "not JSON", "must be a JSON object", "beta",
        "rate_rps, target_ttft_ms, target_itl_ms, target_tps", "not JSON", "id",
    ]  # fmt: skip


def test_a_key_that_is_there_twice_is_an_error_that_names_it() -> None:
    """Which of the two is meant nobody knows; other lines have their answers."""
    text = json.dumps({**CASE, "id": 7, "rate_rps": 1.0})
    doubled = text[:-1] + ', "rate_rps": 2.0}'
    nested = text.replace('"id": 7', '"id": {"a": 1, "a": 2}')
    other = text[:-1] + ', "id": 8}'
    answers = [json.loads(line) for line in cases.answer_lines([doubled, text, nested, other])]
    assert "error" not in answers[1]
    assert answers[0] == {
        "id": 7,
        "error": "rate_rps: is more than once in the object of this line",
    }
    assert answers[2]["error"].startswith("a: is more than once")
    assert answers[3]["error"].startswith("id: is more than once")
    assert "id" not in answers[3]


numbers = st.none() | st.floats() | st.integers() | st.sampled_from(["", "1", "nan"])


@given(
    st.lists(st.dictionaries(st.sampled_from([*cases.Case.model_fields, "x"]), numbers), max_size=5)
)
def test_every_line_has_one_answer(documents: list[dict[str, Any]]) -> None:
    """Whatever comes in, one JSON object comes out for each line, none with NaN."""
    lines = cases.answer_lines([json.dumps({**CASE, **document}) for document in documents])
    assert len(lines) == len(documents)
    for line in lines:
        json.loads(line, parse_constant=pytest.fail)


def test_lines_are_answered_before_the_input_ends() -> None:
    """A program may ask one case, read its answer, and ask the next; a last line needs no newline."""
    command = [sys.executable, "-m", "adapter", "analyze", "--jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        for rate in (0.1, 0.2):
            run.stdin.write(json.dumps({**CASE, "rate_rps": rate}) + "\n")
            run.stdin.flush()
            assert json.loads(run.stdout.readline())["offered_rps"] == rate
        run.stdin.write(json.dumps({**CASE, "rate_rps": 0.3}))
        run.stdin.close()
        assert json.loads(run.stdout.read())["offered_rps"] == 0.3
        assert run.wait(300) == 0


STEP_FLAGS = [
    "analyze", "--step-base-ms", "8", "--step-per-prefill-token-ms", "0.02", "--output-tokens", "64",
]  # fmt: skip
FLAGS = [
    "analyze",
    "--alpha",
    "20.58",
    "--beta",
    "0.41",
    "--max-batch",
    "4",
    "--output-tokens",
    "178",
]


def test_flags_print_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """The published example: 40 requests a minute need two replicas."""
    assert cli.main([*FLAGS, "--rpm", "40", "--ttft", "500", "--itl", "24"]) == 0
    text = capsys.readouterr().out
    assert "bound by ttft" in text
    assert "0.666667 req/s needs 2 replicas; each then has" in text
    assert cli.main([*FLAGS, "--itl", "20"]) == 0
    assert "ITL target 20 ms cannot be met" in capsys.readouterr().out


def test_json_is_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the object that --jsonl would."""
    assert cli.main([*FLAGS, "--rate", "0.5", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ttft_ms"] == pytest.approx(309.3306, rel=1e-6)


def test_the_plot_is_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--plot draws beside the answer; a folder that is not there is an error that names the file."""
    picture = tmp_path / "model.png"
    assert cli.main([*FLAGS, "--ttft", "500", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main([*FLAGS, "--ttft", "500", "--plot", str(tmp_path / "no" / "x.png")]) == 1
    assert "x.png: cannot be written: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("margin", [3, 1, -0.1, float("nan")])
def test_a_margin_out_of_range_is_refused_without_a_target(margin: float) -> None:
    """A rate alone needs no margin; a wrong one is refused nevertheless."""
    steps = {"step_base_ms": 7, "step_per_prefill_token_ms": 0.04, "output_tokens": 128}
    for replica in (CASE, steps):
        (answer,) = ask({**replica, "rate_rps": 0.1, "stability_margin": margin})
        assert answer == {
            "error": f"stability_margin: must be a number >= 0 and < 1, not {margin:g}"
        }


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["analyze", "--alpha", "1"], "--beta: is missing"),
        ([*FLAGS, "--rate", "-1"], "--rate: must be a number >= 0"),
        (FLAGS, "--rate, --rpm, --ttft, --itl, --tps: one of them must be given"),
        ([*FLAGS, "--rpm", "nan"], "--rpm: must be a number >= 0, not nan"),
        ([*FLAGS, "--rpm", "1.1e9"], "--rpm: must be at most 1e+09, not 1.1e+09"),
        ([*FLAGS, "--rate", "1e300"], "--rate: must be at most 16666666, which is 1e+09 requests"),
        (
            [*STEP_FLAGS, "--itl", "20", "--rate", "1e300"],
            "--rate: must be at most 16666666, which is 1e+09 requests per minute, not 1e+300",
        ),
        ([*STEP_FLAGS, "--tps", "1e300"], "--tps: must be at most "),
        ([*FLAGS, "--ttft", "-2"], "--ttft: must be a number > 0, not -2"),
        ([*FLAGS, "--jsonl"], "--jsonl takes its cases from standard input"),
    ],
)
def test_wrong_flags_are_usage_errors(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and one line that names the field."""
    assert cli.main(flags) == 2
    assert said in capsys.readouterr().err


def test_a_time_in_another_unit_is_told_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags of milliseconds say so where the value is a duration as other flags take it."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*FLAGS, "--ttft", "0.5s"])
    assert ended.value.code == 2
    assert "--ttft: must be a number, in ms, not '0.5s'" in capsys.readouterr().err


def test_times_in_seconds_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    """A replica a thousand times too fast is answered, and said to be one; of ms nothing is said."""
    sized = ["--max-batch=4", "--output-tokens=178", "--rpm=40", "--itl=24"]
    for alone in ("--alpha=20.58", "--alpha=0"):
        assert cli.main(["analyze", alone, "--beta=0.08", *sized]) == 0
        assert capsys.readouterr().err == ""
    assert cli.main(["analyze", "--alpha=0.02058", "--beta=0.00041", *sized]) == 0
    said = capsys.readouterr().err
    assert said.startswith("note: a step with 16 requests takes 0.0271 ms, which no server reaches")


def test_a_line_that_is_no_text_costs_itself_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are not UTF-8 are the error of their line; the lines beside it are answered."""
    case = b'{"id": "\xc3\xa9", "alpha": 10, "beta": 1, "max_batch": 4, "output_tokens": 9, "rate_rps": 1}'
    text = b"\n".join((case, case.replace(b"\xc3", b""), case[:9]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert cli.main(["analyze", "--jsonl"]) == 0
    good, bad, short = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["id"] == "\u00e9"
    assert good["throughput_rps"] > 0
    assert bad == {"error": "not UTF-8: character 9 of the line"}
    assert short == bad
