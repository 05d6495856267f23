"""Timeline of a demo: rows over time, as CSV, as a plot, and reduced to changes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """State of one variant at one time.

    Attributes:
        time_s: Scenario seconds since the start.
        variant: Name of the variant.
        arrival_rate_rpm: Offered load by the schedule, requests per minute.
        desired_replicas: Published desired replicas; None while there are none.
        current_replicas: Ready replicas.
        ttft_ms: Mean TTFT in the adapter's window; None without traffic.
        itl_ms: Mean ITL in the adapter's window; None without traffic.
        cost_cents: Cost since the start.

    """

    time_s: float
    variant: str
    arrival_rate_rpm: float
    desired_replicas: int | None
    current_replicas: int
    ttft_ms: float | None
    itl_ms: float | None
    cost_cents: float


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write all rows as CSV; a missing value is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(Row.__slots__))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in asdict(row).items()})


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else value


def write_png(rows: Sequence[Row], path: Path, *, slo_ttft_ms: float, slo_itl_ms: float) -> bool:
    """Plot rate, replicas and latencies over time; returns False where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    times = [row.time_s for row in rows]
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(9, 9), layout="constrained")
    axes[0].step(times, [row.arrival_rate_rpm for row in rows], where="post", color="C0")
    axes[0].set_ylabel("offered\nreq/min")
    desired = [float("nan") if r.desired_replicas is None else r.desired_replicas for r in rows]
    axes[1].step(times, desired, where="post", color="C1", linestyle="--", label="desired")
    axes[1].step(
        times, [r.current_replicas for r in rows], where="post", color="C0", label="current"
    )
    axes[1].yaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylabel("replicas")
    axes[1].legend(loc="upper right")
    for axis, name, slo in ((axes[2], "ttft_ms", slo_ttft_ms), (axes[3], "itl_ms", slo_itl_ms)):
        values = [getattr(row, name) for row in rows]
        axis.plot(times, [float("nan") if v is None else v for v in values], color="C0")
        axis.axhline(slo, color="C3", linestyle=":", label="SLO")
        axis.set_ylabel(f"{name[:-3].upper()} ms")
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper right")
    axes[3].set_xlabel("scenario seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def changes(rows: Sequence[Row]) -> list[Row]:
    """The first row, the last, and every row in which rate, target or replicas changed."""
    changed: list[Row] = []
    for row in rows:
        now = (row.arrival_rate_rpm, row.desired_replicas, row.current_replicas)
        last = changed[-1] if changed else None
        if last is None or now != (
            last.arrival_rate_rpm,
            last.desired_replicas,
            last.current_replicas,
        ):
            changed.append(row)
    if rows and changed[-1] is not rows[-1]:
        changed.append(rows[-1])
    return changed


def line(row: Row) -> str:
    """One row as a line of text."""
    desired = "-" if row.desired_replicas is None else str(row.desired_replicas)
    return (
        f"{row.time_s:6.0f} s  offered {row.arrival_rate_rpm:5.1f}/min"
        f"  replicas {row.current_replicas} (desired {desired})"
        f"  TTFT {number(row.ttft_ms):>6} ms  ITL {number(row.itl_ms):>5} ms"
        f"  {row.cost_cents:5.2f} cents"
    )


def number(value: float | None) -> str:
    """A number with one decimal; a dash if it is missing."""
    return "-" if value is None else f"{value:.1f}"
