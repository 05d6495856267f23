"""The planning worker's own process: plans that come in as frames, and results that go back as frames.

A frame is a length of eight bytes and that many bytes of pickle; a message is a number of frames and the
frames. An empty one says that the process is ready. It ends when its input does, so that it never outlives
its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pickle
import queue
import signal
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

from adapter.planning import plan as planning

PIECE = 20
"""Variants or decisions per frame: pickling them takes some tenths of a millisecond."""

NICENESS = 10
"""Niceness of the process, 0 (as the server) to 19: the server goes first, and does not starve it."""

LENGTH = struct.Struct(">Q")

LOAD_ALL = "--load-all"
"""Argument with which the libraries that some plans need (26 MB) are loaded before the process is ready.
Without it they are when a plan needs them, and so within its time."""

_PR_SET_PDEATHSIG = 1


def message(frames: Sequence[bytes]) -> Iterator[bytes]:
    """A message as the parts that are written one after the other."""
    yield LENGTH.pack(len(frames))
    for frame in frames:
        yield LENGTH.pack(len(frame))
        yield frame


def answer(frames: Sequence[bytes]) -> list[bytes]:
    """Plan a fleet; frames of the head and of its variants give those of the plan's head and decisions.

    An exception gives one frame, with its text.
    """
    try:
        head = pickle.loads(frames[0])  # noqa: S301 - our own parent's
        variants = tuple(variant for piece in frames[1:] for variant in pickle.loads(piece))  # noqa: S301 - likewise
        # Until the frames are there: the reasons that go with them are found out on the way.
        with planning.collection_paused():
            plan = planning.plan(replace(head, variants=variants))
            decisions = list(plan.decisions.items())
            pieces = (decisions[start : start + PIECE] for start in range(0, len(decisions), PIECE))
            return [pickle.dumps(replace(plan, decisions={})), *map(pickle.dumps, pieces)]
    except Exception as error:  # noqa: BLE001 - the parent finds out whose fault it is
        return [pickle.dumps(f"{type(error).__name__}: {error}"[:500])]


def main() -> None:
    """Answer messages on standard input until it ends."""
    # Whatever else prints must not come between the frames.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _prepare()
    if LOAD_ALL in sys.argv:
        importlib.import_module("scipy.special")
    incoming: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, incoming), daemon=True).start()
    frames: list[bytes] = []
    while True:
        for part in message(answer(frames) if frames else ()):
            output.write(part)
        output.flush()
        frames = incoming.get()


def _receive(source: BinaryIO, incoming: queue.SimpleQueue[list[bytes]]) -> None:
    """Read messages; at the end of the input the process ends, whatever it is doing."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            count = _number(source)
            incoming.put([_exactly(source, _number(source)) for _ in range(count)])
    os._exit(0)


def _number(source: BinaryIO) -> int:
    (number,) = LENGTH.unpack(_exactly(source, LENGTH.size))
    return int(number)


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _prepare() -> None:
    os.nice(NICENESS)
    # The parent decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # A long computation may keep the reading thread from seeing the end of the input.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
