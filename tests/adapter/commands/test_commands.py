"""The commands as a user runs them: own processes, real sockets, the real kubectl."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from emulator.demo import scenario

BIN = Path(sys.executable).parent
METRIC = "/apis/external.metrics.k8s.io/v1beta1/namespaces/llm-d-sim/inferno_desired_replicas"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start programs that are ended with the test, by their own process."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, log: str = "stderr") -> subprocess.Popen[str]:
        with (tmp_path / log).open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=tmp_path
            )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def kubectl(kubeconfig: str, path: str) -> Any:
    """What `kubectl get --raw` prints."""
    done = subprocess.run(
        [BIN / "kubectl", "--kubeconfig", kubeconfig, "get", "--raw", path],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def eventually(found: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """The first truthy answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def read_until(stream: IO[str] | None, pattern: str) -> str:
    """The first group of the pattern in the first line that has it."""
    assert stream is not None
    for line in stream:
        if match := re.search(pattern, line):
            return match[1]
    raise AssertionError(f"{pattern} never came")


@pytest.mark.slow
def test_demo_from_one_replica_to_two_and_back(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The demo scales to two and back to one, kubectl reads the number, and the CSV has it all."""
    out = tmp_path / "out"
    demo = start(
        str(BIN / "variant-adapter"), "demo", "--no-tui", "--duration", "120", "--speed", "8",
        "--out", str(out),
    )  # fmt: skip
    kubeconfig = read_until(demo.stdout, r"kubectl --kubeconfig (\S+) get --raw")
    path = METRIC + "?labelSelector=variant_name%3Dvllme-deployment"
    items = eventually(lambda: kubectl(kubeconfig, path)["items"])
    assert len(items) == 1
    assert items[0]["value"] in {"1", "2"}
    assert items[0]["metricLabels"]["model_name"] == "default/default"
    assert demo.stdout is not None
    printed = demo.stdout.read()
    assert demo.wait(60) == 0, printed + (tmp_path / "stderr").read_text()
    with (out / "timeline.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "time_s", "variant", "arrival_rate_rpm", "desired_replicas", "current_replicas",
        "ttft_ms", "itl_ms", "cost_cents",
    ]  # fmt: skip
    assert {row["desired_replicas"] for row in rows} >= {"1", "2"}
    assert max(int(row["current_replicas"]) for row in rows) == 2
    assert rows[-1]["current_replicas"] == rows[-1]["desired_replicas"] == "1"
    assert (out / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "SLO attainment" in printed
    assert not Path(kubeconfig).exists()


@pytest.mark.slow
def test_demo_stops_cleanly_on_interrupt(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Ctrl-C ends the demo with status 0, its timeline so far, and no server left behind."""
    demo = start(str(BIN / "variant-adapter"), "demo", "--no-tui", "--speed", "5")
    read_until(demo.stdout, r"(kubectl) --kubeconfig")
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    assert children
    read_until(demo.stdout, r"(offered)")
    demo.send_signal(signal.SIGINT)
    assert demo.stdout is not None
    assert "interrupted: all servers were stopped" in demo.stdout.read()
    assert demo.wait(20) == 0
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)


@pytest.mark.slow
def test_serve_reads_scrapes_serves_and_follows_changes(
    start: Callable[..., subprocess.Popen[str]], objects: Path, tmp_path: Path
) -> None:
    """Serve publishes a target from scraped metrics, takes changed files, and ends on SIGTERM."""
    server = start(
        sys.executable, "-m", "emulator.vllm", "--port", "0", "--speed", "10", log="vllm"
    )
    url = read_until(server.stdout, r"listening on (\S+)")
    scenario.write_deployment(objects, [url], 1)
    (objects / "bad.yaml").write_text("kind: [")
    state = tmp_path / "state"
    adapter = start(
        str(BIN / "variant-adapter"), "serve", "--variants", str(objects), "--port", "0",
        "--interval", "500ms", "--scrape-interval", "200ms", "--window", "5s",
        "--state-dir", str(state), "--log-format", "json",
    )  # fmt: skip
    kubeconfig = state / "kubeconfig"
    eventually(kubeconfig.exists)
    items = eventually(lambda: kubectl(str(kubeconfig), METRIC)["items"])
    assert items[0]["value"] == "1"
    scenario.write_deployment(objects, [url], 4)
    current = METRIC.replace("desired", "current")
    eventually(lambda: kubectl(str(kubeconfig), current)["items"][0]["value"] == "4")
    (objects / "variant.yaml").unlink()
    eventually(lambda: not kubectl(str(kubeconfig), METRIC)["items"])
    adapter.terminate()
    assert adapter.wait(15) == 0
    log = (tmp_path / "stderr").read_text()
    assert "bad.yaml: not valid YAML" in log
    assert "Traceback" not in log


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "variant-adapter", *args], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    """Serve on a missing folder fails with its name and no traceback."""
    done = run("serve", "--variants", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere: no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_one_line(objects: Path) -> None:
    """Serve on a taken port says which one, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        scenario.write_deployment(objects, [], 1)
        done = run("serve", "--variants", str(objects), "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "choose one with --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("serve", "--variants", "x", "--interval", "soon"), "must be a duration such as 60s"),
        (("demo", "--schedule", "[[10]]"), "schedule[0]: must be [seconds, rate]"),
        (("demo", "--speed", "0"), "must be a number above 0"),
        (("serve", "--variants", "x", "--port", "70000"), "must be 0..65535"),
    ],
)
def test_bad_flags_are_named(args: tuple[str, ...], said: str) -> None:
    """A flag with a bad value ends with status 2 and says what it takes."""
    done = run(*args)
    assert done.returncode == 2
    assert said in done.stderr
