"""Import contracts hold every module: none is left out because its name was not added to a list."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

ALLOWED = {
    "the ground modules of the emulator stand alone": ("emulator.demo", "emulator.replay"),
    "planning and the models do no I/O, read no clock and log nothing": (
        "adapter.planning.worker",
        "adapter.planning.worker_child",
        "adapter.planning.worker_process",
    ),
    "kubernetes-asyncio stays in kube": ("adapter.kube",),
    "prometheus-api-client, which is synchronous, stays in collector.lookups": (
        "adapter.collector.lookups",
    ),
    "matplotlib and rich stay in the emulator, formats.plots and commands": (
        "adapter.commands",
        "adapter.formats.plots",
        "emulator",
    ),
    "grpc and protobuf stay in keda": (
        "adapter.keda.protocol",
        "adapter.keda.requests",
        "adapter.keda.server",
        "adapter.keda.service",
    ),
    "aiconfigurator-core stays in profiles.aiconfigurator": ("adapter.profiles.aiconfigurator",),
}
"""Modules that may import what a contract forbids to the others."""

SCOPES = {
    "the ground modules of the emulator stand alone": ("emulator",),
    "planning and the models do no I/O, read no clock and log nothing": (
        "adapter.planning",
        "analyzer",
        "optimizer",
    ),
}
"""Modules that a contract is about, where it is not about all."""

ENTRY = frozenset({"adapter.__main__"})
"""Modules above all layers."""

GROUND = "the ground modules of the emulator stand alone"


def configuration() -> Mapping[str, Any]:
    """The import linter's part of pyproject.toml."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    section: Mapping[str, Any] = document["tool"]["importlinter"]
    return section


CONTRACTS: Mapping[str, Mapping[str, Any]] = {
    contract["name"]: contract for contract in configuration()["contracts"]
}


def modules(root: Path, packages: Sequence[str]) -> list[str]:
    """Dotted names of all modules; a package is left out where its `__init__` imports nothing."""
    names = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] != "__init__":
                names.append(".".join(parts))
            elif imports_something(path):
                names.append(".".join(parts[:-1]))
    return names


def imports_something(path: Path) -> bool:
    """Whether a module has an import other than from `__future__`."""
    return any(
        isinstance(node, ast.Import)
        or (isinstance(node, ast.ImportFrom) and node.module != "__future__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def inside(name: str, packages: Sequence[str]) -> bool:
    """Whether a module is one of these or stands below one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def uncovered(
    names: Sequence[str], contract: Mapping[str, Any], allowed: Sequence[str]
) -> list[str]:
    """Modules that a forbidden contract neither holds nor allows."""
    return [name for name in names if not inside(name, [*contract["source_modules"], *allowed])]


def layered(contract: Mapping[str, Any]) -> list[str]:
    """Packages and modules of all layers."""
    return [name.strip() for layer in contract["layers"] for name in layer.split("|")]


EVERY = modules(ROOT, configuration()["root_packages"])


def test_root_packages_are_those_that_are_installed() -> None:
    """The import linter reads every package of the wheel."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = document["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(configuration()["root_packages"]) == sorted(wheel)


def test_layers_are_exhaustive() -> None:
    """Every package and module stands in a layer; the emulator's ground modules in their own contract."""
    known = [*layered(CONTRACTS["layers"]), *CONTRACTS[GROUND]["source_modules"], *ENTRY]
    assert [name for name in EVERY if not inside(name, known)] == []


@pytest.mark.parametrize("name", ALLOWED)
def test_forbidden_contracts_are_exhaustive(name: str) -> None:
    """Every module is held by the contract, or is where the contract's name says it is allowed."""
    names = [module for module in EVERY if inside(module, SCOPES.get(name, (module,)))]
    assert names
    left = uncovered(names, CONTRACTS[name], ALLOWED[name])
    assert [module for module in left if module not in ENTRY] == []


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_modules_exist_and_are_not_held(name: str) -> None:
    """A module that moved must not leave its permission behind."""
    for allowed in ALLOWED[name]:
        assert any(inside(module, [allowed]) for module in EVERY), allowed
        assert not inside(allowed, CONTRACTS[name]["source_modules"])


def test_every_contract_is_checked_here() -> None:
    """A new forbidden contract says in this file which modules it allows."""
    whole = {
        "the adapter does not know the emulator; the command line loads demo and replay by entry point"
    }
    forbidden = {name for name, contract in CONTRACTS.items() if contract["type"] == "forbidden"}
    assert forbidden == {*ALLOWED, *whole}


def test_nothing_is_ignored() -> None:
    """No contract has an exception for a single import."""
    assert [name for name, contract in CONTRACTS.items() if "ignore_imports" in contract] == []


def test_new_modules_are_reported(tmp_path: Path) -> None:
    """A module beside those that are listed, and a package whose `__init__` imports; not an empty one."""
    for path, text in (
        ("adapter/__init__.py", '"""Nothing."""\n'),
        ("adapter/listed.py", ""),
        ("adapter/new.py", ""),
        ("adapter/package/__init__.py", "import os\n"),
        ("adapter/package/listed.py", ""),
        ("adapter/allowed/inner.py", ""),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    names = modules(tmp_path, ["adapter"])
    contract = {"source_modules": ["adapter.listed", "adapter.package.listed"]}
    assert uncovered(names, contract, ["adapter.allowed"]) == ["adapter.new", "adapter.package"]


def assigned_from_outside(source: str) -> list[str]:
    """Assignments to an attribute of what an object holds, such as `self.loop.state = ...`."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Attribute)
    ]


@pytest.mark.parametrize("package", ["app", "controller"])
def test_nothing_is_assigned_from_outside(package: str) -> None:
    """The loop, the collector and the servers change by their methods alone."""
    assert assigned_from_outside("self.groups.ceilings = ()") == ["self.groups.ceilings"]
    for path in sorted((ROOT / "adapter" / package).rglob("*.py")):
        assigned = assigned_from_outside(path.read_text(encoding="utf-8"))
        assert not assigned, f"{path.relative_to(ROOT)}: give the object a method for {assigned}"
