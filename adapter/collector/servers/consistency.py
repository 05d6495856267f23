"""Whether the counters of one page can follow from those of the page before it, compared with each other."""

from __future__ import annotations

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

AHEAD = "it counts {begun:.0f} first tokens for {ended:.0f} requests that ended: one of the two is wrong"
_LENGTHS = (
    "it has lengths of {measured:.0f} requests where {ended:.0f} ended: one of the two is wrong"
)
_TOKENS = "it has times of {counted:.0f} tokens where {generated:.0f} were generated: one of the two is wrong"
_BEHIND = "it counts {ended:.0f} requests that ended for {begun:.0f} first tokens: one of the two is wrong"
_SUM_FELL = "its sum of {what} fell though its process did not start anew"


def problem(before: PodMetrics, after: PodMetrics) -> str:
    """What contradicts on two pages of one process; empty for nothing.

    More requests ended than began or ran, many more began than ended or run, or a sum fell and its count did
    not.
    """
    for name, what in _SUMS.items():
        (total, count), (was, number) = getattr(after, name), getattr(before, name)
        if count >= number and total < was * (1.0 - _ROUNDING):
            return _SUM_FELL.format(what=what)
    begun = after.ttft[1] - before.ttft[1]
    ended = after.finished - before.finished
    measured = after.generation_tokens[1] - before.generation_tokens[1]
    if measured > TIMES_FINISHED * max(ended, 0.0) + MORE:
        return _LENGTHS.format(measured=measured, ended=ended)
    if after.ttft[1] <= 0 and before.ttft[1] <= 0:
        return ""
    served = max(ended, 0.0) + max(after.running - before.running, 0.0)
    if begun > TIMES_FINISHED * served + MORE:
        return AHEAD.format(begun=begun, ended=ended)
    if ended > TIMES_FINISHED * max(begun, 0.0) + before.stock + MORE:
        return _BEHIND.format(begun=begun, ended=ended)
    return _more_than_generated(before, after)


def _more_than_generated(before: PodMetrics, after: PodMetrics) -> str:
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
    if counted > (1.0 + share) * generated + before.running + after.running + _STEPS:
        return _TOKENS.format(counted=counted, generated=generated)
    return ""
