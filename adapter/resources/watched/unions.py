"""Unions of parts that overlap: what is planned on the parts together is no more than a union has.

Where demands fit every union of parts, and only then, each can be given devices of its own part (Hall's
theorem for sets that share elements: https://en.wikipedia.org/wiki/Hall%27s_marriage_theorem). A union
of parts that share nothing says no more than the parts do.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

MOST_PARTS, MOST_UNIONS = 64, 64
"""Most parts of a device type that are joined, and most unions of them; beyond that, the fullest are."""


def unions(held: Mapping[int, int], free: Callable[[int], int], whole: int) -> list[int]:
    """Unions of parts that overlap, but those that are a part themselves.

    Args:
        held: devices that variants have or wait for, by part: of each the kinds of nodes as bits.
        free: devices of some kinds of nodes.
        whole: all kinds of nodes.

    """
    most = {part: free(part) for part in held}
    # A variant may ask for more than its part can have, and gets no more.
    asked = {part: min(count, most[part]) for part, count in held.items()}
    parts = heapq.nsmallest(MOST_PARTS, held, key=lambda part: (most[part] - asked[part], part))

    def unused(union: int) -> int:
        return free(union) - sum(asked[part] for part in parts if part & union == part)

    known, joined = {*held, whole}, list[int]()
    line = [(most[part] - asked[part], part) for part in parts]
    heapq.heapify(line)
    while line and len(joined) < MOST_UNIONS:
        _, union = heapq.heappop(line)
        if union not in held:
            joined.append(union)
        for part in parts:
            wider = union | part
            # Without devices that both may use, each has its own.
            if wider not in known and free(union & part):
                known.add(wider)
                heapq.heappush(line, (unused(wider), wider))
    return joined
