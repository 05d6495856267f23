"""Modules that commands load: a command imports what it needs, and nothing that takes long without need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp", "cryptography", "kubernetes_asyncio", "matplotlib", "numpy", "pandas",
    "prometheus_api_client", "prometheus_client", "pydantic", "requests", "rich", "scipy", "structlog",
    "yaml",
}  # fmt: skip

PROGRAM = """
import json, sys
from adapter import cli
try:
    cli.main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""

MODEL = (
    "--alpha=8", "--beta=0.2", "--max-batch=64", "--output-tokens=200", "--rate=2", "--itl=24",
)  # fmt: skip


def loaded(*words: str) -> set[str]:
    """Modules that are loaded once the command has ended."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(names)


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("--version",), set()),
        (("--help",), set()),
        *(
            ((name, "--help"), set())
            for name in ("serve", "explain", "doctor", "certs", "record", "analyze", "plan")
        ),
        # Up to the connection, which is refused.
        (("explain", "ns/v", "--url=http://127.0.0.1:9"), {"aiohttp"}),
        (("doctor", "--kubeconfig=/none"), HEAVY - {"numpy", "scipy", "matplotlib", "pandas"}),
        (("certs", "show", "--kubeconfig=/none"), {"aiohttp", "cryptography", "structlog", "rich"}),
        (("analyze", *MODEL), {"numpy", "scipy", "pydantic"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_loads_only_what_it_needs(words: tuple[str, ...], allowed: set[str]) -> None:
    """Of the modules that take long, those that are allowed; kubernetes_asyncio loads with a connection."""
    assert loaded(*words) & HEAVY <= allowed - {"kubernetes_asyncio"}


@pytest.mark.parametrize("words", [("--version",), ("--help",)])
def test_the_command_line_alone_loads_nothing_of_the_adapter(words: tuple[str, ...]) -> None:
    """Commands are loaded when they are called; plug-ins only say what they are."""
    ours = {
        name for name in loaded(*words) if name.startswith(("adapter.", "emulator.", "analyzer"))
    }
    assert ours <= {"adapter.cli", "adapter.errors", "emulator.demo", "emulator.replay"}


@pytest.mark.parametrize("words", [("analyze", *MODEL), ("plan", "--help")])
def test_the_model_does_without_the_optimizers_of_scipy(words: tuple[str, ...]) -> None:
    """Loading scipy.optimize takes longer than an analysis; branch-and-bound alone needs it."""
    assert "scipy.optimize" not in loaded(*words)
