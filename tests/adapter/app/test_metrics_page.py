"""The page of metrics is made of what the process exposes and reads."""

from __future__ import annotations

from pathlib import Path

from adapter.app import metrics_page
from adapter.collector import model_servers
from adapter.collector.pickers import loads, pages

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_is_up_to_date() -> None:
    """docs/metrics.md says what the code exposes and reads; else run scripts/generate_docs.py."""
    assert PAGE.read_text(encoding="utf-8") == metrics_page.text()


def test_every_family_and_every_series_is_on_it() -> None:
    """Each metric has a meaning, and no series that is read is missing."""
    text = metrics_page.text()
    for family in metrics_page.exposed():
        assert family.documentation, family.name
        assert f"`{family.name}" in text
    gateways = (*pages.LLM_GATEWAY_REQUESTS, *loads.REQUESTS, *loads.TOKENS, *loads.SATURATIONS)
    for name in (*model_servers.SERIES, *gateways):
        assert f"`{name}`" in text


def test_durations_of_a_cycle_are_named_as_the_cycle() -> None:
    """What the docs call a scrape cycle and a reconcile cycle is called so here, in seconds."""
    names = {family.name for family in metrics_page.exposed()}
    assert "variant_adapter_scrape_cycle_seconds" in names
    assert not {name for name in names if "round" in name.split("_")}
