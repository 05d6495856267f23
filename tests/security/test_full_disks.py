"""A file system without room: a tmpfs of 64 KiB, mounted where only the test's own child sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

UNSHARE = shutil.which("unshare") or ""

CAN_MOUNT = (
    os.geteuid() == 0
    and bool(UNSHARE)
    and subprocess.run([UNSHARE, "-m", "true"], check=False, capture_output=True).returncode == 0
)

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting a tmpfs needs root")

MOUNTED = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -P -c "$3" "$1"'

START = """
import errno, os, sys
from pathlib import Path

folder = Path(sys.argv[1])
ROOM = os.statvfs(folder)
assert ROOM.f_blocks * ROOM.f_frsize == 65536
LONG = "x" * 100_000


def refused(write, *more):
    try:
        write()
    except (OSError, *more) as error:
        assert getattr(error, "errno", errno.ENOSPC) == errno.ENOSPC, error
        return str(error)
    raise AssertionError("there was room")


"""


def inside(folder: Path, program: str) -> str:
    """Run a program that has the small file system; give what it prints."""
    ended = subprocess.run(
        [UNSHARE, "-m", "sh", "-c", MOUNTED, "sh", str(folder), sys.executable, START + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_report_that_does_not_fit_leaves_the_last_one(tmp_path: Path) -> None:
    """The old text is there, no part of the new one, and the next that fits is written."""
    inside(
        tmp_path,
        """
from adapter.formats import files

path = folder / "report.html"
files.write_text(path, "old")
assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(0o022)
refused(lambda: files.write_text(path, LONG))
assert path.read_text() == "old"
assert os.listdir(folder) == ["report.html"]
files.write_text(path, "new")
assert path.read_text() == "new"
""",
    )


def test_results_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    """What a certificate or a result needs for its draft is free again afterwards."""
    inside(
        tmp_path,
        """
from certs import authority

path = folder / "tls.crt"
authority.write_private(path, b"old")
refused(lambda: authority.write_private(path, LONG.encode()))
assert path.read_bytes() == b"old"
assert os.listdir(folder) == ["tls.crt"]
authority.write_private(path, b"n" * 40_000)
assert len(path.read_bytes()) == 40_000
""",
    )


def test_a_recording_goes_on_where_the_disk_was_full(tmp_path: Path) -> None:
    """The error names the file; what was recorded before is there, once, and so is what comes after."""
    inside(
        tmp_path,
        """
from adapter import errors
from adapter.formats.request_sampling import Request
from adapter.formats.trace_file import TraceFile

def requests(first, count):
    return [Request(float(first + n), 10, 20) for n in range(count)]

def opened():
    file = TraceFile(folder / "trace.csv")
    return file, file.open({"a": 1})

file, begun = opened()
assert begun is None
file.append(requests(0, 100), settings={"a": 1}, progress={"done": 100})
filler = folder / "filler"
refused(lambda: filler.write_bytes(b"x" * 100_000))
said = refused(
    lambda: file.append(requests(100, 5000), settings={"a": 1}, progress={"done": 5100}),
    errors.InputError,
)
assert said.endswith("trace.csv: No space left on device"), said
filler.unlink()
file, begun = opened()
assert begun == {"done": 100}
file.append(requests(100, 100), settings={"a": 1}, progress={"done": 200})
file.complete()
lines = (folder / "trace.csv").read_text().splitlines()
assert len(lines) == 201, len(lines)
""",
    )
