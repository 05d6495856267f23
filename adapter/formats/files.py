"""Text files that users name, read with errors that name them."""

from __future__ import annotations

from pathlib import Path

from adapter.errors import InputError


def read_text(path: Path) -> str:
    """The file's text, without a byte-order mark.

    Raises:
        InputError: it cannot be read, or is not UTF-8.

    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
