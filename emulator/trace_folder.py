"""A folder of public traces: what is in it, and where a name is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from emulator import servegen
from emulator.traces import TraceError

VARIABLE = "VARIANT_ADAPTER_TRACES"
"""Environment variable with the folder, for where no flag names one."""

_SUFFIXES = (".csv", ".jsonl", ".json", ".gz")


def folder_of(given: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that was given, else that of the environment; None without one.

    Raises:
        TraceError: There is no such folder.

    """
    text = environment.get(VARIABLE, "").strip()
    folder = given if given is not None else Path(text) if text else None
    if folder is not None and not folder.is_dir():
        source = "--traces" if given is not None else VARIABLE
        raise TraceError(f"{source} {folder}: is no folder; name the one that has the trace files")
    return folder


def entries(folder: Path) -> dict[str, Path]:
    """Traces of the folder by their names without suffixes: files, and folders of ServeGen's clients."""
    traces = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and path.suffix in _SUFFIXES:
            traces[_stem(path)] = path
        elif servegen.has_clients(path):
            traces[path.name] = path
    return traces


def find(name: Path, folder: Path | None) -> Path:
    """Path of a trace: the path itself if it exists, else the folder's entry, with or without its suffix.

    Raises:
        TraceError: There is none; the message says what the folder has, or how a folder is named.

    """
    if name.exists():
        return name
    if folder is None:
        raise TraceError(
            f"{name}: no such file; for a trace by its name, give the folder that has it: --traces DIR, or"
            f" {VARIABLE}"
        )
    inside = folder / name
    known = entries(folder)
    if inside.exists():
        return inside
    if name.name in known:
        return known[name.name]
    there = ", ".join(known) or "nothing"
    raise TraceError(f"{name}: no such trace, neither here nor in {folder}, which has {there}")


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".gz", *_SUFFIXES):
        name = name.removesuffix(suffix)
    return name
