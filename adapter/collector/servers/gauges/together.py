"""What the gauges of one address have that is not there: requests of the queue, and those in service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.gauges.admissions import Admissions
from adapter.collector.servers.gauges.queue import Queue
from adapter.collector.servers.gauges.service import Service

QUIET = (
    "nothing moved for {seconds:.0f} s with {number:.0f} requests in service: a long answer, or its engine"
    " does not answer; what comes to it is not known until it moves"
)


@dataclass(slots=True)
class Gauges:
    """Both gauges, compared with what the pages count.

    Attributes:
        queue: What its pages say of its queue.
        service: What they say of its requests in service.
        left: Requests of the queue's gauge that do not wait, or are not known to.
        idle: Requests of the other one that are not in service as far as is known.

    """

    queue: Queue = field(default_factory=Queue)
    service: Service = field(default_factory=Service)
    left: float = 0.0
    idle: float = 0.0
    _admissions: Admissions = field(default_factory=Admissions)
    _compared: PodMetrics | None = None

    @classmethod
    def of(cls, page: PodMetrics) -> Self:
        """Those of an address with its first page."""
        return cls(service=Service(most=page.running))

    def forget_queue(self) -> None:
        """Compare its queue anew from the next page on."""
        self.queue = Queue()

    @property
    def note_text(self) -> str:
        """What is not counted; empty for nothing."""
        texts = (one.note_text for one in (self._admissions, self.queue, self.service))
        return next(filter(None, texts), "")

    def note(
        self, before: PodMetrics, page: PodMetrics, *, seconds: float, batch: float, alone: bool
    ) -> None:
        """Compare a page with the one before it; arguments as of a queue's."""
        if self._compared is not None and _began_anew(self._compared, page):
            # Pages in between were doubted: how far its counts are apart is of the process before.
            self._admissions, self.service = Admissions(), Service(most=self.service.most)
        self._compared = page
        if self._admissions.note(before, page):
            self.queue, self.service = Queue(), Service(most=self.service.most)
            self.left, self.idle = self._admissions.left, self._admissions.idle
            return
        self.queue.note(before, page, seconds=seconds, batch=batch, alone=alone)
        self.service.note(before, page, seconds=seconds, batch=batch)
        self.left, self.idle = self.queue.left + self.queue.doubted, self.service.doubted


def _began_anew(before: PodMetrics, page: PodMetrics) -> bool:
    """Whether requests that were counted are not any more."""
    return any(now < was for was, now in zip(_counts(before), _counts(page), strict=True))


def _counts(page: PodMetrics) -> tuple[float, ...]:
    return page.finished, page.ttft[1], page.prompt_tokens[1]
