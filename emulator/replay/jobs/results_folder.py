"""Results that a folder keeps, so that an interrupted comparison goes on where it stopped.

A file is valid for one key: scenario, traffic, policy, settings and the program itself. One that is half
written, of another key or of another form is done anew.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter import errors
from adapter.formats import files
from emulator.replay import PER_VARIANT
from emulator.replay.jobs.tasks import Task
from emulator.replay.results import ClassResult, Curves, PolicyResult
from emulator.replay.running import Run

_ROOT = Path(__file__).parents[3]
_EVERYTHING = ("adapter", "analyzer", "optimizer", "emulator")
_RIVALS = ("adapter/planning", "analyzer", "optimizer", "emulator")
"""Code that rivals and bounds depend on: not the adapter's loop."""


class ResultsFolder:
    """A folder with one file per job."""

    def __init__(self, folder: Path, given: Run) -> None:
        """Make the folder.

        Raises:
            UsageError: It cannot be made.

        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise errors.UsageError(f"--out {folder}: is no folder; name another one") from error
        except OSError as error:
            raise errors.UsageError(f"--out {folder}: {error.strerror}") from error
        self._folder = folder
        self._inputs = inputs_key(given)

    def path(self, task: Task) -> Path:
        """File of a job."""
        slug = re.sub(r"[^A-Za-z0-9.=@-]+", "-", task.name)
        return self._folder / f"{slug}-{self.key(task)[:12]}.json"

    def key(self, task: Task) -> str:
        """Key of a job's inputs."""
        adapters = ("ours", PER_VARIANT)
        ours = any(choice.family.startswith(adapters) for choice in task.choices)
        program = fingerprint(_EVERYTHING if ours else _RIVALS)
        choices = [dataclasses.asdict(choice) for choice in task.choices]
        text = json.dumps([self._inputs, program, choices], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, task: Task) -> tuple[PolicyResult, ...] | None:
        """Results of a job that was finished before; None where there is no valid file."""
        try:
            document = json.loads(self.path(task).read_text(encoding="utf-8"))
            if document["key"] != self.key(task):
                return None
            results = tuple(decoded(item) for item in document["results"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        same = [item.policy for item in results] == [item.name for item in task.choices]
        return results if same else None

    def save(self, task: Task, results: Iterable[PolicyResult]) -> None:
        """Write the results of a job; the file is there whole or not at all.

        Raises:
            UsageError: It cannot be written.

        """
        document = {"key": self.key(task), "results": [encoded(item) for item in results]}
        path = self.path(task)
        try:
            files.write_text(path, json.dumps(document))
        except OSError as error:
            raise errors.UsageError(f"--out {path}: {error.strerror}") from error


def inputs_key(given: Run) -> str:
    """Key of scenario and traffic."""
    digest = hashlib.sha256(given.scenario.model_dump_json().encode())
    for model, trace in sorted(given.traffic.items()):
        digest.update(json.dumps([model, trace.duration_seconds, trace.name]).encode())
        digest.update(json.dumps([list(step) for step in given.steps.get(model, ())]).encode())
        for column in (trace.arrival_seconds, trace.input_tokens, trace.output_tokens):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)
def fingerprint(folders: tuple[str, ...]) -> str:
    """Key of the program's code in these folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(_ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def encoded(result: PolicyResult) -> dict[str, Any]:
    """The result as JSON takes it; numbers keep all their digits, NaN and infinity stay."""
    document = {
        item.name: getattr(result, item.name)
        for item in dataclasses.fields(result)
        if item.name not in {"classes", "curves"}
    }
    document["classes"] = [dataclasses.asdict(item) for item in result.classes]
    document["curves"] = {
        name: {item.name: _plain(getattr(curves, item.name)) for item in dataclasses.fields(curves)}
        for name, curves in result.curves.items()
    }
    return document


def decoded(document: Mapping[str, Any]) -> PolicyResult:
    """The result of `encoded`."""
    fields = dict(document)
    fields["classes"] = tuple(ClassResult(**item) for item in document["classes"])
    fields["curves"] = {
        name: Curves(**{key: _column(value) for key, value in curves.items()})
        for name, curves in document["curves"].items()
    }
    for name in ("recovery_seconds", "notes"):
        fields[name] = tuple(document[name])
    return PolicyResult(**fields)


def _column(value: Any) -> Any:
    return np.array(value, dtype=np.float64) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
