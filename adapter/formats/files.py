"""Text files that users name, read with errors that name them."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from adapter.errors import InputError

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_BYTE_ORDERS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """The file's text, without a byte-order mark, unpacked where it is compressed by gzip.

    Raises:
        InputError: it cannot be read or unpacked, or is neither UTF-8 nor UTF-16 with a byte-order mark.

    """
    try:
        content = path.read_bytes()
        if content.startswith(_ZIP):
            raise InputError(
                f"{path}: is a ZIP archive or a spreadsheet; unpack it, or save it as CSV"
            )
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
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
        raise InputError(f"{path}: not UTF-8: {error}") from error
