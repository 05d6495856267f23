"""A trace of requests that is written in parts and can be resumed.

The format is that of the Azure LLM inference traces, which `replay` reads: of the public formats it is the
only one that keeps the time of day. While it grows it stands in `NAME.partial`, with what is needed to go
on in `NAME.resume`; both are gone when it is complete.

    TIMESTAMP,ContextTokens,GeneratedTokens
    2026-03-01 12:00:00.123456,512,178
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapter.errors import InputError
from adapter.formats.request_sampling import Request

_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
_VERSION = 1


class TraceFile:
    """One trace that is being written."""

    def __init__(self, path: Path) -> None:
        """Nothing is written yet, nor by `open`: a recording that fails at once leaves no file."""
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._resume = path.with_name(f"{path.name}.resume")
        self._begun = False

    def open(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Begin, or go on with what was begun with the same settings; return the progress of then.

        Raises:
            InputError: the trace is there already, was begun with other settings, or cannot be written.

        """
        if self.path.exists():
            raise InputError(
                f"--output {self.path}: exists already; delete it or name another file"
            )
        if not self.path.parent.is_dir():
            raise InputError(f"--output {self.path}: no such directory: {self.path.parent}")
        try:
            if not self._resume.exists():
                return None
            self._begun = True
            document = self._read()
            for name, value in settings.items():
                if document["settings"].get(name) != value:
                    raise InputError(
                        f"{self._resume}: was begun with --{name} {document['settings'].get(name)}, not"
                        f" {value}; use the same flags, or delete it to restart"
                    )
            # What was written after the last progress was noted is read again.
            os.truncate(self._partial, int(document["bytes"]))
            progress: dict[str, Any] = document["progress"]
        except OSError as error:
            raise self._unusable(error) from error
        return progress

    def append(
        self,
        requests: Iterable[Request],
        *,
        settings: Mapping[str, Any],
        progress: Mapping[str, Any],
    ) -> None:
        """Add requests, and note how far that is.

        Raises:
            InputError: it cannot be written.

        """
        try:
            with self._partial.open("a" if self._begun else "w", encoding="ascii") as file:
                if not self._begun:
                    file.write(_HEADER)
                file.writelines(map(_line, requests))
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            document = {
                "version": _VERSION,
                "bytes": size,
                "settings": dict(settings),
                "progress": dict(progress),
            }
            draft = self._resume.with_name(f"{self._resume.name}.draft")
            draft.write_text(json.dumps(document), encoding="utf-8")
            draft.replace(self._resume)
            self._begun = True
        except OSError as error:
            raise self._unusable(error) from error

    def complete(self) -> None:
        """Give it its name.

        Raises:
            InputError: it cannot be renamed.

        """
        try:
            self._partial.replace(self.path)
            self._resume.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def discard(self) -> None:
        """Delete what was written."""
        for path in (self._partial, self._resume):
            path.unlink(missing_ok=True)

    def _unusable(self, error: OSError) -> InputError:
        return InputError(f"--output {self.path}: {error.strerror}")

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._resume.read_text(encoding="utf-8"))
            usable = document["version"] == _VERSION and document["bytes"] <= (
                self._partial.stat().st_size
            )
            if usable and isinstance(document["progress"], dict):
                return dict(document)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise InputError(
            f"{self._resume}: cannot be resumed from; delete it and {self._partial.name} to restart"
        )


def _line(request: Request) -> str:
    at = datetime.fromtimestamp(request.arrival, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S.%f},{request.input_tokens},{request.output_tokens}\n"
