"""The commands as a user runs them: own processes, real sockets, the real kubectl."""

from __future__ import annotations

import json
import re
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
HANG_SECONDS = 300.0
"""After which a wait for a process counts as endless: it decides nothing else."""
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
            process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def kubectl(kubeconfig: str, path: str) -> Any:
    """What `kubectl get --raw` prints."""
    done = subprocess.run(
        [BIN / "kubectl", "--kubeconfig", kubeconfig, "get", "--raw", path],
        capture_output=True, text=True, timeout=HANG_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def eventually(attempt: Callable[[], Any]) -> Any:
    """The first truthy answer."""
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        if answer := attempt():
            return answer
        time.sleep(0.1)
    raise AssertionError("it did not come to hold")


def read_until(stream: IO[str] | None, pattern: str) -> str:
    """The first group of the pattern in the first line that has it."""
    assert stream is not None
    for line in stream:
        if match := re.search(pattern, line):
            return match[1]
    raise AssertionError(f"{pattern} never came")


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
    assert adapter.wait(HANG_SECONDS) == 0
    log = (tmp_path / "stderr").read_text()
    assert "bad.yaml: not valid YAML" in log
    assert "Traceback" not in log


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "variant-adapter", *args],
        capture_output=True, text=True, timeout=HANG_SECONDS, check=False,
    )  # fmt: skip


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    """Serve on a missing folder, or on a file, fails with its name and no traceback."""
    done = run("serve", "--variants", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere: no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "variant.yaml").touch()
    done = run("serve", "--variants", str(tmp_path / "variant.yaml"))
    assert done.returncode == 1
    assert "variant.yaml: is a file; give the folder that it is in" in done.stderr


def test_a_port_in_use_is_one_line(objects: Path) -> None:
    """Serve on a taken port says which one, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        scenario.write_deployment(objects, [], 1)
        done = run("serve", "--variants", str(objects), "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "choose another port with --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("serve", "--variants", "x", "--interval", "soon"), "must be a duration from 100ms to 1h"),
        (("serve", "--variants", "x", "--port", "70000"), "must be 0..65535"),
    ],
)
def test_bad_flags_are_named(args: tuple[str, ...], said: str) -> None:
    """A flag with a bad value ends with status 2 and says what it takes."""
    done = run(*args)
    assert done.returncode == 2
    assert said in done.stderr
