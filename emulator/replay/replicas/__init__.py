"""Replicas of a scenario: the engine that serves, its start-up, and the profile for the policies."""
