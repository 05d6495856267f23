"""Whether the counters of one page can follow from those of the page before it, compared with each other."""

from __future__ import annotations

from collections import deque
from itertools import islice, pairwise

from adapter.collector.model_servers import PodMetrics

TIMES_FINISHED, MORE = 4.0, 30.0
"""First tokens that are more than this many times those that ended, and as many more, are not requests whose
clients went away."""

_ROUNDING = 1e-9
"""Share of a sum within which it is the same: Prometheus adds up the series of a pod in any order."""

_SUMS = {
    "prompt_tokens": "input tokens",
    "generation_tokens": "output tokens",
    "ttft": "times to first token",
    "itl": "inter-token latencies",
}

_APART_SHARE, _STEPS = 0.02, 8.0
"""Tokens that may have a time and not be counted yet: share of those of a page that several processes write,
and number beside one of each request in service."""

_EXACT_SHARE, _EXACT = 0.02, 3.0
"""Share of requests, and number, by which two counts of the same ones may differ over several pages: what is
counted between two lines of a page, and `_STEPS` where several processes write it."""

_TIMES_TIMED, _TIMES_FINISHED = 1.1, 4.0
"""Times the tokens that were timed which ended requests may have had, and times the tokens of a usual one
that each in service may have had before."""

_APART = 4.0
"""Tokens by which counts of the same ones may differ over several pages of one process."""

_FIRST_TOKENS = 64.0
"""Tokens that may come with the first one of a request, without a time of their own: SGLang sends those of
requests that do not stream by fifties."""

_FASTER = 0.5
"""Share of the mean time between tokens that those take at least that come with the first one."""

_MANY = 20.0
"""Requests that ended, for each that is there, from which on untimed tokens of theirs show in the sums."""

_FEW_PAGES = (2, 4)
"""Pages, the last one included, over which tokens that are all timed are compared too."""

_ENDED_WITHOUT = 0.25
"""Share of requests that may end in an error: without a first token, where nothing else counts them, or
timed as one more token."""

_TIMES_BEGUN = 1.5
"""Tokens that are none after a gap, per first token, up to which each step gives one token."""

_PREFILLED = 0.25
"""Share of first tokens for which there must be tokens of prompts: who gives up may ask for less."""

_AT_ONCE, _FEW = 2.0, 3.0
"""Requests whose sum of tokens may be on a page before they are counted, and from which on it must be."""

_CAUGHT_UP = 0.7
"""Least share of what a counter lost, or that was lost of what it has, when it catches up."""

_LAG_SHARE, _TIMES_USUAL = 0.05, 2.0
"""Share of the requests that ended that may be without a first token by chance; and times the first tokens
of requests that neither ended nor run that pages had at once before: clients go away, a gauge may be late."""

COUNTERS = ("finished", "ttft", "itl", "generated", "generation_tokens")

AHEAD = "it counts {begun:.0f} first tokens for {ended:.0f} requests that ended: one of the two is wrong"
_LENGTHS = (
    "it has lengths of {measured:.0f} requests where {ended:.0f} ended: one of the two is wrong"
)
_TOKENS = "it has times of {counted:.0f} tokens where {generated:.0f} were generated: one of the two is wrong"
_BEHIND = "it counts {ended:.0f} requests that ended for {begun:.0f} first tokens: one of the two is wrong"
_LONG_REQUESTS = (
    "it counts {tokens:.0f} tokens a request, which its KV cache does not hold: is the unit right?"
)
_LATE = (
    "it counts {late:.0f} first tokens at once beside {missing:.0f} requests that had ended without one: they"
    " are of before"
)
_MORE_TOKENS = (
    "its requests that ended had {tokens:.0f} output tokens where {timed:.0f} were timed: one of the two is"
    " wrong"
)
_UNCOUNTED = "its sum of {what} grew though its count did not"
_UNSUMMED = "its count of {what} grew by {count:.0f} requests though their sum did not"
_SUM_FELL = "its sum of {what} fell though its process did not start anew"


def problem(before: PodMetrics, after: PodMetrics) -> str:
    """What contradicts on two pages of one process; empty for nothing.

    More requests ended than began or ran, many more began than ended or run, or a sum and its count do not
    go together.
    """
    if odd := _sums(before, after):
        return odd
    begun = after.ttft[1] - before.ttft[1]
    ended = after.finished - before.finished
    measured = after.generation_tokens[1] - before.generation_tokens[1]
    # What several processes write may be on some lines of a page first.
    none = ended == 0 and not _several(after)
    if measured > TIMES_FINISHED * max(ended, 0.0) + MORE or (none and measured >= _FEW):
        return _LENGTHS.format(measured=measured, ended=ended)
    if after.ttft[1] <= 0 and before.ttft[1] <= 0:
        counted = min(before.generation_tokens[1], measured) > 0
        beyond = counted and ended > TIMES_FINISHED * measured + MORE
        return _LENGTHS.format(measured=measured, ended=ended) if beyond else ""
    if _runs_ahead(before, after):
        return AHEAD.format(begun=begun, ended=ended)
    many = ended > TIMES_FINISHED * max(begun, 0.0) + before.stock + MORE
    if many and not _agree(before, after, ended=ended, measured=measured):
        return _BEHIND.format(begun=begun, ended=ended)
    return _more_than_generated(before, after, more=before.running + after.running + _STEPS)


def _sums(before: PodMetrics, after: PodMetrics) -> str:
    """Sums that fell or grew alone, and output tokens that did not grow though some were timed."""
    for name, what in _SUMS.items():
        (total, count), (was, number) = getattr(after, name), getattr(before, name)
        if count >= number and total < was * (1.0 - _ROUNDING):
            return _SUM_FELL.format(what=what)
        if count == number > 0 and total - was > _AT_ONCE * was / number:
            return _UNCOUNTED.format(what=what)
    (total, count), (was, number) = after.generation_tokens, before.generation_tokens
    # Requests of embeddings and scores have none, and those that were given up in the queue.
    timed = (after.itl[1] - before.itl[1]) * number >= (count - number) * was
    if was > 0 and count - number >= _FEW and total == was and timed:
        return _UNSUMMED.format(what=_SUMS["generation_tokens"], count=count - number)
    return ""


def _runs_ahead(before: PodMetrics, after: PodMetrics) -> bool:
    """Whether there are more first tokens than of requests that ended, are served, or were given up.

    Many may be given up where as many tokens were generated as there were first ones and gaps to a next one.
    Where a step gives several tokens, that is not known; the prompts that were prefilled say it then. Neither
    is where tokens are not counted as they come.
    """
    begun = after.ttft[1] - before.ttft[1]
    ended = max(after.finished - before.finished, 0.0)
    if begun <= TIMES_FINISHED * (ended + max(after.running - before.running, 0.0)) + MORE:
        return False
    if after.generated is None:
        return True
    first_ones = after.generated - (before.generated or 0.0) - (after.itl[1] - before.itl[1])
    # A request that ends in an error has a gap without a token.
    apart = _STEPS + _ENDED_WITHOUT * ended
    apart += before.running + after.running if _several(after) else 0.0
    if begun - apart <= first_ones <= _TIMES_BEGUN * begun + apart:
        return False
    return not (first_ones >= begun - apart and _prefilled(before, after) >= _PREFILLED * begun)


def _prefilled(before: PodMetrics, after: PodMetrics) -> float:
    """Prompts that were prefilled, by their tokens and the usual length of those that ended."""
    tokens, ended = after.prompt_tokens
    prefilled = after.cached_tokens[1] - before.cached_tokens[1]
    return prefilled * ended / tokens if tokens > 0 else 0.0


def _several(page: PodMetrics) -> bool:
    """Whether several processes of vLLM may write a page: it has no start of one."""
    return page.started_at is None and page.generated is not None


def over_pages(pages: deque[PodMetrics], *, timed: bool) -> str:
    """What contradicts on the last of these pages of one process and the first; empty for nothing.

    What may differ between two pages by chance adds up over several where it is wrong. A gauge that is of
    some seconds before may miss on one page those that have just begun: the second page has to say so too.
    `timed`: whether the server times the tokens of all requests.
    """
    queued = any(page.waiting > 0 for page in pages)
    firsts = islice(pages, 2 if pages[-1].idle_seconds > 0 else 1)
    odds = [_over(first, pages[-1], timed=timed, queued=queued) for first in firsts]
    if all(odds):
        return odds[0]
    # Where all tokens were timed, few pages say of them what many do.
    known = [_in_service_had(it) for it in pages if it.finished >= _MANY * (it.stock + 1.0)]
    had = max(known, default=-1.0)
    for back in _FEW_PAGES:
        if timed and had >= 0 and len(pages) >= back:
            first = pages[-back]
            most = max(had, _in_service_had(first))
            if odd := _more_than_timed(first, pages[-1], had=most):
                return odd
    return ""


def _over(first: PodMetrics, last: PodMetrics, *, timed: bool, queued: bool) -> str:
    """As `over_pages`. `queued`: whether requests waited, so that some may have been given up then."""
    begun, ended = last.ttft[1] - first.ttft[1], last.finished - first.finished
    if begun < 0 or ended < 0:
        return ""  # it began anew in between
    if _runs_ahead(first, last):
        return AHEAD.format(begun=begun, ended=ended)
    # Who ended had begun, but for errors.
    measured = last.generation_tokens[1] - first.generation_tokens[1]
    most_ended = (1.0 + _ENDED_WITHOUT) * begun + first.running + _STEPS
    known = first.ttft[1] > 0 and not queued
    agree = _agree(first, last, ended=ended, measured=measured)
    if known and not agree and ended > most_ended:
        return _BEHIND.format(begun=begun, ended=ended)
    # Of several processes that write a page each may be as far apart as at one page.
    several = _several(last)
    apart = _STEPS if several else _EXACT
    counted = min(first.generation_tokens[1], last.generation_tokens[1]) > 0
    # Triton counts requests that were given up as failed, and their lengths.
    most = (1.0 + _EXACT_SHARE if _own_lengths(last) else _TIMES_FINISHED) * ended + apart
    if counted and (ended > (1.0 + _EXACT_SHARE) * measured + apart or measured > most):
        return _LENGTHS.format(measured=measured, ended=ended)
    if timed and (odd := _more_than_timed(first, last)):
        return odd
    # A request that ends in an error has a gap without a token.
    more = _STEPS + first.running + last.running if several else _APART
    more += _ENDED_WITHOUT * ended
    return _more_than_generated(first, last, more=more)


def late(pages: deque[PodMetrics], before: PodMetrics, after: PodMetrics) -> str:
    """Whether a page counts first tokens of requests that had ended before; empty where not, or not known.

    A counter that lags catches up at once: as many requests ended without a first token over these `pages`.
    """
    if not pages or after.generated is not None or pages[0].ttft[1] <= 0:
        return ""
    # A gauge that is of some seconds before may miss on one page what has just begun.
    missing = min(
        before.finished - one.finished - (before.ttft[1] - one.ttft[1]) - one.running
        for one in islice(pages, 2)
    )
    at_once = _nowhere(before, after)
    by_chance = _EXACT + _LAG_SHARE * (before.finished - pages[0].finished)
    if missing <= by_chance or not (
        _CAUGHT_UP * missing <= at_once <= missing / _CAUGHT_UP + before.running
    ):
        return ""
    usual = max((_nowhere(one, other) for one, other in pairwise(pages)), default=0.0)
    return _LATE.format(late=at_once, missing=missing) if at_once > _TIMES_USUAL * usual else ""


def _nowhere(before: PodMetrics, after: PodMetrics) -> float:
    """First tokens beyond requests that ended and those that run now and did not."""
    begun = after.ttft[1] - before.ttft[1] - max(after.finished - before.finished, 0.0)
    return begun - max(after.running - before.running, 0.0)


def _own_lengths(page: PodMetrics) -> bool:
    """Whether a server counts a request that ends and its lengths at once, as two series.

    Those without times to first token are TGI; Triton has these, and no times of later tokens.
    """
    return page.generated is not None or page.itl[1] > 0 or page.ttft[1] <= 0


def _agree(first: PodMetrics, last: PodMetrics, *, ended: float, measured: float) -> bool:
    """Whether requests that ended and those with lengths are as many, which two counts are not by a fault.

    Then the difference to first tokens is of errors, or first tokens are what is wrong. Errors have no output
    tokens: where more tokens ended than were generated, the page counts both at one event, twice. SGLang and
    trtllm-serve have one series for both.
    """
    apart = _EXACT_SHARE * ended + (_STEPS if _several(last) else _EXACT)
    if last.generated is None or measured <= 0 or abs(ended - measured) > apart:
        return False
    generated, tokens = first.generated or 0.0, first.generation_tokens[0]
    # Those in service at first had tokens before.
    most = max(generated - tokens, 0.0) + (1.0 + _EXACT_SHARE) * (last.generated - generated)
    grown = last.generation_tokens[0] - tokens
    return grown <= most + grown / measured


def _in_service_had(page: PodMetrics) -> float:
    """Tokens of those in service where all of ended requests had a time; negative where some had none."""
    return page.itl[1] + page.ttft[1] - page.generation_tokens[0]


def _more_than_timed(first: PodMetrics, last: PodMetrics, *, had: float = -1.0) -> str:
    """Whether requests that ended had more tokens than were timed, on pages without what was generated.

    Requests that were in service at first have tokens of the time before: what was timed until then, and is
    not of requests that had ended; `had` where that is known, as all tokens were timed.
    """
    if first.generated is not None or min(first.itl[1], first.generation_tokens[1]) <= 0:
        return ""
    tokens = last.generation_tokens[0] - first.generation_tokens[0]
    begun, gaps = max(last.ttft[1] - first.ttft[1], 0.0), last.itl[1] - first.itl[1]
    with_time = gaps + begun
    untimed = _FIRST_TOKENS * begun
    if had < 0:
        mean = first.generation_tokens[0] / first.generation_tokens[1]
        had = max(_in_service_had(first), _TIMES_FINISHED * mean * (first.running + 1.0))
    elif gaps > 0 and (seconds := last.itl[0] - first.itl[0]) > 0:
        # Those that come with a first one take the time to it.
        untimed = min(untimed, (last.ttft[0] - first.ttft[0]) / (_FASTER * seconds / gaps))
    had += _APART + untimed
    if tokens > _TIMES_TIMED * with_time + had:
        return _MORE_TOKENS.format(tokens=tokens, timed=with_time)
    return ""


def beyond_reach(before: PodMetrics, after: PodMetrics) -> str:
    """What no engine can have done between two pages; empty for nothing."""
    tokens = after.generation_tokens[0] - before.generation_tokens[0]
    ended = after.generation_tokens[1] - before.generation_tokens[1]
    prompts, came = (
        of - was for of, was in zip(after.prompt_tokens, before.prompt_tokens, strict=True)
    )
    # Some servers count prompts as they come.
    length = tokens / max(ended, 1.0) + prompts / max(came, 1.0)
    held = after.kv_tokens or 0.0
    if held > 0 and ended > 0 and length > held:
        return _LONG_REQUESTS.format(tokens=length)
    return ""


def _more_than_generated(before: PodMetrics, after: PodMetrics, *, more: float) -> str:
    """Whether more tokens had a time than were generated; empty where that is not so, or not known.

    Each first token and each gap to a next one is of one token; steps that verify drafts have fewer. Servers
    of embeddings generate none, and have a time to the first.
    """
    generated = (after.generated or 0.0) - (before.generated or 0.0)
    if before.generated is None or after.generated is None or generated <= 0:
        return ""
    # A server that runs requests and has generated no more than ended ones got counts tokens as requests end,
    # which llm-d-inference-sim does, and times them as they come.
    if after.running > 0 and after.generated <= after.generation_tokens[0]:
        return ""
    counted = sum(
        max(of[1] - was[1], 0.0) for of, was in ((after.ttft, before.ttft), (after.itl, before.itl))
    )
    # Where several processes write a page, it has no start of one, and its parts are of different moments.
    share = _APART_SHARE if after.started_at is None else 0.0
    if counted > (1.0 + share) * generated + more:
        return _TOKENS.format(counted=counted, generated=generated)
    return ""
