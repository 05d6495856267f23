"""The command line where its output cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ANALYZE = (
    "analyze", "--alpha=20", "--beta=0.4", "--max-batch=4", "--output-tokens=100", "--rpm=3",
)  # fmt: skip


def analyzed(stdout: int, unbuffered: str) -> tuple[int, str]:
    """Exit status and standard error of a command with that standard output."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "adapter", *ANALYZE],
        stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at-exit", "at-once"])
def test_a_full_disk_is_one_line(unbuffered: str) -> None:
    """Whether the write or the flush at the end fails."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        status, said = analyzed(full.fileno(), unbuffered)
    assert (status, said) == (
        1,
        "variant-adapter analyze: output cannot be written: No space left on device\n",
    )


def test_a_reader_that_is_gone_gets_no_message() -> None:
    """As with `| head -1`: the status is that of SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert analyzed(writer, "") == (141, "")
    finally:
        os.close(writer)


INTERRUPTED = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class AtImport(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "adapter.commands.plan":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, AtImport())
from adapter import cli
sys.exit(cli.main(["plan", "-f", "x"]))
"""


def test_ctrl_c_while_a_command_loads_is_no_traceback() -> None:
    """The signal comes as the command's module is imported."""
    command = [sys.executable, "-P", "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_sign_that_the_encoding_lacks_is_written_as_its_escape(
    tmp_path: Path, stream: str
) -> None:
    """Where output is ASCII, a name of a file or an object in other letters ends in no traceback."""
    fleet = (Path(__file__).parents[2] / "manifests/samples/fleet.yaml").read_text()
    path = tmp_path / "fleet.yaml"
    if stream == "stdout":
        path.write_text(fleet.replace("name: chat", "name: chät"), encoding="utf-8")
    else:
        path = tmp_path / "chät.yaml"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "adapter", "plan", "-f", str(path)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert "ch\\xe4t" in getattr(done, stream)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (["plan", "-f", "-"], Path("manifests/samples/fleet.yaml"), "390 cents/h"),
        (["fit", "-"], "batch,itl_ms\n1,20.9\n2,21.4\n4,22.3\n", 'alpha: "20.4'),
    ],
)
def test_a_file_may_be_standard_input(words: list[str], given: Path | str, said: str) -> None:
    """`-` is that, as in other commands."""
    if isinstance(given, Path):
        given = (Path(__file__).parents[2] / given).read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "adapter", *words],
        input=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
