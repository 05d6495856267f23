"""The load that a variant is sized for: its arrival rate, what waits, and what its gateway counts."""

from adapter.controller.demand.backlog import Queue, expected_waiting, queues_up
from adapter.controller.demand.gateways import (
    GatewayDemand,
    credible,
    gateway_parts,
    variants_to_wake,
)
from adapter.controller.demand.rates import (
    RateSettings,
    SizingRate,
    rises_certainly,
    rises_suddenly,
    sizing_rate,
)
from adapter.controller.demand.trend import (
    dispersion,
    exceeds_forecast,
    expected,
    moves,
    record,
    rising,
)

__all__ = [
    "GatewayDemand",
    "Queue",
    "RateSettings",
    "SizingRate",
    "credible",
    "dispersion",
    "exceeds_forecast",
    "expected",
    "expected_waiting",
    "gateway_parts",
    "moves",
    "queues_up",
    "record",
    "rises_certainly",
    "rises_suddenly",
    "rising",
    "sizing_rate",
    "variants_to_wake",
]
