"""Modules that commands load: a command imports what it needs, and nothing that takes long without need."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from adapter import cli
from adapter.kube.client import connected
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api, kubernetes_stand_in
from tests.fakes.healthy_cluster import healthy

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


FLEET = """\
accelerators: [{name: A, cost: 40}]
classes: [{name: C, priority: 1, models: [{model: m, itl_ms: 24}]}]
profiles: [{model: m, accelerator: A, alpha: 8, beta: 0.2, max_batch: 64}]
variants:
  - {name: v, class: C, model: m, rate_rpm: 600, output_tokens: 128}
  - {name: w, class: C, model: m, rate_rpm: 600, output_tokens: 128}
"""


def loaded(*words: str) -> set[str]:
    """Modules that are loaded once the command has ended."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(names)


@pytest.mark.parametrize(
    "words", [("--version",), ("--help",), *((name, "--help") for name in cli.known_commands())]
)
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    """Help of every command, plug-ins included, loads what parses flags."""
    assert not loaded(*words) & HEAVY


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        # Up to the connection, which is refused.
        (("explain", "ns/v", "--url=http://127.0.0.1:9"), {"aiohttp"}),
        (("doctor", "--kubeconfig=/none"), {"aiohttp", "cryptography", "pydantic", "yaml"}),
        (("certs", "show", "--kubeconfig=/none"), {"aiohttp", "cryptography", "yaml"}),
        (("analyze", *MODEL), {"numpy", "pydantic"}),
        (("plan", "-f", "FLEET"), {"numpy", "pydantic", "yaml"}),
        (("plan", "-f", "AMPLE"), {"numpy", "pydantic", "yaml"}),
        (("plan", "-f", "SCARCE"), {"numpy", "pydantic", "yaml"}),
        (("plan", "-f", "TAIL"), {"numpy", "pydantic", "yaml"}),
        (("profile", "Qwen/Qwen3-32B", "--gpu=H100-SXM", "--output=json"), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_loads_only_what_it_needs(
    words: tuple[str, ...], allowed: set[str], tmp_path: Path
) -> None:
    """Of the modules that take long, those that are allowed: scipy only for many plans."""
    fleets = {
        "FLEET": "",
        "AMPLE": "capacity: {A: 9}\n",
        "SCARCE": "capacity: {A: 1}\n",
        "TAIL": "",
    }
    for name, capacity in fleets.items():
        (tmp_path / name).write_text(FLEET + capacity)
    tail = FLEET.replace("itl_ms: 24", "itl_ms: 24, ttft_ms: 900, percentile: 95")
    (tmp_path / "TAIL").write_text(tail)
    given = [str(tmp_path / word) if word in fleets else word for word in words]
    assert loaded(*given) & HEAVY <= allowed


@pytest.mark.parametrize("words", [("explain",), ("doctor",), ("certs", "show")], ids=" ".join)
@pytest.mark.parametrize("by_plug_in", [False, True], ids=["certificates", "plug-in"])
async def test_a_connection_by_certificates_does_without_kubernetes_asyncio(
    words: tuple[str, ...], tmp_path: Path, *, by_plug_in: bool
) -> None:
    """A kubeconfig that holds its credentials, or names a program that prints them, needs no library.

    It takes longer to load than all else. Schemas are loaded where there is an object to read: there is none.
    """
    async with kubernetes_api.running(tmp_path) as site:
        entrance = await site.entrance("person")
        if by_plug_in:
            kubernetes_stand_in.printed_by_program(entrance.kubeconfig)
        modules = await asyncio.to_thread(loaded, *words, f"--kubeconfig={entrance.kubeconfig}")
        async with connected(entrance.kubeconfig) as cluster:
            assert await cluster.request("GET", "/version")
    assert "adapter.kube.client" in modules
    assert not modules & {"kubernetes_asyncio", "numpy", "pydantic", "rich", "scipy", "structlog"}


async def test_doctor_loads_what_it_reads_of_an_installation(tmp_path: Path) -> None:
    """Schemas, variants and HPAs, and nothing of pods, of the control loop or of numbers."""
    async with worlds.running(tmp_path) as world:
        await healthy(world, 1)
        admin = await world.site.entrance("admin", user="")
        modules = await asyncio.to_thread(loaded, "doctor", f"--kubeconfig={admin.kubeconfig}")
    assert {"adapter.resources.inputs", "adapter.diagnostics.hpas"} <= modules
    assert modules & HEAVY <= {"aiohttp", "cryptography", "pydantic", "yaml"}
    assert not modules & {"adapter.resources.pods", "adapter.resources.gpus", "statistics"}
    assert not any(name.startswith(("adapter.controller", "optimizer.solvers")) for name in modules)


@pytest.mark.parametrize("words", [("--version",), ("--help",)])
def test_the_command_line_alone_loads_nothing_of_the_adapter(words: tuple[str, ...]) -> None:
    """Commands are loaded when they are called; plug-ins only say what they are."""
    ours = {
        name for name in loaded(*words) if name.startswith(("adapter.", "emulator.", "analyzer"))
    }
    assert ours <= {
        "adapter.cli",
        "adapter.errors",
        "adapter.logs",
        "emulator.demo",
        "emulator.replay",
    }


COLLECTIONS = """
import gc, sys
from adapter import cli
started = []
gc.callbacks.append(lambda phase, _: started.append(phase) if phase == "start" else None)
status = cli.main(sys.argv[1:])
print(status, len(started))
"""


def test_no_search_for_garbage_while_a_command_starts(tmp_path: Path) -> None:
    """What is loaded stays, so that searching it for cycles is in vain."""
    (tmp_path / "fleet").write_text(FLEET)
    done = subprocess.run(
        [sys.executable, "-P", "-c", COLLECTIONS, "plan", "-f", str(tmp_path / "fleet")],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 0"
