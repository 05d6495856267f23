"""Garbage is collected at intervals: what is new every time, everything every so many times."""

from __future__ import annotations

import gc
import weakref

from adapter.app import serving


class Node:
    """One that refers to itself: only a collection ends it."""

    def __init__(self) -> None:
        self.itself = self


def test_old_garbage_is_collected_now_and_then() -> None:
    """What was there at a collection is walked again at the next one of everything, and not before."""
    try:
        old, new = Node(), Node()
        kept, ended = weakref.ref(old), weakref.ref(new)
        del new
        serving.collect_garbage(1)
        assert ended() is None
        del old
        for number in range(2, serving.FULL_COLLECTIONS):
            serving.collect_garbage(number)
            assert kept() is not None
        serving.collect_garbage(serving.FULL_COLLECTIONS)
        assert kept() is None
    finally:
        gc.unfreeze()
