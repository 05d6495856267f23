"""`compare` from a real Prometheus whose past is written into its storage: no time passes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter import cli
from adapter.collector.prometheus import PrometheusOptions
from adapter.commands.comparison import compare, series
from tests.fakes import prometheus_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        prometheus_server.binary() is None or shutil.which("promtool") is None,
        reason=prometheus_server.MISSING,
    ),
]

T = 1_760_004_000
"""A whole hour."""

MINUTES = 120


def past() -> str:
    """Two hours: one replica too few in the first, two too many in the second; a variant without prices."""
    v = 'namespace="team-a",variant_name="v"'

    def first(one: float, other: float) -> Callable[[int], float]:
        return lambda minute: one if minute < 60 else other

    rows: dict[str, Callable[[int], float]] = {
        f"variant_adapter_present_replicas{{{v}}}": first(2, 4),
        f'variant_adapter_advised_replicas{{{v},accelerator_type="A100"}}': first(3, 2),
        f"variant_adapter_present_cost_cents_per_hour{{{v}}}": first(80, 160),
        f"variant_adapter_target_cost_cents_per_hour{{{v}}}": first(120, 80),
        f"variant_adapter_observed_ttft_milliseconds{{{v}}}": first(900, 100),
        f'variant_adapter_predicted_latency_milliseconds{{{v},metric="ttft"}}': first(300, 300),
        f'variant_adapter_slo_target_milliseconds{{{v},metric="ttft"}}': first(500, 500),
        'variant_adapter_present_replicas{namespace="team-a",variant_name="w"}': first(1, 1),
        'inferno_desired_replicas{namespace="team-a",variant_name="w"}': first(1, 1),
    }
    lines = (
        f"{name} {value(minute)} {T + 60 * minute}"
        for name, value in rows.items()
        for minute in range(MINUTES)
    )
    return "\n".join([*lines, "# EOF\n"])


async def test_the_past_is_compared(tmp_path: Path) -> None:
    """Means, costs, attainment and differences; what has no cost is left out."""
    (tmp_path / "past.txt").write_text(past())
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"]
    await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, capture_output=True)
    options = {"storage.tsdb.path": str(tmp_path / "data"), "storage.tsdb.retention.time": "100y"}
    async with prometheus_server.running(options=options) as server:
        end = float(T + 60 * (MINUTES - 1))
        comparisons = await asyncio.to_thread(
            series.compared, PrometheusOptions(url=server.url), since=60.0 * (MINUTES - 1), now=end
        )
    assert comparisons.keys() == {"team-a/v"}
    item = comparisons["team-a/v"]
    assert item["advisory"] is True
    assert item["hours"] == 2.0
    assert item["present"] == {
        "meanReplicas": 3.0, "replicaHours": 6.0, "costCents": 240.0, "attainment": 0.5,
    }  # fmt: skip
    assert item["ours"] == {
        "meanReplicas": 2.5, "replicaHours": 5.0, "costCents": 200.0, "attainment": 1.0,
    }  # fmt: skip
    assert item["moreReplicas"] == {"share": 0.5, "most": 1}
    assert item["fewerReplicas"] == {"share": 0.5, "most": 2}
    text = "\n".join(compare.lines(comparisons))
    assert "50% of the time more, by up to 1; 50% of the time fewer, by up to 2" in text
    assert "cost of all: 240 / 200 cents (-16.7%)" in text


async def test_a_prometheus_that_does_not_scrape_the_adapter_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error says what Prometheus lacks, not to name the Prometheus that was named."""
    async with prometheus_server.running() as server:
        command = ["compare", "--since", "1h", "--prometheus", server.url]
        assert await asyncio.to_thread(cli.main, command) != 0
    error = capsys.readouterr().err
    assert "Prometheus has no history of any variant" in error
    assert "variant_adapter_present_replicas" in error
    assert "give --prometheus" not in error
