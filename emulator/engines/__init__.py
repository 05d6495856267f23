"""Engines in virtual time: one replica, how it batches requests and how long its steps take."""
