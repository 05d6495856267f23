"""What every test may ask for."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from emulator.demo import scenario
from tests.fakes.virtual_time import VirtualLoop

FIRST = (
    "security/test_planning_worker",
    "adapter/controller/test_chaos",
    "emulator/replay/test_command",
    "adapter/collector/test_real_prometheus_changes",
    "emulator/replay/test_report",
    "adapter/controller/groups/test_world",
    "analyzer/test_pooling",
    "adapter/commands/test_startup",
    "emulator/demo/test_demo",
    "analyzer/test_tuner",
    "security/objects/test_rows_and_variants",
    "adapter/ui/test_in_browser",
    "adapter/controller/test_learning",
    "fuzz/test_patterns",
    "emulator/replay/groups/test_groups",
    "emulator/replay/test_against_emulator",
    "adapter/collector/test_real_prometheus_series",
    "analyzer/test_capacity",
    "test_manifests",
    "security/test_delayed_writes",
    "emulator/replay/test_jobs",
    "emulator/replay/test_slo_feedback",
    "optimizer/placement/test_limits",
    "analyzer/fitting/test_step_fit",
    "adapter/app/test_configuration",
    "analyzer/test_single",
    "installation/test_chart",
    "adapter/collector/test_real_prometheus_load",
    "security/objects/test_odd_neighbours",
    "adapter/auth/test_delegated",
    "security/test_odd_objects",
    "adapter/commands/test_plan",
    "adapter/collector/transport/test_layouts",
    "security/test_many_variants",
    "adapter/controller/test_loop",
    "fuzz/test_parsers",
    "analyzer/engine/test_single",
    "adapter/app/test_program",
    "adapter/kube/test_leader_election",
    "adapter/commands/test_record",
    "emulator/replay/test_without_profile",
    "adapter/formats/test_request_history",
    "adapter/app/test_learned_state",
    "analyzer/engine/test_sharing",
    "adapter/app/test_replicas",
)
"""Modules that take longest, in the order in which they begin: about one of three waits for servers.

Processes take modules in this order, so that none is left alone with a long one at the end, and they do not
all wait at the same time.
"""

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules first that take longest."""
    places = {Path(__file__).parent / f"{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def _state_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Names of folders that are not there yet."""
    folder = tmp_path_factory.mktemp("state-homes")
    return (str(folder / str(number)) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_state_folder(monkeypatch: pytest.MonkeyPatch, _state_folders: Iterator[str]) -> None:
    """No test makes a folder that it does not use."""
    monkeypatch.setenv("XDG_STATE_HOME", next(_state_folders))


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
