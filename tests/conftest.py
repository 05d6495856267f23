"""What every test may ask for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from emulator.demo import scenario
from tests.fakes.virtual_time import VirtualLoop

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# A suite that a script starts in the background inherits an ignored SIGINT, and so do its programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On Python 3.11 asking for a loop that was never set makes one, which nobody closes: the plugin asks.
asyncio.set_event_loop(None)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of an async test: of virtual time where its marker says so."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def _own_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command sets up logging for its process, to a standard error that ends with its test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A folder with the demo's objects: ConfigMaps and one variant."""
    folder = tmp_path / "variants"
    scenario.write_objects(folder)
    return folder
