"""Measured rows of a group, by its names in the data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from analyzer.fitting import benchmark_rows, saturation
from analyzer.fitting.benchmark_rows import BenchmarkRows

FILE = Path(__file__).parents[2] / "data/replica/measured.csv"


def unsaturated(backend: str, model: str, gpu: str, precision: str, tp: int) -> BenchmarkRows:
    """Rows of a group in which requests did not wait for the batch."""
    with FILE.open() as file:
        chosen = [
            row
            for row in csv.DictReader(file)
            if (row["backend"], row["model"], row["gpu"], row["precision"], row["tp"])
            == (backend, model, gpu, precision, str(tp))
        ]
    rows = benchmark_rows.rows_of(
        **{
            name: [float(row[column] or "nan") for row in chosen]
            for name, column in (
                ("concurrency", "concurrency"),
                ("input_tokens", "input_tokens"),
                ("output_tokens", "output_tokens"),
                ("itl_ms", "itl_ms"),
                ("ttft_ms", "ttft_ms"),
            )
        }
    )
    waited = saturation.find_waiting(rows, np.zeros(rows.size, dtype=np.bool_)).waited
    return rows.part(~waited & ~np.isnan(rows.itl_ms))
