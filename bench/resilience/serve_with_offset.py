"""`variant-adapter` with a clock that is ahead by the seconds in a file: OFFSET-FILE ARGUMENT..."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from adapter import cli
from adapter.clock import Clock


def main() -> int:
    """Run the program."""
    offset = Path(sys.argv[1])

    def ahead(_: Clock) -> float:
        return time.time() + float(offset.read_text() or 0)

    Clock.time = ahead  # type: ignore[method-assign]
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
