"""A replay as a whole: reproducible, from the command line, over the samples, and as the model predicts."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from adapter import cli
from analyzer import queueing
from analyzer.queueing import Replica
from emulator.replay import POLICIES, compare, report, running, scenario, tables
from emulator.replay.policies import Static
from emulator.replay.results import Comparison
from emulator.replay.running import Run
from emulator.replay.scenario import OfferedTraffic
from emulator.traces import Trace
from tests.emulator.replay.small_scenarios import generated, one_model

SAMPLES = Path(__file__).parents[3] / "manifests/samples"
REPLAYS = SAMPLES / "replay"
PUBLIC = sorted((SAMPLES / "traces").iterdir())


def stepping(seed: int = 5) -> OfferedTraffic:
    return generated(kind="step", levels=[[240, 120], [300, 360]], seed=seed)


def everything(comparison: Comparison) -> str:
    return json.dumps(tables.document(comparison, curves=True), allow_nan=False)


def test_same_bits_for_a_seed() -> None:
    """Two replays give the same document, curves included, and the same page."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, which is an extra")
    policies = ("ours", "hpa-queue", "kpa@4", "clairvoyant")
    first, second = (compare.compare(one_model(), {"m": stepping()}, policies) for _ in range(2))
    assert everything(first) == everything(second)
    assert report.html(first) == report.html(second)
    assert [item.policy for item in first.results] == list(policies)
    other = compare.compare(one_model(), {"m": stepping(6)}, ("hpa-queue",))
    assert other.results[0].within != first.results[1].within


def test_same_bits_in_every_process(tmp_path: Path) -> None:
    """What is printed does not depend on the process: neither on its hashes nor on what it did before."""
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "adapter", "replay", "--json", "--quiet",
             "--scenario", str(REPLAYS / "scenario.yaml"), "--trace", str(PUBLIC[0]),
             "--policies", "ours,kpa@4,slo-aware,hpa-queue,static,clairvoyant"],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True, timeout=300,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert outputs[0] == outputs[1]
    assert len(json.loads(outputs[0])["outcomes"]) == 6


@pytest.mark.parametrize("trace", PUBLIC, ids=[path.stem for path in PUBLIC])
def test_public_traces(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sample of a public format is replayed, the first with all policies: only JSON, and a page."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, which is an extra")
    page = tmp_path / "page.html"
    policies = list(POLICIES) if trace == PUBLIC[0] else ["ours", "static"]
    status = cli.main(
        ["replay", "--scenario", str(REPLAYS / "scenario.yaml"), "--trace", str(trace), "--json",
         "--html", str(page), "--quiet", "--policies", ",".join(policies)]
    )  # fmt: skip
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    document = json.loads(printed.out)
    assert document["trace"] == trace.name
    assert document["requests"] > 190
    assert [item["policy"] for item in document["outcomes"]] == policies
    for result in document["outcomes"]:
        assert result["classes"][0]["requests"] > 90
        assert result["cost_cents"] > 0
    assert trace.name in page.read_text()


@pytest.mark.parametrize("name", ["step", "diurnal", "burst"])
def test_generated_samples(name: str) -> None:
    """Each trace spec says its seed, and lasts between 20 and 45 minutes."""
    path = REPLAYS / f"{name}.yaml"
    assert "seed: " in path.read_text()
    assert 1200 <= scenario.load(path).duration_seconds <= 2700
    assert len(scenario.steps(path)) == (name == "step")


def test_two_classes_on_few_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """Where GPUs are short, ours serves the class of the higher priority first; the reference does not."""
    assert cli.main(["replay", "--scenario", str(REPLAYS / "two-classes.yaml"), "--json", "--quiet",
                     "--policies", "ours,reference"]) == 0  # fmt: skip
    results = json.loads(capsys.readouterr().out)["outcomes"]
    within = [{c["service_class"]: c["within"] for c in item["classes"]} for item in results]
    assert within[0]["Premium"] > 1.4 * within[1]["Premium"]
    assert within[1]["Premium"] < within[1]["Freemium"]


def test_the_help_says_the_adapter_where_it_is_not_a_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`ours` is a value of --policies, and the help says of what."""
    with pytest.raises(SystemExit):
        cli.main(["replay", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "where ours is this adapter" in text
    assert "the adapter is replayed with each" in text
    assert "ours is replayed" not in text


def test_lines_that_are_left_out_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong line of a trace is named on stderr, and the rest is replayed; the output stays clean."""
    trace = tmp_path / "cut.csv"
    trace.write_text(PUBLIC[0].read_text() + "2023-11-16 18:1")
    scenario_path = str(REPLAYS / "scenario.yaml")
    command = ["replay", "--scenario", scenario_path, "--trace", str(trace)]
    assert cli.main([*command, "--policies", "in-flight@8", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert f"left out: {trace}:228: GeneratedTokens: missing" in printed.err
    assert json.loads(printed.out)


def test_unknown_policy(capsys: pytest.CaptureFixture[str]) -> None:
    """A policy that is not there is named with those that are, and nothing is replayed."""
    status = cli.main(
        ["replay", "--scenario", str(REPLAYS / "scenario.yaml"), "--policies", "ours,hpa-cpu"]
    )
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert "--policies: no hpa-cpu; there are ours, " in printed.err


def test_keda_is_asked_for_by_its_trigger(capsys: pytest.CaptureFixture[str]) -> None:
    """KEDA scales by many quantities: the hint names the policies for them."""
    scenario = str(REPLAYS / "scenario.yaml")
    assert cli.main(["replay", "--scenario", scenario, "--policies", "ours,keda@8"]) == 2
    assert "--policies: no keda@8; KEDA scales by " in (said := capsys.readouterr().err)
    assert "in-flight@THRESHOLD" in said


@pytest.mark.parametrize("number", ["x", "", "0", "nan"])
def test_a_threshold_that_is_none_is_named(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A known rival with a wrong threshold is told what a threshold is, not which rivals there are."""
    words = ["replay", "--scenario", str(REPLAYS / "scenario.yaml"), "--policies"]
    assert cli.main([*words, f"in-flight@{number}"]) == 2
    said = capsys.readouterr().err
    assert f"--policies: in-flight@{number}: the threshold (requests in flight per pod)" in said
    assert f"must be a number from 0.001 to 1e+06, or sweep, not {number!r}" in said


@pytest.mark.parametrize("name", ["kv@80", "slo-aware@55", "cost-aware@85", "dynamo@80", "wva@85"])
def test_a_threshold_in_percent_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Thresholds that are shares are told apart from percentages, which would never scale."""
    words = ["replay", "--scenario", str(REPLAYS / "scenario.yaml"), "--policies"]
    assert cli.main([*words, name]) == 2
    said = capsys.readouterr().err
    assert f"--policies: {name}: the threshold (" in said
    assert f"from 0.001 to 2 (a share: 80 % is 0.8), or sweep, not '{name[-2:]}'" in said


def test_an_interrupted_comparison_says_how_to_resume(tmp_path: Path) -> None:
    """Ctrl-C after the first policy: what is finished stays, and the message names the folder."""
    out = tmp_path / "results"
    policies = ",".join(["queue@1", *(f"in-flight@{n}" for n in range(2, 12))])
    # In a process of its own: an interrupt inside what measures coverage would leave its lock taken for ever.
    command = [
        sys.executable, "-m", "adapter", "replay", "--scenario", str(REPLAYS / "scenario.yaml"),
        "--trace", str(PUBLIC[0]), "--policies", policies, "--jobs", "1", "--out", str(out),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as replay:
        while replay.poll() is None and not any(out.glob("*.json")):
            time.sleep(0.001)
        replay.send_signal(signal.SIGINT)
        _, said = replay.communicate()
    assert replay.returncode == 130, said.decode()
    assert 1 <= len(list(out.glob("*.json"))) < 11
    assert f"finished policies are in {out}; rerun the command to resume" in said.decode()


def test_table_and_page_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json a table is printed, and where the page is; a page that cannot be written is an error."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, which is an extra")
    command = ["replay", "--scenario", str(REPLAYS / "scenario.yaml"), "--quiet", "--policies",
               "hpa-kv-cache", "--trace", str(PUBLIC[0]), "--html"]  # fmt: skip
    assert cli.main([*command, str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert "HPA on KV-cache use" in printed
    assert not [line for line in printed.splitlines() if line.endswith(" ")]
    assert printed.endswith(f"written: {tmp_path / 'page.html'}\n")


@pytest.mark.parametrize("place", ["", "none/page.html"], ids=["folder", "missing-folder"])
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """A comparison of an hour is not lost to a wrong name: not even the scenario is read."""
    page = tmp_path / place
    assert cli.main(["replay", "--scenario", "/none", "--html", str(page)]) == 2
    assert f"--html {page}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_trace_is_named_by_its_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever gave --trace is not sent to the scenario, and a window that is too short is told so."""
    command = [
        "replay",
        "--scenario",
        str(REPLAYS / "scenario.yaml"),
        "--quiet",
        "--policies",
        "static",
    ]
    assert cli.main([*command, "--trace", str(tmp_path / "none.csv")]) == 1
    assert "replay: --trace: " in capsys.readouterr().err
    assert cli.main([*command, "--trace", str(PUBLIC[0]), "--to", "2s"]) == 1
    assert "lasts 2 s; give a longer one, more of it (--from, --to)" in capsys.readouterr().err


def test_a_reader_that_is_gone() -> None:
    """`replay | head`: nothing is said of it, and the status is that of a broken pipe."""
    command = [sys.executable, "-m", "adapter", "replay", "--quiet", "--policies", "hpa-kv-cache",
               "--scenario", str(REPLAYS / "scenario.yaml"), "--trace", str(PUBLIC[0])]  # fmt: skip
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=300, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_progress_goes_from_0_to_1() -> None:
    """What is told never goes back, begins at 0 and ends at 1, and names the policies in their order."""
    told: list[tuple[str, float]] = []
    policies = ("hpa-queue", "static", "reference", "clairvoyant")
    compare.compare(
        one_model(),
        {"m": generated(duration_seconds=180, rate_rpm=120)},
        policies,
        progress=lambda name, share: told.append((name, share)),
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert max(np.diff(shares)) < 0.2
    assert {name for name, _ in told} == set(policies)


def memoryless(rate_rps: float, requests: int, seed: int) -> Trace:
    """The model's assumptions: Poisson arrivals, and requests whose work is exponential."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1.0 / rate_rps, requests))
    return Trace(
        arrival_seconds=arrivals,
        input_tokens=np.full(requests, 128, dtype=np.int64),
        output_tokens=1 + rng.geometric(1.0 / 177.0, requests),
        duration_seconds=float(arrivals[-1]),
    )


@pytest.mark.parametrize(("load", "requests"), [(0.4, 5_000), (0.7, 10_000)])
def test_steady_state_is_what_the_analyzer_predicts(load: float, requests: int) -> None:
    """One replica under constant Poisson load has the mean TTFT and ITL of the queueing model.

    TTFT within 3 % beyond the 99.9 % confidence interval of ten runs. ITL within 0.5 %, once it is known that
    the first gap of a request also has the rest of an iteration in it, on average half of one, which counts
    for more the fewer its tokens are.
    """
    replica = Replica(alpha_ms=20.58, beta_ms=0.41, gamma_ms=5.2, delta_ms=0.1, input_tokens=128,
                      output_tokens=178, max_batch=8, max_queue=800)  # fmt: skip
    replay_scenario = one_model(warmUp=600)
    rate = load * replica.max_rate_rps
    ttft, itl, first_gaps = [], [], []
    for seed in range(10):
        trace = memoryless(rate, requests, seed)
        given = Run(scenario=replay_scenario, traffic={"m": trace}, steps={})
        result = running.run(given, lambda cluster: Static(cluster, {"chat": 1})).classes[0]
        assert result.unfinished == 0
        ttft.append(result.ttft_mean_ms)
        itl.append(result.itl_mean_ms)
        first_gaps.append(
            0.5 * result.itl_mean_ms * float(np.mean(1.0 / (trace.output_tokens - 1)))
        )
    steady = queueing.analyze(replica, rate)
    chance = float(stats.t.ppf(0.9995, 9) * np.std(ttft, ddof=1) / math.sqrt(10))
    assert chance < 0.25 * steady.ttft_ms
    assert abs(np.mean(ttft) - steady.ttft_ms) < chance + 0.03 * steady.ttft_ms
    assert np.mean(itl) - np.mean(first_gaps) == pytest.approx(steady.itl_ms, rel=0.005)
