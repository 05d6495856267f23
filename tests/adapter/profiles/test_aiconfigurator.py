"""Estimates by aiconfigurator-core, where it is installed; its absence is said, with the fix."""

from __future__ import annotations

import importlib.util

import pytest

from adapter.profiles import aiconfigurator, catalog, finder

PRESENT = importlib.util.find_spec("aiconfigurator_core") is not None
needs_it = pytest.mark.skipif(not PRESENT, reason="aiconfigurator-core is not installed")


@pytest.mark.skipif(PRESENT, reason="aiconfigurator-core is installed")
def test_absence_names_the_extra() -> None:
    """Without the package every question says what to install."""
    with pytest.raises(aiconfigurator.UnavailableError, match=r"pip install '\.\[profile\]'"):
        aiconfigurator.bundled_models()


@needs_it
@pytest.mark.parametrize("name", ["Qwen/Qwen3-32B", "openai/gpt-oss-120b"])
def test_the_catalog_holds_what_it_estimates(name: str) -> None:
    """The generated file is of this version and of these queries."""
    query = aiconfigurator.query(name, "h100_sxm", "vllm", 2)
    estimate = aiconfigurator.estimate(query)
    model = catalog.find_model(name)
    assert model is not None
    raw = catalog._catalog()["estimated"][f"{model[0].key}|{model[1]}|H100-SXM|2"]
    assert catalog._step_times(raw).base_ms == pytest.approx(estimate.step_times.base_ms, rel=0.01)
    assert raw[7] == pytest.approx(estimate.memory.kv_bytes_per_token, rel=0.01)
    assert estimate.fit_error < 0.1


@needs_it
def test_what_is_not_in_the_catalog_is_estimated() -> None:
    """A model that only the package bundles gets a profile, and its source is named."""
    profile = finder.find(finder.ProfileRequest(model="Qwen/Qwen3-1.7B", gpu="H100"))
    assert profile.source == "aiconfigurator"
    assert 0 < profile.step_times.base_ms < 5


@needs_it
def test_what_nobody_knows_offers_names() -> None:
    """Neither the catalog nor the package knows the model."""
    with pytest.raises(finder.UnknownModelError, match="nearest"):
        finder.find(finder.ProfileRequest(model="google/gemma-3-27b-it", gpu="H100"))
