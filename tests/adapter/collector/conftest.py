"""What the tests with a real Prometheus share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes.prometheus_world import World, running_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A Prometheus, and all that it scrapes."""
    async with running_world(tmp_path_factory.mktemp("ports")) as started:
        yield started
