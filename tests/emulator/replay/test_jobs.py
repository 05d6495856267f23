"""Jobs of a comparison: kept results are used again, and processes give the same as one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter import errors
from emulator.replay import compare, tables
from emulator.replay.choices import names
from emulator.replay.jobs import pool, tasks
from emulator.replay.jobs.results_folder import ResultsFolder, decoded, encoded
from emulator.replay.results import Comparison
from emulator.replay.running import Run
from tests.emulator.replay.small_scenarios import generated, one_model

POLICIES = ("queue@2", "in-flight@6", "clairvoyant", "static")
OFFERED = generated(kind="step", levels=[[120, 60], [120, 200]])


def replayed(out: Path | None, told: list[str] | None = None, *, jobs: int = 1) -> Comparison:
    def progress(name: str, share: float) -> None:
        assert 0 <= share <= 1 + 1e-9
        if told is not None:
            told.append(name)

    return compare.compare(
        one_model(), {"m": OFFERED}, POLICIES, out=out, jobs=jobs, progress=progress
    )


def document(comparison: Comparison) -> str:
    return json.dumps(tables.document(comparison, curves=True))


def test_finished_policies_are_not_replayed_again(tmp_path: Path) -> None:
    """A second comparison reads all from the folder: the same document, curves and all digits included."""
    first = replayed(tmp_path)
    told: list[str] = []
    assert document(replayed(tmp_path, told)) == document(first) == document(replayed(None))
    assert told == []
    assert len(list(tmp_path.iterdir())) == 3  # static and clairvoyant are one search


def test_half_written_and_foreign_files_are_done_again(tmp_path: Path) -> None:
    """A cut file, one of another key and one that is no result: each policy is replayed, and kept anew."""
    first = document(replayed(tmp_path))
    for path, text in zip(
        sorted(tmp_path.iterdir()), ('{"key": "', '{"key": "x", "results": []}', "[]"), strict=True
    ):
        path.write_text(text)
    told: list[str] = []
    assert document(replayed(tmp_path, told)) == first
    assert set(told) == set(POLICIES)
    assert document(replayed(tmp_path)) == first


def test_the_key_is_that_of_all_inputs(tmp_path: Path) -> None:
    """Another scenario, trace, step or policy is another job."""
    scenario = one_model()
    (task, other) = tasks.tasks(names.choices(scenario, {}, ("queue@2", "queue@3")))
    trace = {"m": OFFERED.trace}
    runs = [
        Run(scenario=scenario, traffic=trace, steps={}),
        Run(scenario=one_model(warmUp=10), traffic=trace, steps={}),
        Run(scenario=scenario, traffic={"m": generated(duration_seconds=60, rate_rpm=60).trace}, steps={}),
        Run(scenario=scenario, traffic=trace, steps={"m": [(120.0, 240.0)]}),
    ]  # fmt: skip
    keys = {ResultsFolder(tmp_path, given).key(task) for given in runs}
    assert len(keys) == len(runs)
    assert ResultsFolder(tmp_path, runs[0]).key(other) not in keys
    assert ResultsFolder(tmp_path, runs[0]).key(task) in keys


def test_results_keep_every_digit() -> None:
    """Written as JSON and read again, a result is the same, also where a number is missing."""
    for result in replayed(None).results:
        again = decoded(json.loads(json.dumps(encoded(result))))
        assert json.dumps(encoded(again)) == json.dumps(encoded(result))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in its place is one clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match=r"--out .*file: is no folder"):
        replayed(tmp_path / "file")


@pytest.mark.slow
def test_processes_give_the_same(tmp_path: Path) -> None:
    """Two processes give the very results of one, keep them, and tell their progress."""
    told: list[str] = []
    assert document(replayed(tmp_path, told, jobs=2)) == document(replayed(None))
    assert len(list(tmp_path.iterdir())) == 3
    assert set(told) <= set(POLICIES)


@contextlib.contextmanager
def two_processes(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A command with twenty policies in two processes, as soon as one is finished."""
    samples = Path(__file__).parents[3] / "manifests/samples/replay"
    policies = ",".join(f"in-flight@{number}" for number in range(20, 40))
    flags = (
        f"replay --scenario {samples}/vllm.yaml --to 15m --policies {policies} --jobs 2 --out {out}"
    )
    command = [sys.executable, "-P", "-m", "adapter", *flags.split(" ")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        while program.poll() is None and not list(out.glob("*.json")):
            time.sleep(0.02)
        try:
            yield program
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 30])
def test_ctrl_c_ends_all_processes(tmp_path: Path, times: int) -> None:
    """As a terminal sends it, to all: no further job begins, there is no traceback, finished ones stay.

    The same where someone presses it again while the processes end.
    """
    out = tmp_path / "out"
    with two_processes(out) as program:
        os.killpg(program.pid, signal.SIGINT)
        finished = len(list(out.glob("*.json")))
        for _ in range(times - 1):
            time.sleep(0.03)
            os.killpg(program.pid, signal.SIGINT)
        _, said = program.communicate(timeout=300)
    assert program.returncode in {130, -signal.SIGINT}
    assert "Traceback" not in said
    assert f"interrupted: finished policies are in {out}; rerun the command to resume" in said
    # One that was being written when the signal came, and one that ended in the moment before.
    assert len(list(out.glob("*.json"))) <= finished + 2


@pytest.mark.slow
def test_no_process_outlives_the_command(tmp_path: Path) -> None:
    """Ended by what it cannot handle, such as for want of memory, it leaves none that waits without end."""
    with two_processes(tmp_path) as program:
        program.kill()
        # The end of standard error: none has it any more.
        program.communicate(timeout=300)
    assert list(tmp_path.glob("*.json"))


def test_small_work_stays_in_one_process() -> None:
    """A second process is started only where the replays take longer than its start."""
    small = Run(scenario=one_model(), traffic={"m": OFFERED.trace}, steps={})
    few = tasks.tasks(names.choices(small.scenario, {}, ("queue@2", "queue@3")))
    assert pool.default_jobs(small, few) == 1
    many = [few[0]] * 2000
    assert pool.default_jobs(small, many) in {1, 2}
