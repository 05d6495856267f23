"""The checker of sizes: each kind of finding, and the limits themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_sizes.py"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("check_sizes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(root: Path, path: str, source: str = "") -> None:
    """Write one module of a small repository."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source)


def block(header: str, lines: int) -> str:
    """A function or class of so many lines."""
    return "\n".join([header, *["    x = 1"] * (lines - 1), ""])


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        (
            "x = 1\n" * 401,
            "adapter/kube/a.py: module of 401 lines, at most 400",
        ),
        ("x = 1\n" * 451, "tests/test_a.py: module of 451 lines, at most 450"),
        (
            block("def f():", 61),
            "certs/a.py:1: function f of 61 lines, at most 60",
        ),
        (
            block("async def f():", 61),
            "bench/a.py:1: function f of 61 lines, at most 60",
        ),
        (
            "\n" + block("class C:", 221),
            "emulator/a.py:2: class C of 221 lines, at most 220",
        ),
    ],
)
def test_modules_are_measured(
    checker: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    finding: str,
) -> None:
    """One line more than its limit is a finding, with file, kind and both numbers."""
    write(tmp_path, finding.partition(":")[0], source)
    assert checker.main(tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [finding]


@pytest.mark.parametrize(
    ("folder", "most"),
    [("adapter", 10), ("adapter/kube", 13), ("emulator/replay", 17), ("tests/fakes", 17)],
)
def test_packages_are_counted(
    checker: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    most: int,
) -> None:
    """One module more than the limit of its package is a finding; modules of packages inside do not count."""
    for number in range(most):
        write(tmp_path, f"{folder}/a{number}.py")
    write(tmp_path, f"{folder}/inner/a.py")
    assert checker.main(tmp_path) == 0
    write(tmp_path, f"{folder}/b.py")
    assert checker.main(tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}/: {most + 1} modules, at most {most}"
    ]


def test_limits_themselves_are_allowed(checker: ModuleType, tmp_path: Path) -> None:
    """Sizes equal to the limits, and a long decorator, are no finding."""
    table = "".join(f"    {number},\n" for number in range(80))
    write(tmp_path, "analyzer/a.py", "x = 1\n" * 400)
    write(tmp_path, "tests/test_a.py", f"@table([\n{table}])\n{block('def f():', 60)}")
    write(tmp_path, "optimizer/a.py", block("class C:", 220))
    assert checker.main(tmp_path) == 0


def test_this_repository_is_within_its_limits(
    checker: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make lint` checks."""
    assert checker.main() == 0, capsys.readouterr().out
