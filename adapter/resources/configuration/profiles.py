"""Profiles of a variant, and the accelerator that its replicas run on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.annotations import ACCELERATOR_LABEL
from adapter.resources.configuration.indexed import Prices
from adapter.resources.configuration.last_good import MissingRowError
from adapter.resources.configuration.rows import devices_in
from adapter.resources.devices.products import alike, chips
from adapter.resources.stored_status import Published
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes

DEFAULT_COST = 10.0
"""Cost of a replica of an object of 2026 that names no price, cents per hour: that of its own CRD."""


def accelerators_of(
    variant: schemas.VariantAutoscaling, published: Published | None = None
) -> tuple[str, ...]:
    """Accelerators that a variant names: those of its profiles, else that of its label.

    Without a profile that of its last decision is one: the label may have a device, or the pods alone.
    """
    if variant.spec.profile is not None:
        return tuple(item.accelerator for item in variant.spec.profile.accelerators)
    label = variant.metadata.labels.get(ACCELERATOR_LABEL)
    last = published.accelerator if published is not None else ""
    return tuple(filter(None, (label, last)))


def devices_of(
    variant: schemas.VariantAutoscaling, products: Sequence[str], published: Published | None
) -> tuple[str, ...]:
    """What may be the device of a variant's accelerator: its label, and the GPU `products` of its pods.

    Empty for one without a decision, `published`, which could become one for another accelerator.
    """
    if variant.spec.profile is not None or published is None:
        return ()
    label = variant.metadata.labels.get(ACCELERATOR_LABEL, "")
    return (label,) if label else tuple(products)


def of_spec(
    spec: schemas.VariantAutoscalingSpec,
    accelerators: Prices,
    broken: Mapping[str, str],
    named: Sequence[str] = (),
) -> tuple[tuple[fleet.Profile, ...], list[str]]:
    """Profiles on accelerators that have a price, and what is left out, one line each.

    Args:
        spec: of the variant.
        accelerators: those with a price, by name.
        broken: what is wrong with rows that have none, by name.
        named: accelerators that the variant names.

    Raises:
        MissingRowError: none is left, or it has none and the row of its accelerator cannot be read.

    """
    profiles: list[fleet.Profile] = []
    warnings: list[str] = []
    if spec.profile is None:
        # Its own price is for an accelerator without a row.
        for name in named:
            if name in broken and name not in accelerators:
                raise MissingRowError(
                    f"accelerator {name!r}: its row cannot be read: {broken[name]}"
                )
        return (), []
    for index, item in enumerate(spec.profile.accelerators):
        field = f"spec.modelProfile.accelerators[{index}].acc"
        if item.accelerator not in accelerators:
            name = item.accelerator
            warnings.append(
                f"{field}: accelerator {name!r} has no cost; left out. Its row cannot be read: {broken[name]}"
                if name in broken
                else f"{field}: accelerator {name!r} has no cost; left out. Add it to ConfigMap"
                f" accelerator-unit-costs, which has {accelerators.listing}"
            )
            continue
        if any(item.accelerator == profile.accelerator for profile in profiles):
            warnings.append(f"{field}: {item.accelerator!r} is listed twice; the first one counts")
            continue
        profiles.append(_profile(item))
    if not profiles:
        raise MissingRowError("; ".join(warnings))
    return tuple(profiles), warnings


def accelerator(
    variant: schemas.VariantAutoscaling,
    given: Sequence[fleet.Profile],
    accelerators: Prices,
    *,
    products: Sequence[str] = (),
    gpus: int | None = None,
    published: Published | None = None,
) -> tuple[str, fleet.Accelerator | None]:
    """Accelerator that the replicas run on, empty if unknown; and one that only the variant prices.

    It is that of the label, by its name or device, else of the only profile, else the one whose device the
    pods' GPU product is, else one at `spec.variantCost`, else the only one that has a price; of an object of
    2026 else one at `DEFAULT_COST`.

    Args:
        variant: the object.
        given: its profiles.
        accelerators: accelerators with a price.
        products: GPU products that its pods ask for or run on.
        gpus: whole GPUs of one replica; 0 or None where that is not known.
        published: its last decision, whose accelerator stays while no pod says another one.

    Raises:
        MissingRowError: it has to be known, as there is no profile, and is not; or it may be another one
            than it was only because prices are not known.

    """
    last = "" if published is None else published.accelerator
    label = variant.metadata.labels.get(ACCELERATOR_LABEL, "")
    if given:
        _refuse_gone(variant, accelerators, published)
        label = _meant(label, [item.accelerator for item in given], accelerators)
        return label or (given[0].accelerator if len(given) == 1 else ""), None
    if label in accelerators:
        return label, None
    name, own = _unprofiled(
        variant, label, accelerators, products=products, gpus=gpus, published=last
    )
    priced_itself = own is not None and _OWN.fullmatch(last)
    # From one row to another is a change of the pods or the label, whatever is wrong with a third.
    known = {name, last} <= accelerators.keys() or last in {"", name}
    if accelerators.unread and not known and not priced_itself:
        why = f"accelerator {last!r} of its last decision: {accelerators.unread}"
        raise MissingRowError(why)
    return name, own


def _refuse_gone(
    variant: schemas.VariantAutoscaling, accelerators: Prices, published: Published | None
) -> None:
    """Raise MissingRowError where the last decision was for a profile that only lacks its price now.

    So after a restart: its replicas run on that accelerator, which those of the other profiles are not.
    """
    if published is None or variant.spec.profile is None:
        return
    last = published.accelerator
    named = (item.accelerator for item in variant.spec.profile.accelerators)
    unchanged = published.generation == variant.metadata.generation
    if last not in accelerators and last in named and (accelerators.unread or unchanged):
        raise MissingRowError(
            f"accelerator {last!r} of its last decision: {accelerators.unread or 'its row is gone'};"
            " restore it in ConfigMap accelerator-unit-costs, or remove its profile"
        )


def _unprofiled(
    variant: schemas.VariantAutoscaling,
    label: str,
    accelerators: Prices,
    *,
    products: Sequence[str],
    gpus: int | None,
    published: str,
) -> tuple[str, fleet.Accelerator | None]:
    """As `accelerator`, without a profile; `label`: no name of a row."""
    label = accelerators.meant(label)
    if label in accelerators:
        return label, None
    seen = {name for product in products for name in accelerators.alike(product)}
    if not label and len(seen) == 1:
        return seen.pop(), None
    device = label or (products[0] if products else "")
    if variant.spec.variant_cost is not None:
        own = _priced_itself(device, gpus, variant.spec.variant_cost, published)
        return own.name, own
    if not label and accelerators.only:
        return accelerators.only, None
    guessed = not published or _OWN.fullmatch(published) is not None
    if prices_itself(variant) and guessed and not (label or seen or accelerators.unread):
        own = _priced_itself(device, gpus, DEFAULT_COST, published)
        return own.name, own
    why = f"its value {label!r} has no cost" if label else "it is not set"
    if products and not label:
        kinds = f"GPUs are of several kinds ({', '.join(products)})"
        why += (
            f", and the pods' {kinds if len(seen) > 1 else f'GPU {products[0]} is no device there'}"
        )
    raise MissingRowError(
        "spec.modelProfile: not given, so metadata.labels"
        f"[{ACCELERATOR_LABEL}] must name the accelerator that the replicas run on, and {why}; set it to"
        f" a key of ConfigMap accelerator-unit-costs, which has {accelerators.listing}, or give a"
        " profile or spec.variantCost"
    )


def prices_itself(variant: schemas.VariantAutoscaling) -> bool:
    """Whether a variant without a row may be priced by its own cost, or by what its CRD had for it."""
    spec = variant.spec
    return spec.profile is None and (spec.variant_cost is not None or spec.scale_target is not None)


def _priced_itself(device: str, gpus: int | None, cost: float, published: str) -> fleet.Accelerator:
    """The accelerator of a variant at that cost: the device that it or its pods name, else that of before."""
    last = None if device else _last(published, cost)
    # The number in a status counts only where neither pods nor a template say one.
    device = last.device_type if last is not None and gpus else device
    own = _own(device, gpus, cost) if device else last
    return own or _own("unknown", gpus, cost)


def _meant(label: str, names: Sequence[str], accelerators: Mapping[str, fleet.Accelerator]) -> str:
    """The one of `names` that a label means: in other case, or by its device, as nodes are labelled."""
    if not label or label in names:
        return label
    same = [name for name in names if name.lower() == label.lower()]
    of_device = [
        name
        for name in names
        if name in accelerators and alike(accelerators[name].device_type, label)
    ]
    meant = same or of_device
    return meant[0] if len(meant) == 1 else label


_FAMILY = re.compile(r"g?[abhltv]\d{1,3}s?|mi\d{3}[a-z]?")
"""Chips of NVIDIA and AMD that everybody spells alike; `trn2` is `Trainium2` too, `RTX6000` `RTX-6000`."""


def _families(name: str) -> frozenset[str]:
    return frozenset(chip for chip in chips(name) if _FAMILY.fullmatch(chip))


def others(products: Sequence[str], unit: fleet.Accelerator | None) -> tuple[str, ...]:
    """What is wrong where pods have GPUs of another chip than that of the accelerator they count as."""
    own = frozenset[str]() if unit is None else _families(unit.device_type)
    wrong = [name for name in products if own and (has := _families(name)) and own.isdisjoint(has)]
    if unit is None or not wrong:
        return ()
    kind = f"{', '.join(wrong)}, and count as {unit.name} ({unit.device_type})"
    text = (
        f"its pods ask for or run on {kind}: set metadata.labels[{ACCELERATOR_LABEL}] to what they have, and"
        " give GPUs of each kind a workload and a variant of their own"
    )
    return (text,)


def units(
    profiles: Sequence[fleet.Profile],
    accelerator: str,
    *,
    own: fleet.Accelerator | None,
    gpus: int | None,
) -> int:
    """Units of an accelerator that one replica holds; 0 of one that it has no profile for.

    Without any profile they are as many as have the GPUs that its pods request. One that only the variant
    prices is a whole replica.
    """
    if profiles:
        counts = (item.accelerator_count for item in profiles if item.accelerator == accelerator)
        return next(counts, 0)
    if own is not None and own.name == accelerator:
        return 1
    return -(-(gpus or 1) // devices_in(accelerator))


_OWN = re.compile(r".+@[0-9.e+-]+")
_SEVERAL = re.compile(r"([0-9]{1,4})x(.+)")


def _own(device: str, gpus: int | None, cost: float) -> fleet.Accelerator:
    """The accelerator of a variant that prices its replicas: all GPUs of one together."""
    number = gpus or 1
    # A label such as `9999xH100` says no number: what the pods hold counts.
    plain = number == 1 and _SEVERAL.fullmatch(device) is None
    return _called(device if plain else f"{number}x{device}", cost)


def _called(gpus: str, cost: float) -> fleet.Accelerator:
    """The accelerator of `GPUS@PRICE`: its number and device are those that the name says.

    Another tenant's variant may have one of the same name, by its label too, and both are looked up by it.
    """
    form, price = _SEVERAL.fullmatch(gpus), f"{cost:g}"
    number, device = (int(form[1]), form[2]) if form else (0, gpus)
    return fleet.Accelerator(
        name=f"{gpus}@{price}",
        device_type=device if number else gpus,
        unit_cost=float(price),
        multiplicity=number or 1,
    )


def _last(published: str, cost: float) -> fleet.Accelerator | None:
    """What the last decision was for, where it has that price: without a pod nothing says it anew."""
    gpus, _, price = published.rpartition("@")
    return _called(gpus, cost) if gpus and price == f"{cost:g}" else None


def renamed(published: Published | None, own: fleet.Accelerator | None) -> Published | None:
    """A decision for an accelerator of this price and device, of which the count of GPUs was not known."""
    last = None if published is None or own is None else _last(published.accelerator, own.unit_cost)
    if published is None or own is None or last is None or last.device_type != own.device_type:
        return published
    return replace(published, accelerator=own.name)


def _profile(item: schemas.AcceleratorProfile) -> fleet.Profile:
    """Profile of one accelerator, in whichever forms it is given."""
    engine = item.engine
    return fleet.Profile(
        accelerator=item.accelerator,
        accelerator_count=item.accelerator_count,
        max_batch=item.max_batch or (0 if engine is None else engine.max_num_seqs),
        at_tokens=item.at_tokens,
        at_input_tokens=item.at_input_tokens,
        latency=_latency(item.parameters),
        limits=None
        if engine is None
        else EngineLimits(
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            kv_tokens=engine.kv_tokens,
        ),
    )


def _latency(given: schemas.PerformanceParameters) -> LatencyParameters | StepTimes:
    """Step times where they are given, else decode and prefill times."""
    if given.step is not None:
        return StepTimes(
            base_ms=given.step.base,
            per_request_ms=given.step.per_request,
            per_sqrt_request_ms=given.step.per_sqrt_request,
            per_prefill_token_ms=given.step.per_prefill_token,
            per_context_token_ms=given.step.per_context_token,
            per_prompt_ms=given.step.per_prompt,
        )
    assert given.decode is not None  # noqa: S101 - the schema requires one of the two
    return LatencyParameters(
        alpha_ms=given.decode.alpha,
        beta_ms=given.decode.beta,
        gamma_ms=given.prefill.gamma,
        delta_ms=given.prefill.delta,
    )
