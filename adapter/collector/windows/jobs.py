"""Which pods are scraped in a scrape cycle, and which between two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adapter.collector.pod_scraper import ScrapeJob
from adapter.resources.variant import VariantSource
from adapter.settings.control import Source

LEAST_PODS = 100
"""Pods that may be scraped between two scrape cycles, whatever their share of all."""


def scrape_jobs(variants: Iterable[VariantSource], default: Source) -> list[ScrapeJob]:
    """Every pod that is to be scraped; `default`: source of metrics for variants that do not say."""
    return [
        ScrapeJob(source.key, endpoint, source.model)
        for source in variants
        if (source.metrics_source or default) != "prometheus"
        for endpoint in source.endpoints
    ]


def within_budget(jobs: Sequence[ScrapeJob], keys: Iterable[str]) -> list[ScrapeJob]:
    """Jobs of the first of these variants, at most a third of all jobs, or `LEAST_PODS`.

    So with two such scrapes in a cycle, there are at most two thirds more than without.
    """
    budget = max(len(jobs) // 3, LEAST_PODS)
    by_variant: dict[str, list[ScrapeJob]] = {}
    for job in jobs:
        by_variant.setdefault(job.key, []).append(job)
    chosen: list[ScrapeJob] = []
    for key in keys:
        of_variant = by_variant.get(key, [])
        if len(chosen) + len(of_variant) <= budget:
            chosen += of_variant
    return chosen
