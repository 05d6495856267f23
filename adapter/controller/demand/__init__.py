"""The load that a variant is sized for: its arrival rate, what waits, and what its gateway counts."""

from adapter.controller.demand.backlog import Queue, queues_up
from adapter.controller.demand.gateways import GatewayDemand, gateway_parts, variants_to_wake
from adapter.controller.demand.rates import RateSettings, SizingRate, sizing_rate, sudden_rise
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
    "dispersion",
    "exceeds_forecast",
    "expected",
    "gateway_parts",
    "moves",
    "queues_up",
    "record",
    "rising",
    "sizing_rate",
    "sudden_rise",
    "variants_to_wake",
]
