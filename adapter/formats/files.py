"""Text files that users name: read with errors that name them, and written whole or not at all."""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import json
import os
import tempfile
import zlib
from pathlib import Path

from adapter.errors import InputError

MOST_BYTES = 512 * 1024 * 1024
"""Most bytes of a file that are read, unpacked too: devices have no end, and little unpacks to very much."""

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_BYTE_ORDERS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """The file's text, without a byte-order mark, unpacked where it is compressed by gzip.

    Raises:
        InputError: it cannot be read or unpacked, is too long, or is neither UTF-8 nor UTF-16 with a
            byte-order mark.

    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if content.startswith(_ZIP):
            raise InputError(
                f"{path}: is a ZIP archive or a spreadsheet; unpack it, or save it as CSV"
            )
        if content.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path}: longer than {MOST_BYTES >> 20} MiB; name a part of it")
    except EOFError as error:
        raise InputError(f"{path}: gzip: cut off") from error
    except zlib.error as error:
        raise InputError(f"{path}: gzip: {error}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder; name the files in it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return content.decode(_BYTE_ORDERS.get(content[:2], "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text: byte {error.start + 1} is not UTF-8") from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: what it held before stays where there is no room for the new text.

    A link stays one, and what is no regular file, such as a pipe, is written as it is.

    Raises:
        OSError: it cannot be written.

    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # Some file systems find out only now that there is no room.
            os.fsync(file.fileno())
        draft.chmod(mode)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Check that `write_text` will be able to write the file, before work whose result it is to hold.

    Raises:
        OSError: it cannot be written: it is a folder, its folder is missing or read-only.

    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.exists() or path.is_file():
        with tempfile.NamedTemporaryFile(dir=path.resolve().parent, prefix=".", suffix=".part"):
            pass


def _umask() -> int:
    """Rights that new files do not have; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def not_json(error: Exception) -> str:
    """What is wrong with a text that `json.loads` refuses, by the error that it raises."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    # Python converts no integer of more: the one other reason there is.
    return "a number has more than 4,300 digits; correct it, or quote it as a text"
