"""Growth of one pod's counters between two samples, and the means over several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adapter.collector.model_servers import PodMetrics, SumCount
from adapter.collector.servers import moments as histograms
from adapter.collector.servers.totals import Moments
from adapter.collector.windows import restarts

_SEVERAL_TOKENS = 1.02
"""Tokens per gap from which steps give several; the two counters are of one moment, but not of one update."""


_USUAL_OUTPUT_CV = 0.8
"""Variation of output tokens where pods do not show it."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What one pod counted from `since` to `at`, monotonic seconds; latencies in seconds.

    Attributes:
        arrivals: Requests that arrived, by those that finished and those that are there.
        begun: The same by first tokens and the queue.
        queued: Growth of the queue.
        generated: Tokens generated; None where they are not counted.
        rejected: Requests that admission limits turned away.
        alone: Requests that finished beyond all other counts of them; negative where others are ahead.
        there: Requests in service and in the queue at its end.
        unseen: Seconds of which what came is not known, as the server began anew.

    """

    endpoint: str
    since: float
    at: float
    arrivals: float
    begun: float
    queued: float
    prompt_tokens: SumCount
    generation_tokens: SumCount
    ttft: SumCount
    itl: SumCount
    cached_tokens: SumCount
    input_moments: Moments
    output_moments: Moments
    preemptions: float
    generated: float | None
    rejected: float = 0.0
    alone: float = 0.0
    there: float = 0.0
    unseen: float = 0.0

    def share_after(self, start: float) -> float:
        """The part of the interval after `start`."""
        length = self.at - self.since
        if self.since >= start or length <= 0:
            return 1.0
        return max(self.at - start, 0.0) / length


@dataclass(frozen=True, slots=True)
class Sample:
    """A page with the monotonic time at which it was read.

    `since`: when it was first read with the same numbers, though requests were in service; None for now.
    `started`: when the server had started as far as was known then; `anew`: whether that came after the page
    before it.
    """

    at: float
    page: PodMetrics
    since: float | None = None
    started: float | None = None
    anew: bool = False

    def next(self, page: PodMetrics, now: float, started: float | None = None) -> Sample:
        """The page that follows it, read at monotonic `now`, of a server that `started` then."""
        stands = page.stock > 0 and page == self.page
        anew = _began(self, page, now, started)
        return Sample(now, page, self._stood if stands else None, started, anew)

    def base(self, after: PodMetrics) -> float:
        """Since when the next page counts: from the first copy on, where a proxy kept copies of this one."""
        return self._stood if restarts.copied(self.page, after) else self.at

    @property
    def _stood(self) -> float:
        return self.at if self.since is None else self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyLengths:
    """Mean lengths of requests over a long window, and how many say what the short one shows.

    Attributes:
        input_tokens: Mean input tokens.
        output_tokens: Mean output tokens.
        ended: Requests that finished in the short window.

    """

    input_tokens: float
    output_tokens: float
    ended: float


_MEASURED = 10.0
"""Requests with lengths from which on it is known which share of those that finish has some."""

_ROUNDED = 2.0
"""Requests between the counts of one page, which are not read at one moment."""

_UNSEEN, _ONCE = 0.1, 1 / 3
"""Share of the time of all servers of a variant of which nothing is known, as they began anew, up to which
its load counts as whole: HPAs tolerate as much, and one of many servers that ends again and again must not
hold the replicas of all others. The second one is for one that began anew once."""

_ANEW = (
    "its process began anew, and what came for {unseen:.0f} of the last {seconds:.0f} s is not known, so its"
    " load is a lower bound"
)

EMPTY = PodMetrics(
    finished=0.0,
    running=0.0,
    waiting=0.0,
    prompt_tokens=(0.0, 0.0),
    generation_tokens=(0.0, 0.0),
    ttft=(0.0, 0.0),
    itl=(0.0, 0.0),
    input_moments=Moments(0.0, 0.0, 0.0),
    output_moments=Moments(0.0, 0.0, 0.0),
    generated=0.0,
    preemptions=0.0,
    rejected=0.0,
)
"""Page of a server that has just started."""


def growth_of(
    endpoint: str, before: Sample, after: PodMetrics, now: float, started: float | None, *,
    away: bool = False,
) -> Growth:  # fmt: skip
    """Growth from one sample to a page at monotonic `now`.

    Args:
        endpoint: Address of the server.
        before: The sample.
        after: The page.
        now: When it was read.
        started: When the server process started; None where it is not known.
        away: Whether nothing came to it in between but what the page counts: it was not listed as ready.

    """
    anew = _began(before, after, now, started)
    base = EMPTY if anew else before.page
    # After a restart it counts from zero; a start by a clock that is ahead says nothing.
    last = before.base(after)
    since = max(started, last) if anew and started is not None and started <= now else last
    unseen = since - last if since > last else now - last

    def grown(name: str) -> SumCount:
        total, count = getattr(after, name)
        first, number = getattr(base, name)
        if total >= first and count >= number:
            return total - first, count - number
        # A new version may rename one histogram only, which then starts at zero without a restart. Where one
        # of the two went on, they are two series, as SGLang's are, which do not go together here.
        return (total, count) if total < first and count < number else (0.0, 0.0)

    queued = _queued(base, after)
    return Growth(
        endpoint=endpoint,
        since=min(since, now),
        at=now,
        arrivals=after.finished - base.finished + after.running - base.running + queued,
        begun=grown("ttft")[1] + queued,
        queued=queued,
        prompt_tokens=grown("prompt_tokens"),
        generation_tokens=grown("generation_tokens"),
        ttft=grown("ttft"),
        itl=grown("itl"),
        cached_tokens=grown("cached_tokens"),
        input_moments=histograms.moments_growth(base.input_moments, after.input_moments),
        output_moments=histograms.moments_growth(base.output_moments, after.output_moments),
        preemptions=0.0
        if after.preemptions is None or base.preemptions is None
        else max(after.preemptions - base.preemptions, 0.0),
        generated=None
        if after.generated is None or base.generated is None or after.generated < base.generated
        else after.generated - base.generated,
        rejected=0.0
        if after.rejected is None or base.rejected is None
        else max(after.rejected - base.rejected, 0.0),
        alone=_alone(base, after),
        there=after.stock,
        unseen=unseen if anew and not away else 0.0,
    )


def _alone(before: PodMetrics, after: PodMetrics) -> float:
    """Requests that finished of which neither lengths, nor first tokens, nor prompts know.

    All count the same requests, so that one which is ahead of all others is wrong. First tokens and prompts
    may be counted as requests come: who left the gauges came before. A share that never had lengths is usual.
    """
    measured = before.generation_tokens[1]
    if measured < _MEASURED:
        return 0.0
    ended = after.finished - before.finished
    usual = max(before.finished / measured, 1.0)
    begun = after.ttft[1] - before.ttft[1] + max(before.running - after.running, 0.0)
    lengths = usual * (after.generation_tokens[1] - measured)
    prompts = after.prompt_tokens[1] - before.prompt_tokens[1]
    # Who is given up in the queue has no tokens.
    if lengths == ended and after.ttft[1] > 0 and not (before.waiting or after.waiting):
        lengths = _by_tokens(before, after, otherwise=lengths)
        prompts = 0.0 if prompts == ended else prompts
    return ended - max(begun, lengths, prompts + max(before.stock - after.stock, 0.0))


def _by_tokens(before: PodMetrics, after: PodMetrics, *, otherwise: float) -> float:
    """Requests that ended, by tokens as they were generated and prefilled, and the usual numbers of these.

    Lengths that are counted with a request that ends are no second count of it: both run ahead together.
    `otherwise`: where tokens are not counted as they come.
    """
    if after.generated is None or before.generated is None:
        return otherwise
    (tokens, measured), (inputs, prompted) = before.generation_tokens, before.prompt_tokens
    prefilled = after.cached_tokens[1] - before.cached_tokens[1]
    return max(
        (after.generated - before.generated) * measured / tokens if tokens > 0 else 0.0,
        prefilled * prompted / inputs if inputs > 0 else 0.0,
    )


def _queued(before: PodMetrics, after: PodMetrics) -> float:
    """Growth of a server's queue by requests that came and that it took up.

    Whoever left the queue and did not vanish has finished or is in service. A queue that fell by more was
    left by clients that went away, or by a gauge that was wrong before: that is no less load than before.
    """
    grown = after.waiting - before.waiting
    taken_up = after.finished - before.finished + after.running
    return grown if -grown <= taken_up + _ROUNDED else 0.0


def _began(before: Sample, after: PodMetrics, now: float, started: float | None) -> bool:
    """Whether the server has started anew since a sample, by its pages or by its container's start."""
    if restarted(before, after):
        return True
    # A start is of one page: of the sample's own, by a clock that is off or a status that comes late.
    if started is None or (before.anew and started <= before.at):
        return False
    if before.started is not None and abs(started - before.started) <= restarts.SAME_START_SECONDS:
        return False
    return restarts.again(before.page, after, started, since=before.at, now=now)


def restarted(before: Sample, after: PodMetrics) -> bool:
    """Whether the server has started anew since a sample."""
    return restarts.fell(before.page, after) or restarts.another_start(before.page, after)


def mean(pairs: list[SumCount]) -> float | None:
    """Sum over count of all together; None where nothing was counted."""
    count = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / count if count > 0 else None


def tokens_per_gap(growths: list[Growth], itl: float | None) -> float:
    """Generated tokens per inter-token gap, of which `itl` seconds per token is the mean; usually 1."""
    gap = mean([item.itl for item in growths])
    return 1.0 if gap is None or not itl else max(gap / itl, 1.0)


def itl_samples(growths: list[Growth], itl: float | None) -> tuple[tuple[float, float], ...]:
    """Mean milliseconds per generated token of each growth, with the gaps; arguments of `tokens_per_gap`."""
    scale = 1000.0 / tokens_per_gap(growths, itl)
    gaps = [item.itl for item in growths if item.itl[1] > 0]
    return tuple((scale * seconds / count, count) for seconds, count in gaps)


def finished(growths: Iterable[Growth]) -> float:
    """Requests that finished."""
    return sum(item.generation_tokens[1] for item in growths)


def most_there(growths: Iterable[Growth]) -> float:
    """Most requests that each pod had at once, added up."""
    most = dict[str, float]()
    for item in growths:
        most[item.endpoint] = max(most.get(item.endpoint, 0.0), item.there)
    return sum(most.values())


def began_anew(
    growths: Iterable[Growth], endpoint: str, *, start: float, now: float, servers: int
) -> str:
    """Why what a server counted from `start` on is a part of what came; empty where it is all, or nearly.

    `servers`: how many there are.
    """
    unseen = [item for item in growths if item.at > start and item.unseen > 0]
    seconds, own = now - start, sum(item.unseen for item in unseen if item.endpoint == endpoint)
    share = sum(item.unseen for item in unseen) / (servers * seconds) if servers else 0.0
    if own <= 0 or share <= (_UNSEEN if len(unseen) > 1 else _ONCE):
        return ""
    return _ANEW.format(unseen=min(own, seconds), seconds=seconds)


def steady_lengths(recent: Iterable[Growth], growths: Iterable[Growth]) -> SteadyLengths | None:
    """Mean lengths over `growths`, of which `recent` are those of the short window."""
    items = list(growths)
    input_tokens = mean([item.prompt_tokens for item in items])
    output_tokens = mean([item.generation_tokens for item in items])
    if input_tokens is None or output_tokens is None:
        return None
    return SteadyLengths(
        input_tokens=input_tokens, output_tokens=output_tokens, ended=finished(recent)
    )


def longer(
    growths: list[Growth], running: float, output_tokens: float, output_cv: float | None
) -> float:
    """Factor on the mean output tokens of those that finished, while fewer have finished than run; else 1.

    Those that finish first are the short ones. All tokens that were generated over the finished requests
    are the mean of exponential lengths of which only a part is seen (Epstein and Sobel, "Life testing",
    1953); the less the lengths vary, the less the first ones mislead.
    """
    count = finished(growths)
    if not 0 < count < running or output_tokens <= 0:
        return 1.0
    generated = sum(item.itl[1] + item.ttft[1] for item in growths)
    return min(max(generated / count / output_tokens, 1.0), most_longer(output_cv))


def most_longer(output_cv: float | None) -> float:
    """Largest factor on the mean output tokens of those that finished, by how much their lengths vary."""
    return 1.0 + 2.0 * (_USUAL_OUTPUT_CV if output_cv is None else output_cv)


def mean_itl(growths: list[Growth]) -> float | None:
    """Mean seconds per generated token: with speculative decoding a step, and so a gap, gives several."""
    seconds, gaps = (sum(item.itl[place] for item in growths) for place in (0, 1))
    if gaps <= 0:
        return None
    if all(item.generated is not None for item in growths):
        later = sum((item.generated or 0.0) - item.ttft[1] for item in growths)
        if later > _SEVERAL_TOKENS * gaps:
            return seconds / later
    return seconds / gaps


def cached(growths: Iterable[Growth], input_tokens: float | None) -> float | None:
    """Input tokens per request that the prefix cache served: its share of all, of the mean."""
    share = mean([item.cached_tokens for item in growths])
    if share is None or input_tokens is None:
        return None
    return min(share, 1.0) * input_tokens


def preemptions(
    pages: list[PodMetrics], growth: Iterable[Growth], now: float, seconds: float
) -> float | None:
    """Preemptions of all pods per second; None where no pod reports them."""
    if all(page.preemptions is None for page in pages):
        return None
    items = list(growth)
    since = max(now - seconds, min(item.since for item in items))
    total = sum(item.preemptions for item in items)
    return total / (now - since) if now > since else 0.0
