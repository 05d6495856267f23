"""What the sizes of inter-token latencies say of the unit of a file's times."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from adapter.formats.benchmark_tools.rows import Row

_LEAST_ITL_MS, _MOST_ITL_MS = 0.2, 10_000.0
"""Less than any server takes for a token, and more than most take in seconds; more than any takes."""


def without_odd(rows: Sequence[Row]) -> list[Row]:
    """The rows, with a problem where one alone has an ITL that no server reaches; it bends both fits."""
    measured = [row.itl_ms for row in rows if not row.problem and not math.isnan(row.itl_ms)]
    if not measured or (median := statistics.median(measured)) < _LEAST_ITL_MS:
        return list(rows)
    why = f"beside a median of {median:.3g} ms; if it is in seconds, write it in milliseconds"
    return [
        dataclasses.replace(row, problem=f"itl_ms: {row.itl_ms:.3g} ms {why}")
        if not row.problem and row.itl_ms < _LEAST_ITL_MS
        else row
        for row in rows
    ]


def problem(rows: Sequence[Row]) -> str:
    """Why the times of usable rows are in another unit than their names say; empty where nothing says so."""
    measured = [row.itl_ms for row in rows if not math.isnan(row.itl_ms)]
    if not measured:
        return ""
    median = statistics.median(measured)
    if median < _LEAST_ITL_MS:
        why = "which no server reaches; if the column is in seconds, name it itl_s"
    elif median > _MOST_ITL_MS:
        why = "slower than any server; if the column is in microseconds, divide it by 1000"
    else:
        return ""
    return f"itl_ms: median ITL of {median:.3g} ms, {why}"
