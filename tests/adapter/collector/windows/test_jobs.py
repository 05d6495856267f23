"""Pods that are scraped between two scrape cycles stay within a budget."""

from __future__ import annotations

from collections.abc import Iterator

from adapter.collector.pod_scraper import ScrapeJob
from adapter.collector.windows.jobs import within_budget


def jobs(**pods: int) -> list[ScrapeJob]:
    return [
        ScrapeJob(key, f"http://{key}-{number}", "m")
        for key, count in pods.items()
        for number in range(count)
    ]


def test_few_pods_are_all_scraped() -> None:
    """Up to a hundred, whatever their share."""
    assert len(within_budget(jobs(a=60, b=40), ["a", "b"])) == 100


def test_of_many_pods_a_third_is_scraped() -> None:
    """Whole variants, the first ones first; one that does not fit makes room for the next."""
    chosen = within_budget(jobs(a=250, b=200, c=100, d=350), ["a", "b", "c"])
    assert {job.key for job in chosen} == {"a"}
    chosen = within_budget(jobs(a=250, b=200, c=50, d=400), ["a", "b", "c"])
    assert {job.key for job in chosen} == {"a", "c"}


def test_only_busy_variants_are_scraped() -> None:
    """The others wait for the next scrape cycle."""
    assert not within_budget(jobs(a=5), [])


def test_all_jobs_are_gone_through_once() -> None:
    """However many variants are busy: of 2,000 with 10,000 pods all would hold up everything else."""

    class Counted(list[ScrapeJob]):
        passes = 0

        def __iter__(self) -> Iterator[ScrapeJob]:
            self.passes += 1
            return super().__iter__()

    many = Counted(jobs(**{f"v{number}": 1 for number in range(90)}))
    assert len(within_budget(many, [job.key for job in list(many)])) == 90
    assert many.passes == 2  # one is the line above
