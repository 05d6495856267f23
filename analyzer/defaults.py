"""Default parameters of the model, for those who need the number and not the model (which loads scipy)."""

from __future__ import annotations

STABILITY_MARGIN = 0.1
"""Default share of mu(max_batch) that stays free, so that noise in the arrivals finds room."""

HEADROOM = 0.05
"""Default share of an engine's largest rate that is kept free: a replica beyond its capacity misses its SLO
at once, while spare capacity only costs."""
