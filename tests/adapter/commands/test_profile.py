"""`variant-adapter profile` prints a profile that a VariantAutoscaling takes, or says what to ask instead."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
import yaml

from adapter import cli
from adapter.resources import schemas

absent = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is not None,
    reason="aiconfigurator-core is installed and answers other questions",
)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["profile", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("Qwen/Qwen3-32B", "--gpu", "NVIDIA-H100-80GB-HBM3", "--tp", "2"),
        ("openai/gpt-oss-120b", "--gpu", "H100-SXM", "--tp", "2"),
        ("meta-llama/Llama-3.1-8B-Instruct-FP8", "--gpu", "L40S", "--engine", "sglang"),
    ],
)
def test_the_output_is_a_model_profile(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """The schema of VariantAutoscalings takes it as it is, every number of it."""
    document = yaml.safe_load(printed(capsys, *words))
    profile = schemas.ModelProfile.model_validate(document).accelerators[0]
    assert profile.accelerator == words[2]
    step = profile.parameters.step
    assert step is not None
    written = document["accelerators"][0]["perfParms"]["stepParms"]
    taken = step.model_dump(by_alias=True)
    assert {name: float(value) for name, value in written.items()} == {
        name: taken[name] for name in written
    }
    assert profile.engine is not None
    assert (profile.engine.kv_tokens or 0) > 10_000


@pytest.mark.parametrize("path", ["./nonexist", "/models/mine", "~/weights"])
def test_a_path_is_refused_as_one(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says what is needed instead; a path that ends in a known name is one of it."""
    assert cli.main(["profile", path, "--gpu", "H100"]) == 1
    error = capsys.readouterr().err
    assert f"MODEL {path}: is a path" in error
    assert "name on Hugging Face, such as" in error
    assert "# Qwen/Qwen3-32B" in printed(capsys, "./Qwen3-32B", "--gpu", "H100", "--tp", "2")


def test_source_error_and_meaning_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Comments tell measured from estimated, the error, and what the KV cache holds."""
    measured = printed(capsys, "Qwen/Qwen3-32B", "--gpu", "H100", "--tp", "2")
    assert "# source: measured: fitted to 26 rows" in measured
    assert "# expected error: ITL 2 % on average" in measured
    assert "# requests of 2048/256 tokens: the KV cache holds 139" in measured
    estimated = printed(capsys, "Qwen/Qwen3-32B", "--gpu", "H200", "--tp", "2")
    assert "# source: estimated from kernel times" in estimated
    assert "# expected error: ITL 8 % on average" in estimated


@pytest.mark.parametrize("flags", [("--output", "json"), ("--json",)])
def test_json(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    """The same as one JSON document, by the flag of all commands too."""
    profile: dict[str, Any] = json.loads(printed(capsys, "gpt-oss-20b", "--gpu", "H100", *flags))
    assert (profile["source"], profile["precision"], profile["measured_rows"]) == (
        "estimated",
        "fp4",
        0,
    )
    assert 5 < profile["error_percent"] < 30
    assert [row["input_tokens"] for row in profile["implied"]] == [512, 2048, 8192]
    assert all(row["itl_ms"] > row["itl_ms_one_request"] for row in profile["implied"])


def test_settings_of_the_engine_count(capsys: pytest.CaptureFixture[str]) -> None:
    """An FP8 cache holds twice the tokens, a smaller share of the memory fewer; limits pass through."""

    def engine(*words: str) -> dict[str, int]:
        text = printed(capsys, "Qwen/Qwen3-8B", "--gpu", "H100", *words)
        limits: dict[str, int] = yaml.safe_load(text)["accelerators"][0]["engine"]
        return limits

    plain = engine()
    assert engine("--kv-cache-dtype", "fp8")["kvTokens"] == pytest.approx(
        2 * plain["kvTokens"], abs=1
    )
    less = engine("--gpu-memory-utilization", "0.8")
    assert less["kvTokens"] < plain["kvTokens"]
    assert engine("--gpu-memory-utilization", "80%") == less
    assert engine("--max-num-batched-tokens", "2048")["kvTokens"] > plain["kvTokens"]
    limited = engine("--max-num-seqs", "64", "--max-num-batched-tokens", "2048")
    assert (limited["maxNumSeqs"], limited["maxNumBatchedTokens"]) == (64, 2048)


@absent
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "Qwen/Qwen3-33B --gpu H100",
            "MODEL Qwen/Qwen3-33B: not in the catalog (nearest: Qwen/Qwen3-32B",
        ),
        ("Qwen/Qwen3-33B --gpu H100", "pip install '.[profile]'"),
        ("Qwen/Qwen3-32B-AWQ --gpu H100", "has Qwen/Qwen3-32B in bf16 or fp8, not in int4"),
        ("Qwen/Qwen3-32B --gpu H101", "--gpu H101: not a GPU of the catalog; nearest: H"),
        (
            "Qwen/Qwen3-32B --gpu foo",
            "--gpu foo: not a GPU of the catalog; it has A100-SXM, H100-SXM",
        ),
        ("Qwen/Qwen3-32B-FP8 --gpu A100", "on H100-SXM, H200, B200, B300, GB200"),
        (
            "Qwen/Qwen3-32B --gpu H100 --tp 3",
            "--tp 3: the catalog has Qwen/Qwen3-32B (bf16) on H100-SXM",
        ),
        (
            "meta-llama/Llama-3.3-70B-Instruct --gpu H100",
            "Llama-3.1-70B-Instruct (bf16) do not fit 1 x H100-SXM of 80 GiB; use --tp 2, 4 or 8, or",
        ),
        (
            "meta-llama/Llama-3.3-70B-Instruct --gpu L40S --tp 2",
            "131 GiB of weights of meta-llama/Llama-3.1-70B-Instruct (bf16) do not fit 2 x L40S of 45",
        ),
        (
            "Qwen/Qwen3-32B --gpu H100 --tp 2 --gpu-memory-utilization 0.3",
            "--gpu-memory-utilization 0.3: 34 GiB of weights and buffers leave no KV cache",
        ),
        (
            "Qwen/Qwen3-32B --gpu H100 --max-model-len 40960",
            "--max-model-len 40960: one request of that length exceeds the KV cache of 24",
        ),
    ],
)
def test_what_cannot_be_answered(capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    """One line names the flag, what there is instead, and the fix."""
    assert cli.main(["profile", *words.split()]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--gpu-memory-utilization", "0"),
        ("--gpu-memory-utilization", "nan"),
        ("--gpu-memory-utilization", "1.1"),
        ("--gpu-memory-utilization", "110%"),
        ("--gpu", " "),
        ("--max-num-seqs", "0"),
        ("--tp", "-1"),
        ("--engine", "trtllm"),
        ("--kv-cache-dtype", "int4"),
    ],
)
def test_values_out_of_range(capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    """They are refused with the flag's name and exit status 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["profile", "Qwen/Qwen3-8B", "--gpu", "H100", *words])
    assert ended.value.code == 2
    assert f"argument {words[0]}" in capsys.readouterr().err
