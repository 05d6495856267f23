"""Alerts and dashboard: rules by promtool, every query in a real Prometheus that scrapes the adapter."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter.app import metrics_page
from tests.fakes import cluster_world as worlds
from tests.fakes import prometheus_server
from tests.fakes.cluster_world import until
from tests.fakes.kubernetes_objects import VARIANTS
from tests.fakes.prometheus_server import Target
from tests.test_manifests import MANIFESTS, only

ROOT = Path(__file__).parents[2]
FOLDER = "overlays/monitoring"
RULES: list[dict[str, Any]] = only(FOLDER, "PrometheusRule")["spec"]["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((MANIFESTS / FOLDER / "dashboard.json").read_text())
EXPRESSIONS = {
    target["expr"]: panel["title"] for panel in DASHBOARD["panels"] for target in panel["targets"]
}
OTHERS = {"metrics_apiserver_metric_freshness_seconds"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on PATH (Debian package prometheus)"
)

V = 'namespace="team-a", variant_name="v"'
LEADS = ("variant_adapter_leading", "1x60"), ("variant_adapter_cycles_total", "0+2x60")
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "VariantAdapterLoopStalled": (
        {"variant_adapter_leading": "1x60", "variant_adapter_cycles_total": "7x60"},
        {"variant_adapter_leading": "1x60", "variant_adapter_cycles_total": "0+2x60"},
    ),
    "VariantAdapterCollectionFailing": (
        {f'variant_adapter_metrics_state{{{V}, state="MetricsMissing", source=""}}': "1x60"},
        {f'variant_adapter_metrics_state{{{V}, state="MetricsFound", source="pods"}}': "1x60"},
    ),
    "VariantAdapterTargetStale": (
        {
            f"variant_adapter_target_held{{{V}}}": "1x60",
            f'inferno_desired_replicas{{{V}, accelerator_type="A100"}}': "2x60",
        },
        {f"variant_adapter_target_held{{{V}}}": "1x60"},
    ),
    "VariantAdapterTargetWithdrawn": (
        {f"variant_adapter_target_held{{{V}}}": "1x60"},
        {
            f"variant_adapter_target_held{{{V}}}": "1x60",
            f'variant_adapter_advised_replicas{{{V}, accelerator_type="A100"}}': "2x60",
        },
    ),
    "VariantAdapterSLOUnreachable": (
        {f'variant_adapter_replicas_bound{{{V}, bound="maximum"}}': "1x60"},
        {f'variant_adapter_replicas_bound{{{V}, bound="ttft"}}': "1x60"},
    ),
    "VariantAdapterGPUsExhausted": (
        {f'variant_adapter_optimization_state{{{V}, state="CapacityShort"}}': "1x60"},
        {f'variant_adapter_optimization_state{{{V}, state="SaturationRule"}}': "1x60"},
    ),
    "VariantAdapterThrashing": (
        {
            f'inferno_replica_scaling_total{{{V}, direction="{way}"}}': "0+1x120"
            for way in ("up", "down")
        },
        {
            f'inferno_replica_scaling_total{{{V}, direction="up"}}': "0+1x120",
            f'inferno_replica_scaling_total{{{V}, direction="down"}}': "0x120",
        },
    ),
    "VariantAdapterProfileDrift": (
        {f'variant_adapter_prediction_error_ratio{{{V}, metric="itl"}}': "-0.4x60"},
        {f'variant_adapter_prediction_error_ratio{{{V}, metric="ttft"}}': "0.4x60"},
    ),
    "VariantAdapterCertificateExpires": (
        {"variant_adapter_serving_certificate_expiry_timestamp_seconds": "600000x60"},
        {"variant_adapter_serving_certificate_expiry_timestamp_seconds": "700000x60"},
    ),
}
"""Series a minute that raise each alert within an hour, and series that do not."""


def known() -> set[str]:
    """Names of all series that the adapter exposes."""
    names = set(OTHERS)
    for family in metrics_page.exposed():
        names.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return names


def names_in(expression: str) -> set[str]:
    names = re.findall(r"\b(?:inferno|wva|variant_adapter|metrics_apiserver)_\w+", expression)
    return {name.removesuffix("_bucket") for name in names}


def test_queries_name_series_that_there_are() -> None:
    """Of the alerts and of the dashboard."""
    for expression in [*EXPRESSIONS, *(rule["expr"] for rule in RULES)]:
        assert names_in(expression), expression
        assert names_in(expression) <= known(), expression


def test_every_alert_has_a_case_and_a_section_of_the_runbook() -> None:
    """And severity, summary and description; the link is the anchor of its section."""
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert [rule["alert"] for rule in RULES] == headings == list(CASES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


@needs_promtool
def test_alerts_are_raised_by_their_cause_alone(tmp_path: Path) -> None:
    """promtool, an hour of series a minute: each alert by the series of its cause, none by healthy ones."""
    groups = only(FOLDER, "PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    tests = []
    for alert, pair in CASES.items():
        for series, raised in zip(pair, (True, False), strict=True):
            given = dict(LEADS) | series
            expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
            tests.append(
                {
                    "name": f"{alert} {raised}",
                    "interval": "1m",
                    "input_series": [
                        {"series": name, "values": values} for name, values in given.items()
                    ],
                    "promql_expr_test": [
                        {
                            "expr": expression,
                            "eval_time": "59m",
                            "exp_samples": [{"value": 1}] if raised else [],
                        }
                    ],
                }
            )
    tests.append(
        {
            "name": "the panel of latencies over targets",
            "input_series": [
                {"series": f"variant_adapter_observed_{name}_milliseconds{{{V}}}", "values": "50"}
                for name in ("ttft", "itl")
            ]
            + [
                {
                    "series": f'variant_adapter_slo_target_milliseconds{{{V}, metric="{name}"}}',
                    "values": "100",
                }
                for name in ("ttft", "itl")
            ],
            "promql_expr_test": [
                {
                    "expr": expression.replace("$namespace", ".*").replace("$variant", ".*"),
                    "eval_time": "0m",
                    "exp_samples": [{"labels": f"{{{V}}}", "value": 0.5}],
                }
                for expression, title in EXPRESSIONS.items()
                if title == "Observed latency over SLO target"
            ],
        }
    )
    cases = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    program = str(shutil.which("promtool"))
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "cases.yaml"]):
        completed = subprocess.run(
            [program, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr


MAY_BE_EMPTY = {
    "Targets that could not be decided anew",
    "Prediction error",
    "Confidence in tuned profiles",
    "Observed latency over SLO target",
}
"""Panels that show nothing while all is well, before a profile was tuned, or for pods without latencies."""


@pytest.mark.slow
@pytest.mark.skipif(prometheus_server.binary() is None, reason=prometheus_server.MISSING)
async def test_every_panel_shows_what_the_adapter_exposes(tmp_path: Path) -> None:
    """A real Prometheus scrapes the leader; one of two variants is in advisory mode."""
    async with worlds.running(tmp_path) as world:
        world.load |= {"v": 60.0, "w": 60.0}
        world.deploy("w", 1)
        item = world.variant("w")
        item["metadata"]["annotations"] = {"llmd.ai/actuate": "none"}
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired("w") == world.desired("v") == 2)
            assert await world.metric(endpoints) == ["2"]
            target = Target(address=endpoints.metrics_url.removeprefix("http://"))
            async with prometheus_server.running([target]) as server:
                await server.until("variant_adapter_cycles_total > 1")
                await asyncio.sleep(1)
                await world.metric(endpoints)
                queries = {
                    expression.replace("$namespace", ".*").replace("$variant", ".*"): title
                    for expression, title in EXPRESSIONS.items()
                }
                empty = set(queries.values())
                for _ in range(60):
                    answers = {query: await server.ask(query) for query in queries}
                    empty = {queries[query] for query, values in answers.items() if not values}
                    if empty <= MAY_BE_EMPTY:
                        break
                    await asyncio.sleep(0.5)
                for variable in DASHBOARD["templating"]["list"][1:]:
                    values = re.match(r"label_values\((.*), (\w+)\)", variable["query"])
                    assert values, variable
                    assert await server.ask(values[1].replace("$namespace", ".*"))
                for rule in RULES:
                    await server.ask(rule["expr"])
    assert empty <= MAY_BE_EMPTY
