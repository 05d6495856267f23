"""Checks of the adapter's inputs: its ConfigMaps, and Prometheus."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adapter.diagnostics.site import Finding, Site
from adapter.installation import (
    CONFIG_SUFFIX,
    DEFAULTS_SUFFIX,
    NEEDED_CONFIG_MAPS,
    READ_CONFIG_MAPS,
)
from adapter.kube import paths
from adapter.kube.errors import ApiError

if TYPE_CHECKING:
    from adapter.collector.instant_vector import InstantVector
    from adapter.collector.prometheus import PrometheusOptions
    from adapter.resources import inputs
    from adapter.resources.config_maps import ConfigMaps


async def config_maps(site: Site) -> AsyncIterator[Finding]:
    """Whether the ConfigMaps are there and can be read."""
    space = site.names.namespace
    present = await _present(site)
    absent = [
        name
        for name in NEEDED_CONFIG_MAPS
        if present.keys().isdisjoint({name, f"{name}{DEFAULTS_SUFFIX}"})
    ]
    for name in absent:
        yield Finding(
            "error",
            f"no ConfigMap {space}/{name}",
            "kubectl apply -f manifests/base/defaults.yaml",
        )
    if not present:
        return
    reader = _read(site, present)
    entries = reader.settings.setting_problems
    problems = [*reader.problems, *(str(entry) for entry in entries if not entry.unused)]
    for problem in problems:
        yield Finding("error", problem, "correct that field")
    unused = [str(entry) for entry in entries if entry.unused]
    for text in (*unused, *reader.settings.wva.unused):
        yield Finding("warning", text, "remove the key, or leave it for the other autoscaler")
    for text in _unmatched(reader.settings):
        yield Finding("warning", text, "correct the name, if it is to bound something")
    if not problems and not absent:
        yield Finding(
            "ok",
            f"{len(reader.settings.accelerators)} accelerators with costs,"
            f" {len(reader.settings.classes)} service classes",
        )


def _unmatched(settings: ConfigMaps) -> Iterator[str]:
    """Names in budgets that no row has: such a ceiling bounds nothing."""
    # The formats of budgets take their time to load.
    from adapter.planning.groups import EVERY  # noqa: PLC0415
    from adapter.settings.budgets import budgets  # noqa: PLC0415

    try:
        known = budgets(settings.data.get("budgets", ""))
    except ValueError:
        return
    accelerators = settings.accelerators.values()
    priced = {name for item in accelerators for name in (item.name, item.device_type)}
    classes = {item.name for item in settings.service_classes}
    for item in known:
        if item.scope == "class" and item.subject not in {EVERY, *classes}:
            yield f"data.budgets: {item.name}: no service class is called {item.subject!r}"
        for name in sorted(item.devices_by_type.keys() - priced):
            yield (
                f"data.budgets: {item.name}: quotas.{name}: is no accelerator or device of"
                " accelerator-unit-costs, and bounds only variants that price such a device by themselves"
            )


async def settings(site: Site) -> Mapping[str, str]:
    """Data of the adapter's own ConfigMap; empty where it cannot be read."""
    try:
        present = await _present(site)
    except ApiError:
        return {}
    return _read(site, present).settings.data if present else {}


async def _present(site: Site) -> dict[str, dict[str, Any]]:
    """The adapter's ConfigMaps by name."""
    items = await site.objects(paths.collection("v1", "configmaps", namespace=site.names.namespace))
    by_name = {str((item.get("metadata") or {}).get("name")): item for item in items}
    return {
        name: item
        for name, item in by_name.items()
        if name in READ_CONFIG_MAPS or name.endswith(CONFIG_SUFFIX)
    }


def _read(site: Site, present: Mapping[str, dict[str, Any]]) -> inputs.Reader:
    """What the adapter's ConfigMaps say."""
    # Schemas take long to load, and are needed only where there is an object to read.
    from adapter.resources import inputs  # noqa: PLC0415

    reader = inputs.Reader()
    for name, item in present.items():
        reader.read_config_map(f"ConfigMap {site.names.namespace}/{name}", item)
    return reader


async def prometheus(site: Site) -> AsyncIterator[Finding]:
    """Whether Prometheus answers and has the metrics of all models."""
    if site.prometheus is not None:
        models = {str((item.get("spec") or {}).get("modelID")) for item in await site.variants()}
        for finding in await of_prometheus(site.prometheus, models):
            yield finding


async def of_prometheus(options: PrometheusOptions, models: set[str]) -> list[Finding]:
    """Whether a Prometheus has the metrics of these models, with the labels that identify pods."""
    # Only installations with Prometheus need them.
    from adapter.collector import promql  # noqa: PLC0415
    from adapter.collector.prometheus import PrometheusError  # noqa: PLC0415

    try:
        # The expression of the control loop, so that doctor meets the same problems.
        answer = await _in_thread(lambda: _look_up(options, promql.fleet()), options)
    except PrometheusError as error:
        return [Finding("error", str(error), "check --prometheus and its TLS and token settings")]
    samples = promql.pods(answer.samples)
    where = f"Prometheus {options.shown_url}"
    findings = []
    if answer.warnings:
        problem = f"{where}: warnings in its answer: {len(answer.warnings)}"
        fix = "its answers may be incomplete; a query on its own page shows them"
        findings.append(Finding("warning", problem, fix))
    served = {item.model for item in samples}
    missing = sorted(models - served)
    if missing:
        findings.append(
            Finding(
                "error",
                f"{where} has no vLLM or SGLang metrics of {', '.join(missing)}; it has"
                f" {', '.join(sorted(served)) or 'none'}",
                "scrape the model servers with a PodMonitor, and set modelID to vLLM's --served-model-name",
            )
        )
    unlabeled = {item.model for item in samples if not (item.namespace and item.pod)}
    bare = sorted(unlabeled & models)
    if bare:
        findings.append(
            Finding(
                "warning",
                f"{where}: series of {', '.join(bare)} have no namespace or pod label",
                "scrape them with a PodMonitor: without these labels, variants of one model cannot be"
                " distinguished",
            )
        )
    if not findings:
        findings.append(Finding("ok", f"{where} has the metrics of all models"))
    return findings


def _look_up(options: PrometheusOptions, expression: str) -> InstantVector:
    # The library takes half a second to load, and only installations with Prometheus need it.
    from adapter.collector.lookups.prometheus_api import PrometheusApi  # noqa: PLC0415

    prometheus = PrometheusApi(options, retries=0)
    try:
        return prometheus.instant(expression)
    finally:
        prometheus.close()


async def _in_thread(
    look_up: Callable[[], InstantVector], options: PrometheusOptions
) -> InstantVector:
    """Await a look-up that blocks, for as long as a query may take.

    The library bounds each read, not the whole. The thread is a daemon, so that a response that never ends
    does not keep the process from ending.

    Raises:
        PrometheusError: no usable response within the deadline.

    """
    answered: concurrent.futures.Future[InstantVector] = concurrent.futures.Future()
    answered.set_running_or_notify_cancel()  # a deadline then leaves the thread's result unread

    def run() -> None:
        try:
            answered.set_result(look_up())
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            answered.set_exception(error)

    threading.Thread(target=run, name="query Prometheus", daemon=True).start()
    limit = options.timeout_seconds
    try:
        async with asyncio.timeout(limit):
            return await asyncio.wrap_future(answered)
    except TimeoutError as cause:
        reason = f"no response within {limit:g} s; is it up? --prometheus-timeout allows more"
        raise options.error(reason) from cause
