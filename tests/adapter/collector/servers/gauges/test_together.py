"""Both gauges of an address over restarts of its server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.plausibility import Plausibility
from tests.adapter.collector.servers.test_plausibility import page as plain

SECONDS, BATCH = 10.0, 64.0


def tgi(ended: float, gone: float, running: float) -> PodMetrics:
    """A page of TGI of whose prompts some are of clients that went away."""
    came = ended + gone + running
    return replace(
        plain(ended, running=running),
        prompt_tokens=(100 * came, came), ttft=(0.0, 0.0), itl=(0.0, 0.0), kv_cache=None,
    )  # fmt: skip


def triton(ended: float, gone: float, running: float) -> PodMetrics:
    """A page of Triton, likewise by its first tokens; nothing is known of its KV cache."""
    begun = ended + gone + running
    return replace(
        plain(ended, running=running), ttft=(0.05 * begun, begun), itl=(0.0, 0.0), kv_cache=None
    )


@pytest.mark.parametrize("server", [tgi, triton])
def test_what_is_in_service_after_a_restart_counts(
    server: Callable[[float, float, float], PodMetrics],
) -> None:
    """Clients went away by hundreds before; the first page after it is doubted: it was not read for long."""
    checks = Plausibility(interval=SECONDS)
    pages = [server(20.0 * at, 20.0 * at, 6.0) for at in range(12)]
    pages += [server(30.0 + 20.0 * at, 2.0, 6.0) for at in range(2)]
    pages += [server(70.0 + 20.0 * at, 2.0, 24.0) for at in range(8)]
    idle = []
    for at, one in enumerate(pages):
        verdict = checks.assess("a", one, now=SECONDS * at, started=None, batch=BATCH)
        assert bool(verdict.problem) == (at in {12, 13})
        idle.append(verdict.idle + verdict.left)
    assert idle == [0.0] * len(pages)
