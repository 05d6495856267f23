"""Where learning starts: the catalog by model, GPU and number of GPUs, else a wide prior."""

from __future__ import annotations

import dataclasses

import pytest

from adapter.controller.estimates import prior
from adapter.planning import fleet
from adapter.profiles import catalog
from adapter.resources.variant import VariantSource
from analyzer.latency import LatencyParameters

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
SOURCE = VariantSource(
    namespace="ns",
    name="v",
    model=LLAMA,
    service_class="Premium",
    profiles=(),
    targets=fleet.Targets(itl_ms=50),
    accelerator="H100",
    endpoints=(),
    replicas=1,
    gpus=1,
)


def of(**changes: object) -> prior.Prior:
    """Prior of the source with these changes."""
    return prior.of_source(dataclasses.replace(SOURCE, **changes))  # type: ignore[arg-type] # fields by name


def test_it_is_the_catalogs_entry() -> None:
    """Model, GPU and the pods' GPUs are known: its step times with its error, and its KV cache."""
    entry = catalog.lookup(LLAMA, "H100-SXM", 1)
    assert entry is not None
    prior = of()
    assert prior.latency == entry.step_times
    assert prior.error == entry.error
    assert prior.limits.kv_tokens == entry.memory.kv_tokens()
    assert "1 x H100-SXM" in prior.described


@pytest.mark.parametrize(
    ("accelerator", "device", "gpus", "tp"),
    [
        ("H100", "", None, 1),
        ("2xH100", "", None, 2),
        ("H100x4", "", None, 4),
        ("big", "NVIDIA-H100-80GB-HBM3", 2, 2),
        ("2 x big", "NVIDIA-H100-80GB-HBM3", 2, 2),
    ],
)
def test_gpu_and_number_are_read_from_what_there_is(
    accelerator: str, device: str, gpus: int | None, tp: int
) -> None:
    """The ConfigMap's device before the accelerator's name; the pods' number before the name's."""
    entry = catalog.lookup(LLAMA, "H100-SXM", tp)
    assert entry is not None
    prior = of(accelerator=accelerator, device=device, gpus=gpus)
    assert prior.latency == entry.step_times
    # What is assumed makes it wider.
    assert (prior.error > entry.error) == (gpus is None)


def test_a_model_too_large_for_one_gpu_gets_as_few_as_hold_it() -> None:
    """Nobody says how many GPUs: 70B in 16 bits is on more than one."""
    prior = of(model="meta-llama/Llama-3.1-70B-Instruct", gpus=None)
    assert prior.error > 0
    assert "1 x H100" not in prior.described


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "nobody/knows-7b"},
        {"accelerator": "abacus"},
        {"gpus": 0},
        {"gpus": 3},
    ],
    ids=str,
)
def test_what_the_catalog_does_not_have_gets_the_wide_prior(changes: dict[str, object]) -> None:
    """Unknown model or GPU, a slice of a GPU, or a number of GPUs that has no entry."""
    assert of(**changes) is prior.UNKNOWN


def test_a_profile_of_another_accelerator_is_none() -> None:
    """Rows for other accelerators leave this one without, if its cost says that it exists."""
    row = fleet.Profile(
        accelerator="A100",
        latency=LatencyParameters(alpha_ms=7.0, beta_ms=0.1, gamma_ms=0.0, delta_ms=0.0),
        max_batch=8,
    )
    other = dataclasses.replace(SOURCE, profiles=(row,), device="NVIDIA-H100-80GB-HBM3")
    assert prior.unprofiled(other)
    assert prior.current_profile(other) != row
    assert not prior.unprofiled(dataclasses.replace(other, device=""))
    assert not prior.unprofiled(dataclasses.replace(other, accelerator="A100"))
    assert prior.current_profile(dataclasses.replace(other, accelerator="")) is None
