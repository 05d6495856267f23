"""Variants of one model that share its demand: mixes of least cost, for policies that know the traffic."""
