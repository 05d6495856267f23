"""`serve --variants DIR`: Kubernetes objects from YAML files, and what is wrong with them.

Reading never stops at a bad object: it is reported as `FILE: KIND NAMESPACE/NAME: FIELD: what and fix`
and left out, and everything else is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from adapter import errors
from adapter.resources.configuration.last_good import NOTHING, LastGood
from adapter.resources.inputs import Inputs, Reader
from adapter.resources.texts.documents import FILE_LENGTH, DocumentError, parse_all_yaml


def digest(folder: Path) -> str:
    """Fingerprint of all YAML files in the folder, names and contents."""
    hashed = hashlib.sha256()
    for path in _files(folder):
        hashed.update(str(path).encode() + b"\0")
        try:
            hashed.update(path.read_bytes())
        except OSError as error:
            hashed.update(str(error).encode())
    return hashed.hexdigest()


def read(folder: Path, *, last_good: LastGood = NOTHING) -> Inputs:
    """Read every `*.yaml` and `*.yml` below the folder; `last_good`: rows in force at the reading before.

    Raises:
        InputError: the folder is missing, or it holds no YAML file.

    """
    if folder.exists() and not folder.is_dir():
        raise errors.InputError(f"{folder}: is a file; give the folder that it is in")
    if not folder.is_dir():
        raise errors.InputError(f"{folder}: no such folder; give one with VariantAutoscaling YAML")
    if not any(True for _ in _files(folder)):
        raise errors.InputError(f"{folder}: no *.yaml or *.yml file in it")
    before = digest(folder)
    reader = Reader(last_good=last_good)
    for path in _files(folder):
        _read_file(reader, path, str(path.relative_to(folder)))
    return reader.inputs(before)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in {".yaml", ".yml"} and path.is_file() and not hidden:
            yield path


def _read_file(reader: Reader, path: Path, shown: str) -> None:
    try:
        documents = parse_all_yaml(path.read_text(encoding="utf-8"), length=FILE_LENGTH)
    except DocumentError as error:
        reader.problems.append(f"{shown}: {error}")
        return
    except (OSError, UnicodeDecodeError) as error:
        reader.problems.append(f"{shown}: cannot be read: {error}")
        return
    for document in documents:
        if document is None:
            continue
        if isinstance(document, dict) and document.get("kind") == "List":
            items = document.get("items")
            for item in items if isinstance(items, list) else ():
                reader.read_object(f"{shown}: ", item)
        else:
            reader.read_object(f"{shown}: ", document)
